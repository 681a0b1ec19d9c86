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
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.tracking import Run

RECORD = "run.json"


@dataclass(frozen=True)
class RunRecord:
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


def read_run_record(folder: Path) -> RunRecord | None:
    path = folder / RECORD
    return RunRecord(**json.loads(path.read_text())) if path.is_file() else None


def new_folder(storage: Path, name: str | None, kind: str) -> Path:
    """The folder of a new run, not made yet.

    Raises:
        UserError: the name is taken.
    """
    if name is None:
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        return unused(storage / f"{kind}-{stamp}")
    if "/" in name or name.startswith("."):
        raise UserError(f"--name: must be a plain folder name, but got {name!r}.")
    folder = storage / name
    run_record = read_run_record(folder)
    if run_record is not None:
        way_on = "another --name" if run_record.finished else "--resume to go on with it, or another --name"
        raise UserError(f"--name: a new run needs an unused name, but {folder} exists; give {way_on}.")
    return folder


def unused(folder: Path) -> Path:
    number, candidate = 1, folder
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def find_unfinished(storage: Path, name: str | None, kind: str) -> tuple[Path, RunRecord]:
    """The run to resume: the one named, or the newest unfinished one of its kind.

    Raises:
        UserError: there is none, or it is finished.
    """
    if name is not None:
        run_record = read_run_record(storage / name)
        if run_record is None or run_record.kind != kind:
            raise UserError(f"--resume: {storage / name} must be a {kind} run, but there is none.")
        if run_record.finished:
            raise UserError(f"--resume: {storage / name} must be unfinished, but it ran to its end.")
        return storage / name, run_record
    found = []
    for path in storage.glob(f"*/{RECORD}"):
        run_record = read_run_record(path.parent)
        if run_record and run_record.kind == kind and not run_record.finished:
            found.append((path.stat().st_mtime, path.parent, run_record))
    if not found:
        raise UserError(f"--resume: {storage} must hold an unfinished {kind} run, but holds none.")
    _, folder, run_record = max(found)
    return folder, run_record


def reopened(run_record: RunRecord) -> "Run":
    """The MLflow run of a run_record, running again.

    Raises:
        UserError: its store does not answer.
    """
    from harness.tracking import STORE_ERRORS, Run, require_answer

    run = Run(run_record.tracking_uri, run_record.run_id)
    try:
        require_answer(run_record.tracking_uri)
        run.restart()
    except (*STORE_ERRORS, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{run_record.tracking_uri}: the MLflow store of the run must answer, but: {reason}") from error
    return run


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Keep other commands off a run for as long as the block lasts; a killed process lets go by itself.

    Raises:
        UserError: another command is at work on it.
    """
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"--resume: {folder} must not be running, but another command is at work on it.") from error
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


def display_path(path: Path) -> str:
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
