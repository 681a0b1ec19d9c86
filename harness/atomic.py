"""Files and folders that appear under their name only when they are whole and on disk; JSON with a format version."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.errors import UserError
from harness.storage import filesystem, is_remote, read_text

FORMAT = 3
"""Of run.json, trial.json and checkpoints. Raise it when what they hold changes its meaning or its names."""


@contextmanager
def atomic_file(path: Path, durable: bool = True) -> Iterator[Path]:
    """A temporary name, for a file that gets the name `path` when the block ends; its folder is made if need be.

    Args:
        durable: wait until it is on disk, so that a loss of power leaves the old file or the new one, whole.
    """
    if is_remote(path):
        with TemporaryDirectory() as home:
            part = Path(home) / path.name
            yield part
            filesystem(path).put_file(str(part), str(path))  # whole as soon as it is there
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        if durable:
            flush_to_disk(part)
        os.replace(part, path)
        if durable:
            flush_to_disk(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def publish_folder(part: Path, final: Path) -> None:
    """Give the folder `part`, whose files are on disk, its name, which must be free."""
    flush_to_disk(part)
    part.rename(final)
    flush_to_disk(final.parent)


def flush_to_disk(path: Path) -> None:
    """A file or a folder, which some file systems cannot flush."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError) if path.is_dir() else nullcontext():
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    with atomic_file(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping with the version of the format."""
    write_text(path, json.dumps({"format": FORMAT, **content}, indent=1))


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote, without the version.

    Raises:
        UserError: the file is damaged, or of another format.
    """
    try:
        content = json.loads(read_text(path))
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: must be a JSON file, but got: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold a JSON mapping, but got {content!r:.50}.")
    require_format(content.pop("format", None), path)
    return content


def require_format(found: object, path: Path) -> None:
    """
    Raises:
        UserError: `found` is not the format that this version writes.
    """
    if found != FORMAT:
        given = "none" if found is None else repr(found)
        raise UserError(f"{path}: format must be {FORMAT}, but got {given}: another version or program has written it.")
