"""Whether a checkpoint is as it was written: its manifest has the length and the SHA-256 of each of its files."""

import errno
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from harness.atomic import write_text
from harness.storage import is_remote

SHARED, MANIFEST = "state.pt", "manifest.json"
NAME = re.compile(r"step_(\d+)(?:_(\d+))?")


def key(checkpoint: Path) -> tuple[int, int]:
    """Step, and number among those of that step."""
    found = NAME.fullmatch(checkpoint.name)
    assert found is not None, checkpoint
    return int(found[1]), int(found[2] or 1)


def in_order(parent: Path) -> list[Path]:
    """All checkpoints, whole or not, the newest last."""
    return sorted((path for path in parent.glob("step_*") if NAME.fullmatch(path.name)), key=key)


def choose(parent: Path) -> tuple[str, str]:
    """The name of the newest whole checkpoint, and a line about those that are passed over; each may be empty."""
    name, damaged = "", []
    for path in reversed(in_order(parent)):
        if is_remote(path) and not (path / MANIFEST).exists():
            continue  # the manifest comes last: a killed command has not got that far
        trouble = damage(path)
        if not trouble:
            name = path.name
            break
        damaged.append(f"{path}: {trouble}")
    if not damaged:
        return name, ""
    start = f"going on from step {key(parent / name)[0]}" if name else "starting from the beginning"
    return name, f"{start}, since what is newer is damaged ({'; '.join(damaged)})"


def damage(checkpoint: Path) -> str:
    """In what a checkpoint is not as it was written; empty if it is."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        for name in {SHARED, *manifest}:
            found, written = fingerprint(checkpoint / name), manifest[name]
            if found != written:
                sizes = f"{found['bytes']} bytes, {written['bytes']} were written"
                return f"{name} has {sizes}" if found["bytes"] != written["bytes"] else f"{name} has another checksum"
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EIO):  # it may be whole: that must not be the end of it
            raise
        return f"{Path(error.filename or checkpoint).name}: {error.strerror}"
    except (ValueError, TypeError, KeyError):
        return f"{MANIFEST} is not readable"
    return ""


def write_manifest(checkpoint: Path) -> None:
    """Of all the files that are there."""
    files = {path.name: fingerprint(path) for path in sorted(checkpoint.iterdir())}
    write_text(checkpoint / MANIFEST, json.dumps(files, indent=1))


def fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        return {"bytes": size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
