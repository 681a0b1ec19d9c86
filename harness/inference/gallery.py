"""What harness.predict writes: masks, overlays, thumbnails, and the page that shows them.

OUT/masks/NAME.png         palette indices, one byte a pixel: can serve as labels
OUT/overlays/NAME.jpg      the classes' colours over the image
OUT/thumbnails/NAME.jpg    image and overlay side by side
OUT/index.html             all thumbnails and the legend
"""

from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

import torch
from PIL import Image
from torch import Tensor

from harness.atomic import atomic_file
from harness.inference.class_names import Classes
from harness.training.figures import Palette, overlay

FOLDERS = ("masks", "overlays", "thumbnails")
THUMBNAIL = 360
"""Longer side of an image on the page, in pixels."""

STYLE = """
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif }
body { margin: 1.5rem; background: Canvas; color: CanvasText }
main { display: flex; flex-wrap: wrap; gap: 1.5rem }
figure { margin: 0; max-width: 100% }
img { max-width: 100%; height: auto; display: block }
figcaption { overflow-wrap: anywhere }
td { padding: 0 1rem 0 0 } td:last-child { text-align: right }
i { display: inline-block; width: 1em; height: 1em; border: 1px solid GrayText; vertical-align: -0.15em }
"""


@dataclass(frozen=True)
class GalleryImage:
    """One image on the page."""

    name: str
    """As the user knows it."""
    stem: Path
    """Relative name of its files, without a suffix."""
    size: tuple[int, int]
    thumbnail: tuple[int, int]
    """Height and width in pixels, as `size`."""
    pixels: tuple[int, ...]
    """Of each class."""


def write_image(out: Path, name: str, stem: Path, image: Tensor, label: Tensor, classes: Classes) -> GalleryImage:
    """Write the three files of an image.

    Args:
        image: uint8 (3, H, W).
        label: uint8 (H, W), 0..K-1.
    """
    blend = overlay(image, label, classes.palette)
    both = [thumbnail(picture(part)) for part in (image, blend)]
    pair = Image.new("RGB", (2 * both[0].width, both[0].height))
    for part, left in zip(both, (0, both[0].width), strict=True):
        pair.paste(part, (left, 0))
    save(indexed(label, classes.palette), out / "masks" / with_suffix(stem, ".png"), "PNG")
    save(picture(blend), out / "overlays" / with_suffix(stem, ".jpg"), "JPEG")
    save(pair, out / "thumbnails" / with_suffix(stem, ".jpg"), "JPEG")
    pixels = torch.bincount(label.flatten(), minlength=len(classes.names)).tolist()
    return GalleryImage(name, stem, (label.shape[0], label.shape[1]), (pair.height, pair.width), tuple(pixels))


def with_suffix(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)  # a stem may hold dots


def indexed(label: Tensor, palette: Palette) -> Image.Image:
    """Labels as palette indices; all 256 entries are there, as a shorter palette would be packed into fewer bits."""
    image = Image.fromarray(label.numpy()).convert("L")
    image.putpalette([value for colour in palette for value in colour] + [0] * (768 - 3 * len(palette)))
    return image


def picture(image: Tensor) -> Image.Image:
    """uint8 (3, H, W) as an RGB image."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def thumbnail(image: Image.Image) -> Image.Image:
    """Shrunk, or magnified whole times, to at most THUMBNAIL pixels."""
    zoom = THUMBNAIL / max(image.size)
    zoom = int(zoom) if zoom >= 1 else zoom
    size = (max(1, round(image.width * zoom)), max(1, round(image.height * zoom)))
    return image.resize(size, Image.Resampling.NEAREST if zoom >= 1 else Image.Resampling.BOX)


def save(image: Image.Image, path: Path, kind: str) -> None:
    with atomic_file(path) as part:
        image.save(part, kind, quality=90)


def write_page(out: Path, labelled_images: list[GalleryImage], classes: Classes) -> Path:
    """index.html, which needs nothing from elsewhere."""
    total = [sum(counts) for counts in zip(*(labelled_image.pixels for labelled_image in labelled_images), strict=True)]
    rows = "\n".join(legend_row(classes, index, share) for index, share in enumerate(shares(total)))
    figures = "\n".join(figure(labelled_image, classes) for labelled_image in labelled_images)
    page = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Predictions</title><style>{STYLE}</style>
<h1>{len(labelled_images)} images</h1>
<table><caption>Classes and their shares of all pixels</caption>
{rows}
</table>
<main>
{figures}
</main></html>
"""
    path = out / "index.html"
    with atomic_file(path) as part:
        part.write_text(page, encoding="utf-8", errors="replace")
    return path


def shares(pixels: list[int] | tuple[int, ...]) -> list[float]:
    return [count / sum(pixels) for count in pixels]


def legend_row(classes: Classes, index: int, share: float) -> str:
    return f"<tr><td>{swatch(classes, index)} {escape(classes.names[index])}</td><td>{share:.1%}</td></tr>"


def swatch(classes: Classes, index: int) -> str:
    red, green, blue = classes.palette[index]
    return f'<i style="background:rgb({red},{green},{blue})"></i>'


def figure(labelled_image: GalleryImage, classes: Classes) -> str:
    """Thumbnail, name, size and the four largest classes."""
    share = shares(labelled_image.pixels)
    largest = [index for index in sorted(range(len(share)), key=lambda index: -share[index])[:4] if share[index] > 0]
    parts = ", ".join(f"{swatch(classes, i)} {escape(classes.names[i])} {share[i]:.0%}" for i in largest)
    height, width = labelled_image.thumbnail
    name, source = escape(labelled_image.name), address("thumbnails", labelled_image, ".jpg")
    image = f'<img loading="lazy" src="{source}" width="{width}" height="{height}" alt="{name}: image and classes">'
    links = f'<a href="{address("masks", labelled_image, ".png")}">mask</a>'
    caption = f"{name}, {labelled_image.size[1]} x {labelled_image.size[0]}, {links}<br>{parts}"
    overlay_link = f'<a href="{address("overlays", labelled_image, ".jpg")}">{image}</a>'
    return f"<figure>{overlay_link}<figcaption>{caption}</figcaption></figure>"


def address(folder: str, labelled_image: GalleryImage, suffix: str) -> str:
    return quote(bytes(folder / with_suffix(labelled_image.stem, suffix)))
