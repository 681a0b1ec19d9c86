"""Decoding image and label files, and finding them in folders."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from classmix_core.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
ORIENTATION = 274
"""Number of the EXIF entry that says how an image is turned."""
TURNS: dict[object, tuple[bool, tuple[int, ...]]] = {
    2: (False, (2,)),
    3: (False, (1, 2)),
    4: (False, (1,)),
    5: (True, ()),
    6: (True, (2,)),
    7: (True, (1, 2)),
    8: (True, (1,)),
}
"""What makes an image (C, H, W) upright, by that entry: whether H and W are swapped, and what is mirrored then."""


def decode(path: Path, mode: Literal["RGB", "UNCHANGED"]) -> Tensor:
    """Decode an image file to (C, H, W): uint8, or uint16 of a PNG of 16 bits.

    Args:
        mode: RGB, turned as its EXIF data say; UNCHANGED as stored: grey values, palette indices or colours.

    Raises:
        DataError: there is no such file, or it is damaged or not an image.
    """
    if not path.is_file():
        raise DataError(f"{path}: the file must exist.")
    from torchvision.io import decode_image  # a second, which the embedded data does not need

    rule = "must be a readable JPEG, PNG or WebP image"
    try:
        path.open("rb").close()
        image = decode_image(str(path), mode, apply_exif_orientation=mode == "RGB")
    except OSError as error:  # such as too many open files, of which torchvision would not say so
        raise DataError(f"{path}: {rule}, but got: {error.strerror}.") from error
    except RuntimeError as error:
        reason = str(error).splitlines()[0].rsplit(", ", 1)[-1].rstrip(".")
        raise DataError(f"{path}: {rule}, but got: {reason}.") from error
    if image.ndim != 3:  # a GIF is decoded too, to as many images as it has
        raise DataError(f"{path}: {rule}, but got a moving picture.")
    return turn(image, webp_orientation(path)) if mode == "RGB" else image


def turn(image: Tensor, orientation: object) -> Tensor:
    """An image (C, H, W) made upright.

    Args:
        orientation: what its EXIF data say, 1 to 8; anything else leaves it as it is.
    """
    swapped, mirrored = TURNS.get(orientation, (False, ()))
    return (image.mT if swapped else image).flip(mirrored) if orientation in TURNS else image


def webp_orientation(path: Path) -> object:
    """What the EXIF data of a WebP file say of its orientation, which torchvision reads from JPEG and PNG alone.

    None where it is no WebP file, or its EXIF data are missing or damaged, as torchvision takes a JPEG then.
    """
    with path.open("rb") as file:
        if file.read(4) != b"RIFF" or file.read(8)[4:] != b"WEBP":
            return None
        while len(head := file.read(8)) == 8:
            size = int.from_bytes(head[4:], "little")
            if head.startswith(b"EXIF"):
                break
            file.seek(size + size % 2, os.SEEK_CUR)
        else:
            return None
        data = file.read(size)
    from PIL.Image import Exif

    exif = Exif()
    try:
        exif.load(data)
        return exif.get(ORIENTATION)
    except Exception:  # of many kinds, as what is damaged has it
        return None


def read_image(path: Path) -> Tensor:
    """uint8 RGB (3, H, W) of an image of any kind and depth; 16 bits are rounded to the nearest of 8.

    Raises:
        DataError: see `decode`.
    """
    image = decode(path, "RGB")
    return image if image.dtype == torch.uint8 else (image.float() / 257).round_().byte()


def read_label(path: Path) -> Tensor:
    """Decode a label PNG to uint8 (H, W): grey values or palette indices.

    Raises:
        DataError: unreadable, or not one byte a pixel. (torchvision decodes indices of fewer bits wrongly.)
    """
    label = decode(path, "UNCHANGED")
    with path.open("rb") as file:
        header = file.read(26)
    if not header.startswith(b"\x89PNG"):
        raise DataError(f"{path}: a label must be a PNG file.")
    bits, channels = header[24], label.shape[0]
    if bits != 8 or channels != 1:
        found = f"{channels} channel(s) of {bits} bits"
        raise DataError(f"{path}: a label must be a PNG of 1 channel of 8 bits, grey or palette, but got {found}.")
    return label[0]


def existing(path: Path, layout: str) -> Path:
    """The path itself, which must exist.

    Args:
        layout: how the folders of the data set must look, for the message.

    Raises:
        DataError: it does not exist.
    """
    if not path.exists():
        raise DataError(f"{path}: must exist{f'; {layout}' if layout else ''}.")
    return path


def image_files(folder: Path, layout: str = "") -> list[Path]:
    """All images below a folder, also through links, sorted; hidden files, which some systems put beside them, are not.

    Args:
        layout: how the folders of the data set must look, for the message.

    Raises:
        DataError: the folder is missing or holds none.
    """
    hint = f"; {layout}." if layout else "."
    if not folder.is_dir():
        raise DataError(f"{folder}: the folder must exist{hint}")
    files = sorted(
        path for path in files_below(folder) if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )
    if not files:
        raise DataError(f"{folder}: must hold at least one image ({', '.join(IMAGE_SUFFIXES)}), but holds none{hint}")
    return files


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder; each folder once, however links lead to it."""
    seen = set()
    for home, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(home)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(home, name) for name in names)
