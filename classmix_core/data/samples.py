"""Sets of images and labels by number, from memory or from files, and the four that a data set consists of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from classmix_core.constants import IGNORE_INDEX
from classmix_core.data.image_io import existing, image_files, read_image, read_label
from classmix_core.errors import DataError

Role = Literal["val", "test"]
EVALUATED: tuple[Role, ...] = ("val", "test")


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
        reader: reads a label file as uint8 (H, W). A function of a module: loader processes get it by name.
    """

    names: Sequence[str]
    image_paths: Sequence[Path]
    label_paths: Sequence[Path] | None
    ignore_value: int = IGNORE_INDEX
    reader: Callable[[Path], Tensor] = read_label

    def image(self, index: int) -> Tensor:
        return read_image(self.image_paths[index])

    def label(self, index: int) -> Tensor:
        assert self.label_paths is not None
        label = self.reader(self.label_paths[index])
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


@dataclass(frozen=True)
class Data:
    """A data set in its four roles; `palette` has the RGB colour of each class, 0..255."""

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    labelled: Samples
    unlabelled: Samples
    val: Samples | None
    """None: not asked for."""
    test: Samples | None
    pool: FileSamples | None = None
    """Training images that have a label, whatever their role. None: nothing is in files."""
    warnings: tuple[str, ...] = ()
    """What a person should hear of the split."""

    def roles(self) -> dict[str, Samples]:
        roles = {"labelled": self.labelled, "unlabelled": self.unlabelled, "val": self.val, "test": self.test}
        return {role: samples for role, samples in roles.items() if samples is not None}


def pair_files(
    images: Path, labels: Path, root: Path, ignore_value: int = IGNORE_INDEX, layout: str = ""
) -> FileSamples:
    """Every image below `images` with the PNG of the same relative stem below `labels`; named relative to `root`.

    No label is looked for yet.

    Raises:
        DataError: as `image_files`, or there is no folder of labels.
    """
    paths = image_files(images, layout)
    existing(labels, layout)
    names = [path.relative_to(root).as_posix() for path in paths]
    return FileSamples(names, paths, [label_path(path, images, labels) for path in paths], ignore_value)


def label_path(image: Path, images: Path, labels: Path) -> Path:
    """The PNG below `labels` that belongs to an image below `images`."""
    return labels / image.relative_to(images).with_suffix(".png")


def merge(first: FileSamples, second: FileSamples) -> FileSamples:
    """The images of both, sorted by name, without labels."""
    names, paths = [*first.names, *second.names], [*first.image_paths, *second.image_paths]
    pairs = sorted(zip(names, paths, strict=True))
    return FileSamples([name for name, _ in pairs], [path for _, path in pairs], None)
