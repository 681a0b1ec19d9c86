"""Images and labels from memory and from files, and what is said about files that cannot be used."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import write_jpeg, write_png

from classmix_core.constants import IGNORE_INDEX
from classmix_core.data.samples import ArraySamples, FileSamples, image_files, pair_files, read, read_label
from classmix_core.errors import DataError
from tests.conftest import random_image, random_label
from tests.trees import GREY, PALETTE, RGB, write_raw_png

HEIGHT, WIDTH = 5, 7


@pytest.fixture
def files(tmp_path: Path) -> FileSamples:
    """Three images and their labels of 4 classes."""
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    for index in range(3):
        write_png(random_image(index, HEIGHT, WIDTH), str(tmp_path / f"images/{index}.png"))
        write_png(random_label(index, HEIGHT, WIDTH, 4), str(tmp_path / f"labels/{index}.png"))
    return pair_files(tmp_path / "images", tmp_path / "labels", tmp_path / "images")


def label_file(files: FileSamples, index: int) -> Path:
    assert files.label_paths is not None
    return files.label_paths[index]


# ---- reading


def test_images_and_labels_are_what_was_written(files: FileSamples) -> None:
    for index in range(3):
        assert torch.equal(files.image(index), random_image(index, HEIGHT, WIDTH))
        assert torch.equal(files.label(index), random_label(index, HEIGHT, WIDTH, 4)[0])
        assert files.check(index, 4) == (HEIGHT, WIDTH)


def test_a_grey_image_is_read_as_rgb(tmp_path: Path) -> None:
    grey = random_label(1, HEIGHT, WIDTH, 30)
    write_png(grey, str(tmp_path / "grey.png"))
    image = FileSamples(["grey.png"], [tmp_path / "grey.png"], None).image(0)
    assert torch.equal(image, grey.expand(3, -1, -1))


def test_a_16_bit_image_is_read_as_8_bit(tmp_path: Path) -> None:
    pixels = np.array([[[0, 257, 65535], [128 * 257, 300, 65000]]])
    write_raw_png(tmp_path / "deep.png", pixels, RGB, 16)
    image = FileSamples(["deep.png"], [tmp_path / "deep.png"], None).image(0)
    assert image.dtype == torch.uint8
    assert image.permute(1, 2, 0).tolist() == (pixels // 257).tolist()


@pytest.mark.parametrize("kind", [GREY, PALETTE])
def test_a_label_is_the_grey_value_or_the_palette_index(kind: int, tmp_path: Path) -> None:
    pixels = np.arange(10).reshape(2, 5)
    write_raw_png(tmp_path / "label.png", pixels, kind, 8)
    label = read_label(tmp_path / "label.png")
    assert label.dtype == torch.uint8
    assert label.tolist() == pixels.tolist()


@pytest.mark.parametrize("ignore_value", [0, 3, IGNORE_INDEX])
def test_the_ignore_value_and_255_become_ignore_and_nothing_else_does(files: FileSamples, ignore_value: int) -> None:
    raw = random_label(0, HEIGHT, WIDTH, 4)
    raw[0, 0, :2] = IGNORE_INDEX
    write_png(raw, str(label_file(files, 0)))
    label = FileSamples(files.names, files.image_paths, files.label_paths, ignore_value).label(0)
    assert torch.equal(label, torch.where((raw == ignore_value) | (raw == IGNORE_INDEX), IGNORE_INDEX, raw)[0])


def test_a_reader_of_ones_own_reads_the_labels_before_the_ignore_value_is_looked_for(files: FileSamples) -> None:
    given = FileSamples(files.names, files.image_paths, files.label_paths, ignore_value=9, reader=plus_7)
    raw = random_label(2, HEIGHT, WIDTH, 4)[0]
    assert torch.equal(given.label(2), torch.where(raw == 2, IGNORE_INDEX, raw + 7))
    assert torch.equal(given.subset([2]).label(0), given.label(2))


def plus_7(path: Path) -> Tensor:
    return read_label(path) + 7


# ---- subsets


def array_samples() -> ArraySamples:
    images = torch.stack([random_image(index, HEIGHT, WIDTH) for index in range(4)])
    labels = torch.cat([random_label(index, HEIGHT, WIDTH, 4) for index in range(4)])
    return ArraySamples(["a", "b", "c", "d"], images, labels)


def test_a_subset_keeps_names_images_and_labels_together(files: FileSamples) -> None:
    for samples, chosen in ((array_samples(), [3, 1]), (files, [2, 0])):
        subset = samples.subset(chosen)
        assert list(subset.names) == [samples.names[index] for index in chosen]
        for place, index in enumerate(chosen):
            assert torch.equal(subset.image(place), samples.image(index))
            assert torch.equal(subset.label(place), samples.label(index))


def test_a_subset_may_be_empty(files: FileSamples) -> None:
    assert list(files.subset([]).names) == []
    assert list(array_samples().subset([]).names) == []
    assert array_samples().subset([]).images.shape == (0, 3, HEIGHT, WIDTH)


def test_arrays_check_as_their_size() -> None:
    assert array_samples().check(0, 4) == (HEIGHT, WIDTH)


def test_without_labels_no_label_is_ever_looked_for(files: FileSamples) -> None:
    unlabelled = files.without_labels()
    for index in range(3):
        label_file(files, index).unlink()
        assert unlabelled.check(index, 4) == (HEIGHT, WIDTH)
    assert unlabelled.subset([1]).label_paths is None


# ---- listing


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
        FileSamples(["x.jpg"], [path], None).image(0)


def test_a_label_has_its_images_relative_stem(tmp_path: Path) -> None:
    (tmp_path / "images/x.y").mkdir(parents=True)
    (tmp_path / "images/x.y/photo.1.jpg").touch()
    (tmp_path / "labels").mkdir()
    samples = pair_files(tmp_path / "images", tmp_path / "labels", tmp_path)
    assert list(samples.names) == ["images/x.y/photo.1.jpg"]
    assert label_file(samples, 0) == tmp_path / "labels/x.y/photo.1.png"


# ---- what cannot be used


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'no'}: the folder must exist.")):
        image_files(tmp_path / "no")


def test_a_folder_without_an_image_is_named_with_the_formats(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").touch()
    expected = f"{tmp_path}: must hold at least one image (.jpg, .jpeg, .png, .webp), but holds none."
    with pytest.raises(DataError, match=re.escape(expected)):
        image_files(tmp_path)


def test_a_missing_file_is_named(files: FileSamples) -> None:
    label_file(files, 1).unlink()
    with pytest.raises(DataError, match=re.escape(f"{label_file(files, 1)}: the file must exist.")):
        files.check(1, 4)


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
        read(path, "RGB")


def test_label_and_image_of_two_sizes_are_refused_with_both(files: FileSamples) -> None:
    write_png(random_label(0, HEIGHT, WIDTH + 1, 4), str(label_file(files, 2)))
    expected = "must be of one size, but got 5x8 and 5x7 (height x width); the image is "
    with pytest.raises(DataError, match=re.escape(expected) + ".*images/2.png") as caught:
        files.check(2, 4)
    assert str(caught.value).startswith(str(label_file(files, 2)))


@pytest.mark.parametrize("highest", [3, 254])
def test_a_label_beyond_the_classes_is_refused_with_its_value(files: FileSamples, highest: int) -> None:
    label = random_label(0, HEIGHT, WIDTH, 3)
    label[0, -1, -1], label[0, 0, 0] = highest, IGNORE_INDEX
    write_png(label, str(label_file(files, 0)))
    expected = f"label values must be 0..2 (the 3 classes) or 255 (ignore), but got {highest}."
    with pytest.raises(DataError, match=re.escape(f"{label_file(files, 0)}: {expected}")):
        files.check(0, 3)
    if highest == 3:
        assert files.check(0, 4) == (HEIGHT, WIDTH)


def test_a_label_that_is_all_ignored_is_taken(files: FileSamples) -> None:
    write_png(torch.full((1, HEIGHT, WIDTH), IGNORE_INDEX, dtype=torch.uint8), str(label_file(files, 0)))
    assert files.check(0, 2) == (HEIGHT, WIDTH)


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
