"""Decoded and resized images and labels, kept for all processes of one machine, also those of other trials.

Each image and each label is a file of its own, named by a hash of what it was made from, and mapped into memory: so
processes share one copy, sizes may differ, and what one split has read serves every other. A file is written under
another name and then renamed: two processes that make the same one do so twice and the last wins; one that is killed
leaves nothing that is taken for whole.
"""

import atexit
import hashlib
import math
import mmap
import os
import shutil
import struct
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from classmix_core.config import Size
from classmix_core.data.samples import FileSamples
from classmix_core.data.transforms import resize_image, resize_label
from classmix_core.errors import DataError

VERSION = f"1 torch {torch.__version__} torchvision {version('torchvision')}"  # whose decoders and resizing it is
SHARED_MEMORY = Path("/dev/shm")

HEADER = struct.Struct("<4I")
"""Of a file: how many dimensions, and three sizes, the unused of which are 0."""

held: dict[Path, int] = {}
"""Memory folders that this process uses, each with the descriptor of its lock."""


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
        with suppress(OSError, ValueError):  # not there, another user's, or damaged: a disk may lose what it had
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
    """Write a file that is whole or not there, also after a kill or loss of power.

    Args:
        value: uint8, contiguous, of 1 to 3 dimensions.

    Raises:
        DataError: the folder has no room or may not be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(".part", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(HEADER.pack(value.ndim, *value.shape, *(0,) * (3 - value.ndim)))
                file.write(value.numpy().data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        rule = "the cache must have room there (--data.cache disk --data.cache_dir DIR puts it elsewhere)"
        raise DataError(f"{path.parent}: {rule}, but got: {error.strerror}.") from error


def open_cache(kind: Literal["ram", "disk"], cache_dir: str | None) -> Path:
    """The folder of the cache, which this process may use from now on.

    disk: `cache_dir`, or classmix_harness in the user's cache folder; it stays until somebody deletes it.
    ram: a folder in shared memory that the last process to end deletes (see `release`).

    Raises:
        DataError: another user's folder is in the way.
    """
    if kind == "disk":
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(cache_dir) if cache_dir else Path(home) / "classmix_harness"
        remove_leftovers(folder)
        return folder
    memory = SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
    folder = memory / f"classmix_harness-{os.getuid()}"
    hold(folder)
    return folder


def remove_leftovers(folder: Path) -> None:
    """Delete what processes that were killed had begun to write, a day ago or more."""
    for part in folder.glob("*.part"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > 86400:
                part.unlink()


def hold(folder: Path) -> None:
    """Take a share of a memory folder until `release`, or until this process ends, however it does."""
    import fcntl  # there is none on Windows

    if folder in held:
        return
    try:
        descriptor = os.open(f"{folder}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: must be a folder of this user, but got: {error.strerror}.") from error
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        os.close(descriptor)
        raise DataError(f"{folder}: must be a folder of this user, but is another's.")
    if not held:
        atexit.register(release)
    held[folder] = descriptor


def release(patience: float = 3.0) -> None:
    """Give up this process's shares; whoever holds the last one deletes the folder.

    Args:
        patience: seconds for which others who hold one are given time to end: Ray's workers outlive their driver.
    """
    end = time.monotonic() + patience
    while held:
        folder, descriptor = held.popitem()
        while not (alone := is_alone(descriptor)) and time.monotonic() < end:
            time.sleep(0.05)
        if alone:
            shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def is_alone(descriptor: int) -> bool:
    """Whether nobody else holds a share of the lock; if so nobody can get one until it is closed."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
