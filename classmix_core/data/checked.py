"""Which files the check of a data set has found good, so that those that have not changed since are not read again.

One file for each data set, checked/HASH.json in the folder of the cache: what cannot be read from it or written to it
is checked anew. Bad files are never remembered.
"""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from classmix_core.config import DataConfig, Size
from classmix_core.data.cache import CHECKED, VERSION, CachedSamples, open_cache, replace_file
from classmix_core.data.samples import FileSamples


class CheckedFiles:
    """What is known of the files of a data set from earlier checks, and what this one adds."""

    def __init__(self, config: DataConfig) -> None:
        self.path = remembered_in(config)
        self.known = read(self.path)
        self.found: dict[str, tuple[str, int, int]] = {}

    def check(self, samples: FileSamples | CachedSamples, index: int, num_classes: int) -> Size:
        """H, W of an image, which with its label breaks no rule.

        Raises:
            DataError: as `samples.check`.
        """
        files = samples.samples if isinstance(samples, CachedSamples) else samples
        try:
            name, state = state_of(files, index, num_classes)  # before they are read, should they change meanwhile
        except OSError:
            return samples.check(index, num_classes)  # which says so
        match self.known.get(name):
            case [known, int(height), int(width)] if known == state:
                return height, width
        height, width = samples.check(index, num_classes)
        self.found[name] = state, height, width
        return height, width

    def save(self) -> None:
        """Remember what was found, for the next run, unless there is no place for it."""
        if self.found and self.path:
            known = {**read(self.path), **self.found}  # read again: others may have saved since
            with suppress(OSError):
                replace_file(self.path, json.dumps({"version": VERSION, "files": known}).encode())


def remembered_in(config: DataConfig) -> Path | None:
    """The file for the data set at `config.root`; None: this user has no folder for such."""
    root = hashlib.sha256(f"{config.name}\n{Path(config.root or '').absolute()}".encode()).hexdigest()[:32]
    try:
        return open_cache(config.cache_dir) / CHECKED / f"{root}.json"
    except RuntimeError:  # no home
        return None


def read(path: Path | None) -> dict[str, object]:
    """By the names of files what state they were found good in; nothing if the file is not there, or damaged."""
    with suppress(OSError, ValueError):
        match json.loads(path.read_bytes()) if path else None:
            case {"version": version, "files": dict(files)} if version == VERSION:
                return files
    return {}


def state_of(samples: FileSamples, index: int, num_classes: int) -> tuple[str, str]:
    """The paths of an image and its label, and all that the verdict on them depends on.

    Raises:
        OSError: one of them is not there.
    """
    paths = [samples.image_paths[index], *([] if samples.label_paths is None else [samples.label_paths[index]])]
    state = [num_classes, samples.ignore_value, samples.reader.__module__, samples.reader.__qualname__]
    for path in paths:
        status = path.stat()
        state += [status.st_size, status.st_mtime_ns]
    return "\n".join(str(path.absolute()) for path in paths), " ".join(map(str, state))
