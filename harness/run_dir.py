"""Run folders: where a run keeps its configuration, splits and checkpoints, and how it is found again.

STORAGE/NAME/run.json        MLflow ids, the command, whether it is finished
STORAGE/NAME/config.yaml     what `--config` reads
STORAGE/NAME/splits/*.txt    the names of the images of each role
"""

import fcntl
import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from classmix_core.data import Data
from classmix_core.data.splits import write_names
from harness.cli.command import Refused

if TYPE_CHECKING:
    from harness.tracking import Run

RECORD = "run.json"


@dataclass(frozen=True)
class Record:
    """run.json."""

    kind: str
    """train or tune."""
    tracking_uri: str
    experiment_id: str
    run_id: str
    finished: bool = False

    def write(self, folder: Path) -> None:
        part = folder / f"{RECORD}.part"
        part.write_text(json.dumps(asdict(self), indent=2))
        os.replace(part, folder / RECORD)

    def end(self, folder: Path) -> None:
        replace(self, finished=True).write(folder)


def read_record(folder: Path) -> Record | None:
    path = folder / RECORD
    return Record(**json.loads(path.read_text())) if path.is_file() else None


def new_folder(storage: Path, name: str | None, kind: str) -> Path:
    """The folder of a new run, not made yet.

    Raises:
        Refused: the name is taken.
    """
    if name is None:
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        return unused(storage / f"{kind}-{stamp}")
    if "/" in name or name.startswith("."):
        raise Refused(f"--name: must be a plain folder name, but got {name!r}.")
    folder = storage / name
    record = read_record(folder)
    if record is not None:
        way_on = "another --name" if record.finished else "--resume to go on with it, or another --name"
        raise Refused(f"--name: a new run needs an unused name, but {folder} exists; give {way_on}.")
    return folder


def unused(folder: Path) -> Path:
    number, candidate = 1, folder
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def find_unfinished(storage: Path, name: str | None, kind: str) -> tuple[Path, Record]:
    """The run to resume: the one named, or the newest unfinished one of its kind.

    Raises:
        Refused: there is none, or it is finished.
    """
    if name is not None:
        record = read_record(storage / name)
        if record is None or record.kind != kind:
            raise Refused(f"--resume: {storage / name} must be a {kind} run, but there is none.")
        if record.finished:
            raise Refused(f"--resume: {storage / name} must be unfinished, but it ran to its end.")
        return storage / name, record
    found = []
    for path in storage.glob(f"*/{RECORD}"):
        record = read_record(path.parent)
        if record and record.kind == kind and not record.finished:
            found.append((path.stat().st_mtime, path.parent, record))
    if not found:
        raise Refused(f"--resume: {storage} must hold an unfinished {kind} run, but holds none.")
    _, folder, record = max(found)
    return folder, record


def reopened(record: Record) -> "Run":
    """The MLflow run of a record, running again.

    Raises:
        Refused: its store does not answer.
    """
    from harness.tracking import TROUBLES, Run, require_answer

    run = Run(record.tracking_uri, record.run_id)
    try:
        require_answer(record.tracking_uri)
        run.restart()
    except (*TROUBLES, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise Refused(f"{record.tracking_uri}: the MLflow store of the run must answer, but: {reason}") from error
    return run


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other commands off a run for as long as the block lasts; a killed process lets go by itself.

    Raises:
        Refused: another command is at work on it.
    """
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Refused(f"--resume: {folder} must not be running, but another command is at work on it.") from error
        yield


def write_splits(folder: Path, data: Data) -> list[Path]:
    """One text file of names for each role."""
    target = folder / "splits"
    target.mkdir(parents=True, exist_ok=True)
    paths = []
    for role, samples in data.roles().items():
        path = target / f"{role}.txt"
        write_names(path, samples.names)
        paths.append(path)
    return paths


def shown(path: Path) -> str:
    """A path as a user would type it here, quoted."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def resume_command(module: str, folder: Path, storage: str, address: str | None) -> str:
    """The command that goes on with a run, as the user can paste it."""
    words = [f"python -m {module} --resume --name={shlex.quote(folder.name)}"]
    if storage != "runs":
        words.append(f"--storage-path={shlex.quote(storage)}")
    if address:
        words.append(f"--address={shlex.quote(address)}")
    return " ".join(words)
