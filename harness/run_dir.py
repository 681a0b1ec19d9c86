"""Run folders: how a new one is made and locked, and how `--resume` finds it again.

STORAGE/NAME/run.json        whether train or tune made it, MLflow's ids, whether it is finished
STORAGE/NAME/config.yaml     what `--config` reads
STORAGE/NAME/splits/*.txt    the names of the images of each role
"""

import shlex
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from filelock import Timeout

from harness.atomic import read_json, write_json, write_text
from harness.errors import UserError, is_of_storage
from harness.storage import is_remote, locked, remove_folder

if TYPE_CHECKING:
    from classmix_core.data import Data

RECORD, SPLITS = "run.json", "splits"


@dataclass(frozen=True)
class RunRecord:
    """run.json."""

    kind: str
    """train, tune, or simulation, which cannot be resumed."""
    tracking_uri: str
    experiment_id: str
    run_id: str
    finished: bool = False

    def write(self, folder: Path) -> None:
        write_json(folder / RECORD, asdict(self))

    def end(self, folder: Path) -> None:
        replace(self, finished=True).write(folder)


def read_run_record(folder: Path) -> RunRecord | None:
    """None: there is none.

    Raises:
        UserError: it is damaged, or of another format.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        return RunRecord(**read_json(path))
    except TypeError as error:
        raise UserError(f"{path}: must be the record of a run, but got: {error}") from error


@contextmanager
def claim_folder(storage: Path, name: str | None, kind: str) -> Iterator[Path]:
    """Make the folder of a new run, and keep other commands off it for as long as the block lasts.

    Where there is no record of a run when the block ends, the command was refused: what was made is removed.

    Args:
        name: None: the time, and a number where several commands start in the same second.

    Raises:
        UserError: the name is taken, or no folder can be made there.
    """
    if name is not None and (not name or "/" in name or name.startswith(".")):
        raise UserError(f"--name: must be a plain folder name, but got {name!r}.")
    remote = is_remote(storage)
    missing = [] if remote else [path for path in (storage, *storage.parents) if not path.exists()]
    with ExitStack() as stack:
        with reaching(storage):
            folder, made = make_folder(storage, name, f"{kind}-{datetime.now():%Y%m%d-%H%M%S}")
            stack.enter_context(run_lock(folder, "--name"))
        try:
            refuse_taken(folder)
            yield folder
        finally:
            if made and not has_record(folder):
                remove_folder(folder, ignore_errors=remote)
                for path in missing:
                    with suppress(OSError):  # another command has a folder in it
                        path.rmdir()


def has_record(folder: Path) -> bool:
    """Whether there is a record of a run, or may be one, in storage that cannot be reached any more."""
    try:
        return (folder / RECORD).exists()
    except Exception as error:
        if not is_of_storage(error):
            raise
        return True


@contextmanager
def reaching(storage: Path) -> Iterator[None]:
    """
    Raises:
        UserError: in the block it could not be written, or not be reached.
    """
    try:
        yield
    except Exception as error:
        if not (isinstance(error, OSError) or is_of_storage(error)):
            raise
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        rule = "--storage-path: must be a folder in which others can be made"
        raise UserError(f"{rule}, but got {storage}: {reason}.") from error


def make_folder(storage: Path, name: str | None, stamp: str) -> tuple[Path, bool]:
    """The folder of that name, or else a new one called after the stamp; and whether it was not there before."""
    if is_remote(storage):  # where nothing can be made alone, and the first file makes the folder
        folder = storage / (name or f"{stamp}-{uuid4().hex[:4]}")
        return folder, not folder.exists()
    if name is not None:
        made = not (storage / name).exists()
        (storage / name).mkdir(parents=True, exist_ok=True)
        return storage / name, made
    candidate, number = storage / stamp, 1
    while True:
        try:
            candidate.mkdir(parents=True)
            return candidate, True
        except FileExistsError:  # of a command that started in the same second
            number += 1
            candidate = storage / f"{stamp}-{number}"


def refuse_taken(folder: Path) -> None:
    """
    Raises:
        UserError: there is a run in the folder, or what is left of one.
    """
    run_record = read_run_record(folder)
    if run_record is not None:
        way_on = "another --name" if run_record.finished else "--resume to go on with it, or another --name"
        raise UserError(f"--name: a new run needs an unused name, but {folder} exists; give {way_on}.")
    for name in ("checkpoints", "trials"):  # a run would go on from what another has left
        if (folder / name).exists():
            raise UserError(f"--name: a new run needs an unused name, but {folder} holds {name}; give another --name.")


def find_unfinished(storage: Path, name: str | None, kind: str) -> tuple[Path, RunRecord]:
    """The run to resume: the one named, or the newest unfinished one of its kind.

    Raises:
        UserError: there is none, or it is finished.
    """
    if name is not None:
        with reaching(storage):
            run_record = read_run_record(storage / name)
        if run_record is None or run_record.kind != kind:
            raise UserError(f"--resume: {storage / name} must be a {kind} run, but there is none.")
        if run_record.finished:
            raise UserError(f"--resume: {storage / name} must be unfinished, but it ran to its end.")
        return storage / name, run_record
    found, unreadable = [], []
    with reaching(storage):
        paths = list(storage.glob(f"*/{RECORD}"))
    for path in paths:
        try:
            run_record = read_run_record(path.parent)
        except UserError as error:  # another's folder is no reason not to find ours
            unreadable.append(str(error))
            continue
        if run_record and run_record.kind == kind and not run_record.finished:
            found.append((path.stat().st_mtime, path.parent, run_record))
    if not found:
        hint = f" (left out: {'; '.join(unreadable)})" if unreadable else ""
        raise UserError(f"--resume: {storage} must hold an unfinished {kind} run, but holds none{hint}.")
    _, folder, run_record = max(found, key=lambda one: one[0])
    return folder, run_record


@contextmanager
def run_lock(folder: Path, flag: str = "--resume") -> Iterator[Path]:
    """Keep other commands off a run for as long as the block lasts; a killed process lets go by itself.

    Args:
        flag: by which the user has asked for it.

    Raises:
        UserError: another command is at work on it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / "lock", timeout=0))
        except Timeout as error:
            raise UserError(f"{flag}: {folder} must not be running, but another command is at work on it.") from error
        yield folder


# -- the images of a run ----------------------------------------------------------------------------------------------


def write_splits(folder: Path, data: "Data") -> None:
    """One text file of names for each role that the data has, below splits/."""
    for role, samples in data.roles().items():
        write_split(folder / SPLITS, role, samples.names)


def write_split(splits: Path, role: str, names: Iterable[str]) -> None:
    write_text(splits / f"{role}.txt", "".join(f"{name}\n" for name in names))


def read_splits(splits: Path, roles: Iterable[str]) -> dict[str, list[str]]:
    """The names that `write_splits` wrote.

    Args:
        splits: the folder of the lists.

    Raises:
        UserError: there is no list of a role, or it is damaged.
    """
    names = {}
    for role in roles:
        path = splits / f"{role}.txt"
        try:
            names[role] = path.read_bytes().decode("utf-8").split("\n")[:-1]  # a name may hold any other separator
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: must list the {role} images of the run, but: {error}.") from error
    return names


def stored_roles(splits: Path) -> list[str]:
    """The roles that have a list."""
    return sorted(path.stem for path in splits.glob("*.txt"))


def require_same_images(folder: Path, data: "Data", anew: str) -> None:
    """
    Args:
        folder: of a run, whose lists say what it began with.
        data: what the data set gives now; a role that it leaves out is not compared.
        anew: the command that starts anew.

    Raises:
        UserError: an image has another role by now, is new or gone.
    """
    splits = folder / SPLITS
    stored = read_splits(splits, stored_roles(splits))
    then = {name: role for role, names in stored.items() for name in names}
    now = dict.fromkeys(data.pool.names if data.pool else (), "held out")
    now |= {name: role for name, role in then.items() if role not in data.roles()}
    now |= {name: role for role, samples in data.roles().items() for name in samples.names}
    changed = sorted(name for name in then | now if then.get(name) != now.get(name))
    if changed:
        told = [f"{name} ({then.get(name, 'new')} -> {now.get(name, 'gone')})" for name in changed[:3]]
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UserError(
            f"{display_path(splits)}: the images must still be those listed there, but {len(changed)} changed: "
            f"{', '.join(told)}{more}. Undo that, or start anew: {anew}"
        )


def display_path(path: Path) -> str:
    """A path as a user would type it here, quoted."""
    if is_remote(path):
        return shlex.quote(str(path))
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def resume_command(module: str, folder: Path, storage: str, address: str | None, wait: bool) -> str:
    """The command that goes on with a run, as the user can paste it."""
    words = [f"python -m {module} --resume --name={shlex.quote(folder.name)}"]
    if storage != "runs":
        words.append(f"--storage-path={shlex.quote(storage)}")
    if address:
        words.append(f"--address={shlex.quote(address)}" + (" --wait" if wait else ""))
    return " ".join(words)


def repeat_command(folder: Path) -> str:
    """The command that does a study again."""
    files = [display_path(folder / name) for name in ("space.yaml", "config.yaml")]
    return f"python -m harness.tune --space {files[0]} --train {files[1]}"
