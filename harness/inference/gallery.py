"""What harness.predict writes: masks, overlays, thumbnails, and the page that shows them.

OUT/masks/NAME.png         palette indices, one byte a pixel: can serve as labels
OUT/overlays/NAME.jpg      the classes' colours over the image
OUT/thumbnails/NAME.jpg    image and overlay side by side
OUT/index.html             all thumbnails and the legend
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import torch
from jinja2 import Environment
from PIL import Image
from torch import Tensor

from harness.atomic import atomic_file
from harness.inference.class_names import Classes
from harness.training.drawing import Palette, overlay

FOLDERS = ("masks", "overlays", "thumbnails")
THUMBNAIL = 360
"""Longer side of an image on the page, in pixels."""

NamedColour = tuple[str, tuple[int, int, int]]
Share = tuple[str, tuple[int, int, int], float]


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
    with atomic_file(path, durable=False) as part:
        image.save(part, kind, quality=90)


def write_page(out: Path, images: Sequence[GalleryImage], classes: Classes) -> Path:
    """index.html, which needs nothing from elsewhere."""
    path = out / "index.html"
    total = [sum(counts) for counts in zip(*(image.pixels for image in images), strict=True)]
    page = PAGE.render(images=images, classes=list(zip(classes.names, classes.palette, strict=True)), total=total)
    with atomic_file(path) as part:
        part.write_text(page, encoding="utf-8", errors="replace")
    return path


def address(image: GalleryImage, folder: str, suffix: str) -> str:
    return quote(bytes(folder / with_suffix(image.stem, suffix)))


def shares(pixels: Sequence[int], classes: Sequence[NamedColour], most: int | None = None) -> list[Share]:
    """Name, colour and share of each class, or of the `most` largest that are there."""
    found = [(name, colour, count / sum(pixels)) for (name, colour), count in zip(classes, pixels, strict=True)]
    largest = sorted(found, key=lambda one: -one[2])[:most]
    return found if most is None else [one for one in largest if one[2] > 0]


ENVIRONMENT = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
ENVIRONMENT.filters |= {"address": address, "shares": shares}
PAGE = ENVIRONMENT.from_string("""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Predictions</title><style>
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif }
body { margin: 1.5rem; background: Canvas; color: CanvasText }
main { display: flex; flex-wrap: wrap; gap: 1.5rem }
figure { margin: 0; max-width: 100% }
img { max-width: 100%; height: auto; display: block }
figcaption { overflow-wrap: anywhere }
td { padding: 0 1rem 0 0 } td:last-child { text-align: right }
i { display: inline-block; width: 1em; height: 1em; border: 1px solid GrayText; vertical-align: -0.15em }
</style>
{% macro swatch(colour) %}<i style="background:rgb({{ colour | join(',') }})"></i>{% endmacro %}
<h1>{{ images | length }} images</h1>
<table><caption>Classes and their shares of all pixels</caption>
{% for name, colour, share in total | shares(classes) %}
<tr><td>{{ swatch(colour) }} {{ name }}</td><td>{{ "%.1f%%" | format(100 * share) }}</td></tr>
{% endfor %}
</table>
<main>
{% for image in images %}
<figure><a href="{{ image | address('overlays', '.jpg') }}"><img loading="lazy"
 src="{{ image | address('thumbnails', '.jpg') }}" width="{{ image.thumbnail[1] }}" height="{{ image.thumbnail[0] }}"
 alt="{{ image.name }}: image and classes"></a><figcaption>{{ image.name }}, {{ image.size[1] }} x {{ image.size[0] }},
<a href="{{ image | address('masks', '.png') }}">mask</a><br>
{%- for name, colour, share in image.pixels | shares(classes, 4) %}
{{ swatch(colour) }} {{ name }} {{ "%.0f%%" | format(100 * share) }}{{ ", " if not loop.last }}
{%- endfor %}</figcaption></figure>
{% endfor %}
</main></html>
""")
