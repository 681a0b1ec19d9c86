"""Images and labels as they are read from files, and what is said about files that cannot be used."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.io import write_jpeg, write_png

from classmix_core.data.image_io import image_files, read_image, read_label
from classmix_core.errors import DataError
from tests.conftest import random_image, random_label
from tests.trees import GREY, PALETTE, RGB, write_raw_png

HEIGHT, WIDTH = 5, 7


def test_a_grey_image_is_read_as_rgb(tmp_path: Path) -> None:
    grey = random_label(1, HEIGHT, WIDTH, 30)
    write_png(grey, str(tmp_path / "grey.png"))
    image = read_image(tmp_path / "grey.png")
    assert torch.equal(image, grey.expand(3, -1, -1))


def test_a_16_bit_image_is_rounded_to_8_bits(tmp_path: Path) -> None:
    pixels = np.arange(65536).reshape(128, 512)[..., None].repeat(3, 2)
    write_raw_png(tmp_path / "deep.png", pixels, RGB, 16)
    image = read_image(tmp_path / "deep.png")
    assert image.dtype == torch.uint8
    assert np.array_equal(image.permute(1, 2, 0), (pixels * 255 + 32767) // 65535)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_an_image_is_turned_upright_as_its_exif_says(orientation: int, suffix: str, tmp_path: Path) -> None:
    path, exif = tmp_path / f"photo.{suffix}", Image.Exif()
    exif[0x0112] = orientation
    pixels = random_image(orientation, HEIGHT, WIDTH).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(path) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored)).astype(int)
    image = read_image(path)
    assert image.shape == (3, HEIGHT, WIDTH) if orientation < 5 else (3, WIDTH, HEIGHT)
    difference = np.abs(image.permute(1, 2, 0).numpy() - expected)
    assert difference.max() <= (2 if suffix == "jpg" else 0), "two decoders of JPEG may differ in their rounding"


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0garbage", b"II*\0", b"MM\0*\0\0\0\x08\0\x05\x01\x12"])
def test_a_webp_image_with_damaged_exif_data_is_read_as_it_is_stored(exif: bytes, tmp_path: Path) -> None:
    pixels = random_image(3, HEIGHT, WIDTH).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "x.webp", lossless=True, exif=exif)
    assert np.array_equal(read_image(tmp_path / "x.webp").permute(1, 2, 0), pixels)


@pytest.mark.parametrize("kind", [GREY, PALETTE])
def test_a_label_is_the_grey_value_or_the_palette_index(kind: int, tmp_path: Path) -> None:
    pixels = np.arange(10).reshape(2, 5)
    write_raw_png(tmp_path / "label.png", pixels, kind, 8)
    label = read_label(tmp_path / "label.png")
    assert label.dtype == torch.uint8
    assert label.tolist() == pixels.tolist()


def test_images_are_found_in_all_formats_below_the_folder_sorted(tmp_path: Path) -> None:
    (tmp_path / "deep/er").mkdir(parents=True)
    for name in ("b.JPG", "a.png", "deep/c.jpeg", "deep/er/d.webp", "notes.txt", "deep/e.tif"):
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in image_files(tmp_path)]
    assert found == ["a.png", "b.JPG", "deep/c.jpeg", "deep/er/d.webp"]


def test_hidden_files_are_no_images_and_linked_folders_are_looked_into(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "elsewhere").mkdir()
    for path in ("images/b.png", "images/._b.png", "elsewhere/a.JPG"):
        (tmp_path / path).touch()
    (tmp_path / "images/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images/again").symlink_to(".")
    images = tmp_path / "images"
    assert image_files(images) == [images / "b.png", images / "linked/a.JPG"]


def test_a_moving_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    frames = [Image.new("L", (9, 8), value) for value in (0, 200)]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(
        DataError, match=re.escape(f"{path}: must be a readable JPEG, PNG or WebP image, but got a mov")
    ):
        read_image(path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'no'}: the folder must exist.")):
        image_files(tmp_path / "no")


def test_a_folder_without_an_image_is_named_with_the_formats(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").touch()
    expected = f"{tmp_path}: must hold at least one image (.jpg, .jpeg, .png, .webp), but holds none."
    with pytest.raises(DataError, match=re.escape(expected)):
        image_files(tmp_path)


def damaged(kind: str, image: Tensor, path: Path) -> None:
    if kind == "text":
        path.write_text("no image at all")
    elif kind == "empty":
        path.touch()
    else:
        (write_png if kind == "cut png" else write_jpeg)(image, str(path))
        path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize("kind", ["text", "empty", "cut png", "cut jpeg"])
def test_a_damaged_image_is_named_with_the_reason(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.png"
    damaged(kind, random_image(0, 20, 30), path)
    expected = re.escape(f"{path}: must be a readable JPEG, PNG or WebP image, but got: ")
    with pytest.raises(DataError, match=f"^{expected}[^\n]+[^.]\\.$"):
        read_image(path)


@pytest.mark.parametrize(
    ("kind", "bits", "found"),
    [(RGB, 8, "3 channel(s) of 8 bits"), (GREY, 16, "1 channel(s) of 16 bits"), (PALETTE, 1, "channel(s) of 1 bits")],
)
def test_a_label_that_is_not_one_byte_a_pixel_is_refused_with_what_it_is(
    kind: int, bits: int, found: str, tmp_path: Path
) -> None:
    pixels = np.ones((3, 8, 3) if kind == RGB else (3, 8), int)
    path = tmp_path / "label.png"
    write_raw_png(path, pixels, kind, bits)
    rule = "a label must be a PNG of 1 channel of 8 bits, grey or palette, but got "
    with pytest.raises(DataError, match=re.escape(f"{path}: {rule}") + ".*" + re.escape(found)):
        read_label(path)


def test_a_label_that_is_a_jpeg_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "label.png"
    write_jpeg(random_label(0, 9, 13, 30), str(path))
    with pytest.raises(DataError, match=re.escape(f"{path}: a label must be a PNG file.")):
        read_label(path)
