"""Where runs are kept: a folder, of this machine or shared by all, or object storage (s3://, gs://, what fsspec knows).

A path in object storage is a UPath, which does all that a Path does here. What it cannot do is in this file: there are
no folders, so none can be renamed or made alone; a file is whole as soon as it is there; and a lock is a lease.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

from filelock import FileLock

from harness.errors import UserError, is_of_storage
from harness.storage.lease import Lease

EXTRAS = {"s3": "s3", "gs": "gcs", "gcs": "gcs"}
"""What must be installed for an address, by its scheme."""


def is_address(text: str) -> bool:
    return "://" in text


def storage_path(text: str, flag: str) -> Path:
    """The place that a text names: absolute, or in object storage.

    Args:
        flag: by which the user gave it.

    Raises:
        UserError: it is empty, no such kind of storage is known, or what it needs is not installed.
    """
    if not text:
        raise UserError(f"{flag}: must name a folder, but got ''.")
    return remote_path(text, flag) if is_address(text) else Path(text).absolute()


@cache
def remote_path(text: str, flag: str) -> Path:
    from upath import UPath  # which takes half a second to import

    scheme = text.partition("://")[0]
    try:
        path = UPath(text.rstrip("/"), use_listings_cache=False)  # other processes write there as well
        path.fs  # noqa: B018 (what looks for the library)
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        needs = f"pip install '.[{extra}]'" if extra else str(error)
        raise UserError(f"{flag}: the library for {scheme}:// must be installed ({needs}), but it is not.") from error
    except ValueError as error:
        raise UserError(f"{flag}: must be a folder, or an address that fsspec knows, but got {text}.") from error
    return cast(Path, path)


def is_remote(path: Path) -> bool:
    """Whether it lies in object storage."""
    return not isinstance(path, Path)


def filesystem(path: Path) -> Any:
    """fsspec's, of a path in object storage."""
    return cast(Any, path).fs


def read_text(path: Path) -> str:
    """Of a file that others may replace at any time: all of it is of one version."""
    if is_remote(path):
        return str(filesystem(path).cat_file(cast(Any, path).path).decode("utf-8"))
    return path.read_text(encoding="utf-8")


def remove_folder(folder: Path, ignore_errors: bool = False) -> None:
    """With all that is in it."""
    if not is_remote(folder):
        shutil.rmtree(folder, ignore_errors=ignore_errors)
        return
    try:
        if folder.exists():
            filesystem(folder).rm(cast(Any, folder).path, recursive=True)
    except Exception as error:
        if not ignore_errors or not (isinstance(error, OSError) or is_of_storage(error)):
            raise


@contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """A file or folder on this machine for those who can read no other, under the same name, while the block lasts."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as home:
        here = Path(home) / path.name
        filesystem(path).get(cast(Any, path).path, str(here), recursive=path.is_dir())
        yield here


@contextmanager
def locked(path: Path, timeout: float = -1) -> Iterator[None]:
    """Keep others out of such a block, by a lock file; a killed process lets go, in object storage after some seconds.

    Args:
        timeout: seconds to wait; negative: for ever.

    Raises:
        filelock.Timeout: another process was in such a block all the time.
    """
    with Lease(path).held(timeout) if is_remote(path) else FileLock(path).acquire(timeout=timeout):
        yield
