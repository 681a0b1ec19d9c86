"""Decoded and resized images and labels on disk, for all processes of one machine and for later runs.

Each image and each label is a file of its own, named by a hash of what it was made from, and mapped into memory: so
processes share one copy, sizes may differ, and what one split has read serves every other. A file is written under
another name and then renamed: two processes that make the same one do so twice and the last wins; one that is killed
leaves nothing that is taken for whole. What a loss of power takes is made again, so no file is synced.
"""

import hashlib
import math
import mmap
import os
import struct
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from classmix_core.config import Size
from classmix_core.data.samples import FileSamples
from classmix_core.data.transforms import resize_image, resize_label
from classmix_core.errors import DataError

VERSION = f"2 torch {torch.__version__} torchvision {version('torchvision')}"
"""Of the files, and of those who decode and resize. Count it up where images or labels are read otherwise."""
CHECKED = "checked"
"""Folder within that of the cache, for what `CheckedFiles` remembers."""
HEADER = struct.Struct("<4I")
"""Of a file: how many dimensions, and three sizes, the unused of which are 0."""


@dataclass(frozen=True)
class CachedSamples:
    """Samples whose images come resized, from the cache where they are in it.

    Args:
        samples: what is read where the cache has it not; labels only if it has any.
        folder: of the cache.
        resize: H, W of the images.
        resize_labels: whether labels are resized too; if not, an evaluation at their own size can still be had.
    """

    samples: FileSamples
    folder: Path
    resize: Size | None
    resize_labels: bool

    @property
    def names(self) -> Sequence[str]:
        return self.samples.names

    def image(self, index: int) -> Tensor:
        def make() -> Tensor:
            return resize_image(self.samples.image(index), self.resize)

        return self.fetch(self.samples.image_paths[index], f"image {self.resize}", make)

    def label(self, index: int) -> Tensor:
        assert self.samples.label_paths is not None
        size = self.resize if self.resize_labels else None
        kind = f"label {size} {self.samples.reader.__qualname__} {self.samples.ignore_value}"
        return self.fetch(self.samples.label_paths[index], kind, lambda: resize_label(self.samples.label(index), size))

    def subset(self, indices: Sequence[int]) -> "CachedSamples":
        return replace(self, samples=self.samples.subset(indices))

    def check(self, index: int, num_classes: int) -> tuple[int, int]:
        return self.samples.check(index, num_classes)

    def fetch(self, source: Path, kind: str, make: Callable[[], Tensor]) -> Tensor:
        """What `make` makes of `source`, from the cache or put into it; writes to it stay in this process."""
        if not source.is_file():
            return make()  # which says so
        path = self.folder / key(source, kind)
        with suppress(OSError, ValueError):  # not there, another user's, or not whole
            return load(path)
        value = make().contiguous()
        store(path, value)
        return value


def key(source: Path, kind: str) -> str:
    """A hash of the file's path, size and time, of what is made of it, and by which version of what."""
    status = source.stat()
    text = f"{VERSION}\n{kind}\n{source.absolute()}\n{status.st_size}\n{status.st_mtime_ns}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def load(path: Path) -> Tensor:
    """The uint8 tensor in a file, mapped into memory; what is written to it is not written to the file.

    It takes 26 us; np.load, which parses a header of text, 110.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not whole.
    """
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    dimensions, *sizes = HEADER.unpack(memory[: HEADER.size].ljust(HEADER.size, b"\0"))
    shape = sizes[:dimensions]
    if dimensions == 0 or len(memory) != HEADER.size + math.prod(shape):
        raise ValueError(f"{path}: must be whole.")
    return torch.frombuffer(memory, dtype=torch.uint8, offset=HEADER.size).view(shape)


def store(path: Path, value: Tensor) -> None:
    """Write a uint8 tensor of 1 to 3 dimensions, contiguous, to a file that is whole or not there, also after a kill.

    Raises:
        DataError: the folder has no room or may not be written to.
    """
    try:
        replace_file(path, HEADER.pack(value.ndim, *value.shape, *(0,) * (3 - value.ndim)), value.numpy().data)
    except OSError as error:
        rule = "the cache must have room there (--data.cache_dir DIR puts it elsewhere)"
        raise DataError(f"{path.parent}: {rule}, but got: {error.strerror or error}.") from error


def replace_file(path: Path, *parts: bytes | memoryview) -> None:
    """Write parts one after the other to a file that is whole or as it was, also after a kill; makes its folder.

    Raises:
        OSError: that is not possible.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(".part", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for part in parts:
                file.write(part)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def open_cache(cache_dir: str | None) -> Path:
    """The folder of the cache: `cache_dir`, or classmix_harness in the user's cache folder.

    What killed processes had begun to write there a day ago or more is deleted.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(cache_dir) if cache_dir else Path(home) / "classmix_harness"
    for part in (*folder.glob("*.part"), *folder.glob(f"{CHECKED}/*.part")):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > 86400:
                part.unlink()
    return folder
