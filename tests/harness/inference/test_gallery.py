"""What harness.predict writes: masks, overlays, thumbnails, the page, classes.json."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_image

from classmix_core.config import DataConfig
from classmix_core.data import load_data
from classmix_core.data.image_io import read_label
from harness.errors import UserError
from harness.inference.class_names import Classes, read_classes, write_classes
from harness.inference.gallery import indexed, thumbnail, write_image, write_page
from tests.conftest import random_image

CLASSES = Classes(("sky & sea", "<rock>", "grass"), ((10, 20, 30), (200, 0, 100), (0, 255, 7)))


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_classes_read_back_as_written_and_nonsense_is_refused(tmp_path: Path) -> None:
    data = load_data(DataConfig())
    assert read_classes(write_classes(tmp_path, data)) == Classes(data.classes, data.palette)
    good = {"names": ["a", "b"], "palette": [[0, 0, 0], [1, 2, 255]]}
    for change in ({"palette": [[0, 0, 0]]}, {"palette": [[0, 0], [0, 0]]}, {"palette": [[0, 0, 0], [1, 2, 256]]}):
        (tmp_path / "classes.json").write_text(json.dumps(good | change))
        with pytest.raises(UserError, match=r"classes\.json"):
            read_classes(tmp_path / "classes.json")
    (tmp_path / "classes.json").write_text(json.dumps(good))
    assert read_classes(tmp_path / "classes.json").names == ("a", "b")


def test_a_mask_holds_indices_of_one_byte_with_the_palette_and_can_serve_as_a_label(tmp_path: Path) -> None:
    labels = torch.randint(0, 3, (7, 11), dtype=torch.uint8)
    indexed(labels, CLASSES.palette).save(tmp_path / "mask.png")
    assert torch.equal(read_label(tmp_path / "mask.png"), labels)
    with Image.open(tmp_path / "mask.png") as mask:
        assert mask.mode == "P"
        colours = torch.tensor([mask.convert("RGB").getpixel((x, y)) for y in range(7) for x in range(11)])
    assert torch.equal(colours, torch.tensor(CLASSES.palette)[labels.flatten().long()])


@pytest.mark.parametrize(
    ("size", "small"),
    [((720, 500), (360, 250)), ((359, 100), (359, 100)), ((100, 30), (300, 90)), ((9000, 1), (360, 1))],
)
def test_a_thumbnail_shrinks_to_360_pixels_or_magnifies_whole_times(
    size: tuple[int, int], small: tuple[int, int]
) -> None:
    assert thumbnail(Image.new("RGB", size)).size == small


class Page(HTMLParser):
    """All addresses and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_names_classes_with_colours_and_shares_and_links_only_files_that_are_there(tmp_path: Path) -> None:
    labels = torch.tensor([[0, 0, 0, 1]] * 8, dtype=torch.uint8)
    stems = ["a.b", "sub/ü #1%&"]
    labelled_images = [
        write_image(tmp_path, f"<{stem}>", Path(stem), random_image(1, 8, 4), labels, CLASSES) for stem in stems
    ]
    html = write_page(tmp_path, labelled_images, CLASSES).read_text(encoding="utf-8")
    page = Page(html)
    assert len(page.addresses) == 6
    assert all(re.fullmatch(r"[\w/.%]+", address, re.ASCII) for address in page.addresses)
    assert {unquote(address) for address in page.addresses} == names(tmp_path) - {"index.html"}
    for words in (
        "2 images",
        "sky & sea75.0%",
        "<rock>25.0%",
        "grass0.0%",
        "<a.b>, 4 x 8",
        "sky & sea 75%,  <rock> 25%",
    ):
        assert words in page.text.replace("\n", "")
    for colour in CLASSES.palette:
        assert f"rgb({','.join(map(str, colour))})" in html
    assert "://" not in html


def test_an_overlay_is_half_image_and_half_colour(tmp_path: Path) -> None:
    image, labels = torch.full((3, 16, 16), 100, dtype=torch.uint8), torch.ones(16, 16, dtype=torch.uint8)
    write_image(tmp_path, "x", Path("x"), image, labels, CLASSES)
    shown = decode_image(str(tmp_path / "overlays/x.jpg"), ImageReadMode.RGB).float().mean((1, 2))
    torch.testing.assert_close(shown, torch.tensor([150.0, 50.0, 100.0]), atol=3, rtol=0)
    pair = decode_image(str(tmp_path / "thumbnails/x.jpg"), ImageReadMode.RGB).float()
    assert pair.shape == (3, 352, 704)
    torch.testing.assert_close(pair[:, :, :300].mean((1, 2)), torch.full((3,), 100.0), atol=3, rtol=0)
    torch.testing.assert_close(pair[:, :, 400:].mean((1, 2)), shown, atol=3, rtol=0)
