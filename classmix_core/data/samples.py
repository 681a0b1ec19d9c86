"""Images and labels by number, from memory or from files."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from classmix_core.constants import IGNORE_INDEX
from classmix_core.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class Samples(Protocol):
    """A set of images, most often with labels. Names are sorted, relative and unique."""

    @property
    def names(self) -> Sequence[str]: ...

    def image(self, index: int) -> Tensor:
        """uint8 RGB (3, H, W)."""
        ...

    def label(self, index: int) -> Tensor:
        """uint8 (H, W), 0..K-1 or IGNORE_INDEX."""
        ...

    def subset(self, indices: Sequence[int]) -> "Samples": ...

    def check(self, index: int, num_classes: int) -> tuple[int, int]:
        """Read one sample; returns its H, W or raises DataError with the file and the rule it breaks."""
        ...


@dataclass(frozen=True)
class ArraySamples:
    """Samples in memory.

    Args:
        names: one an image.
        images: uint8 (N, 3, H, W).
        labels: uint8 (N, H, W).
    """

    names: Sequence[str]
    images: Tensor
    labels: Tensor

    def image(self, index: int) -> Tensor:
        return self.images[index]

    def label(self, index: int) -> Tensor:
        return self.labels[index]

    def subset(self, indices: Sequence[int]) -> "ArraySamples":
        chosen = torch.tensor(indices, dtype=torch.long)
        return ArraySamples([self.names[i] for i in indices], self.images[chosen], self.labels[chosen])

    def check(self, index: int, num_classes: int) -> tuple[int, int]:
        height, width = self.labels.shape[1:]
        return height, width


@dataclass(frozen=True)
class FileSamples:
    """Samples in files, decoded when asked for.

    Args:
        names: one an image.
        image_paths: one a name.
        label_paths: one a name, or None: then no label is ever looked for.
        ignore_value: label value in the files that becomes IGNORE_INDEX, besides IGNORE_INDEX itself.
        reader: reads a label file as uint8 (H, W); None: `read_label`. A function of a module, for loader processes.
    """

    names: Sequence[str]
    image_paths: Sequence[Path]
    label_paths: Sequence[Path] | None
    ignore_value: int = IGNORE_INDEX
    reader: Callable[[Path], Tensor] | None = None

    def image(self, index: int) -> Tensor:
        image = read(self.image_paths[index], "RGB")
        return image if image.dtype == torch.uint8 else (image.float() / 257).byte()

    def label(self, index: int) -> Tensor:
        assert self.label_paths is not None
        label = (self.reader or read_label)(self.label_paths[index])
        return label.masked_fill_(label == self.ignore_value, IGNORE_INDEX)

    def subset(self, indices: Sequence[int]) -> "FileSamples":
        labels = None if self.label_paths is None else [self.label_paths[i] for i in indices]
        names, images = [self.names[i] for i in indices], [self.image_paths[i] for i in indices]
        return replace(self, names=names, image_paths=images, label_paths=labels)

    def without_labels(self) -> "FileSamples":
        return replace(self, label_paths=None)

    def check(self, index: int, num_classes: int) -> tuple[int, int]:
        height, width = self.image(index).shape[1:]
        if self.label_paths is None:
            return height, width
        label, path = self.label(index), self.label_paths[index]
        if label.shape != (height, width):
            found = f"{label.shape[0]}x{label.shape[1]} and {height}x{width} (height x width)"
            image = self.image_paths[index]
            raise DataError(f"{path}: label and image must be of one size, but got {found}; the image is {image}.")
        highest = int(label.masked_fill(label == IGNORE_INDEX, 0).max())
        if highest >= num_classes:
            rule = f"label values must be 0..{num_classes - 1} (the {num_classes} classes) or {IGNORE_INDEX} (ignore)"
            raise DataError(f"{path}: {rule}, but got {highest}.")
        return height, width


def read(path: Path, mode: Literal["RGB", "UNCHANGED"]) -> Tensor:
    """Decode an image file to (C, H, W).

    Raises:
        DataError: there is no such file, or it is damaged or not an image.
    """
    if not path.is_file():
        raise DataError(f"{path}: the file must exist.")
    from torchvision.io import decode_image  # a second, which the embedded data does not need

    rule = "must be a readable JPEG, PNG or WebP image"
    try:
        image = decode_image(str(path), mode, apply_exif_orientation=mode == "RGB")
    except RuntimeError as error:
        reason = str(error).splitlines()[0].rsplit(", ", 1)[-1].rstrip(".")
        raise DataError(f"{path}: {rule}, but got: {reason}.") from error
    if image.ndim != 3:  # a GIF is decoded too, to as many images as it has
        raise DataError(f"{path}: {rule}, but got a moving picture.")
    return image


def read_label(path: Path) -> Tensor:
    """Decode a label PNG to uint8 (H, W): grey values or palette indices.

    Raises:
        DataError: unreadable, or not one byte a pixel. (torchvision decodes indices of fewer bits wrongly.)
    """
    label = read(path, "UNCHANGED")
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
    """The path itself.

    Raises:
        DataError: it does not exist; `layout` says how the data set must lie.
    """
    if not path.exists():
        raise DataError(f"{path}: must exist{f'; {layout}' if layout else ''}.")
    return path


def image_files(folder: Path, layout: str = "") -> list[Path]:
    """All images below a folder, also through links, sorted; hidden files, which some systems put beside them, are not.

    Args:
        layout: how the data set must lie, for the message.

    Raises:
        DataError: the folder is missing or holds none.
    """
    hint = f"; {layout}." if layout else "."
    if not folder.is_dir():
        raise DataError(f"{folder}: the folder must exist{hint}")
    files = sorted(
        path for path in below(folder) if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )
    if not files:
        raise DataError(f"{folder}: must hold at least one image ({', '.join(IMAGE_SUFFIXES)}), but holds none{hint}")
    return files


def below(folder: Path) -> Iterator[Path]:
    """All files below a folder; each folder once, however links lead to it."""
    seen = set()
    for home, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(home)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(home, name) for name in names)


def pair_files(
    images: Path, labels: Path, root: Path, ignore_value: int = IGNORE_INDEX, layout: str = ""
) -> FileSamples:
    """Every image below `images` with the PNG of the same relative stem below `labels`; named relative to `root`.

    Raises:
        DataError: as `image_files`, or there is no folder of labels.
    """
    paths = image_files(images, layout)
    existing(labels, layout)
    names = [path.relative_to(root).as_posix() for path in paths]
    return FileSamples(names, paths, [label_path(path, images, labels) for path in paths], ignore_value)


def label_path(image: Path, images: Path, labels: Path) -> Path:
    return labels / image.relative_to(images).with_suffix(".png")
