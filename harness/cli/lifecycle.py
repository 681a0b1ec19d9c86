"""`run_lifecycle`, around every training and search: however it ends, its MLflow run gets the right status (FINISHED,
FAILED, KILLED), and the user the command that resumes it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from classmix_core.errors import DataError
from harness.cli.display import err, out, warn
from harness.errors import (
    Interrupted,
    RunFailed,
    TrainingError,
    UserError,
    first_cause,
    is_no_room,
    is_of_storage,
    last_line,
)
from harness.run_dir import RunRecord, display_path
from harness.tracking.experiment import find_or_create_experiment
from harness.tracking.patience import MLFLOW_ERRORS, STORE_ERRORS, is_passing, one_line
from harness.tracking.run import Run
from harness.tracking.store import is_gone, require_answer
from harness.training.system_metrics import system_metrics


def open_experiment(uri: str, name: str) -> str:
    """The id of an MLflow experiment, made if need be.

    Raises:
        UserError: the store cannot be opened.
    """
    try:
        require_answer(uri)
        return find_or_create_experiment(uri, name)
    except (*STORE_ERRORS, ValueError, ImportError) as error:  # the last: the driver of a database is not installed
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--tracking-uri: must be an MLflow store that can be opened, but got {uri}: {reason}"
        ) from error


def replace_lost_run(run_record: RunRecord, create: Callable[[], RunRecord]) -> RunRecord:
    """The record of a run that goes on: where MLflow's store no longer has it, of a new one.

    Args:
        create: makes a new one, in the same store.

    Raises:
        UserError: it cannot be read.
    """
    uri = run_record.tracking_uri
    try:
        require_answer(uri)
        if not is_gone(uri, run_record.run_id):
            return run_record
    except (*STORE_ERRORS, ValueError) as error:
        if not is_passing(error, uri):
            raise UserError(f"{uri}: the MLflow store of the run must be readable, but: {one_line(error)}") from error
        warn(
            f"MLflow's store {uri} is away ({one_line(error)}): what is logged is kept beside the run until it is back"
        )
        return run_record
    warn(f"MLflow's store {uri} no longer has the run, nor what was logged so far; it goes on as a new one there")
    return create()


def reopen_run(run_record: RunRecord, folder: Path) -> Run:
    """The MLflow run of a record, running again."""
    run = Run(run_record.tracking_uri, run_record.run_id, folder)
    run.adopt()
    run.restart()
    return run


@contextmanager
def run_lifecycle(
    run: Run,
    run_record: RunRecord,
    folder: Path,
    resume: str,
    *,
    close: Callable[[], str | None] = lambda: None,
    progress: Callable[[], str] = lambda: "",
) -> Iterator[None]:
    """However the block ends, MLflow's status is right after it, the user knows how to go on, and nothing is left open.

    Args:
        resume: the command that goes on with the run.
        close: ends what the run has started, before its status is set; returns why MLflow lacks a part, in one line.
        progress: how far it got, for the message of an interruption.

    Raises:
        Interrupted: by Ctrl-C or SIGTERM.
        RunFailed: it came to nothing, or MLflow does not know of its end.
    """
    status, go_on = "FAILED", f"Once the cause is gone, go on with: {resume}"
    try:
        with system_metrics(run):
            yield
        status = "FINISHED"
    except (KeyboardInterrupt, Interrupted) as error:
        status = "KILLED"
        out.print(f"interrupted{progress()}; go on with: {resume}", markup=False)  # before a second Ctrl-C can come
        raise Interrupted from error
    except BaseException as error:
        with suppress(Exception):  # of MLflow, which may be the error
            run.failed(error)
        if isinstance(error, DataError | UserError):  # all was checked before: a file is gone, a cache full, ...
            raise RunFailed(f"{last_line(error)} {go_on}") from error
        if isinstance(error, MLFLOW_ERRORS):
            raise RunFailed(f"MLflow's store {run.uri} failed: {one_line(error)}. {go_on}") from error
        if is_of_storage(error):
            raise RunFailed(f"{folder} cannot be reached: {one_line(error)}. {go_on}") from error
        if (full := first_cause(error, is_no_room)) and not isinstance(error, RunFailed):
            raise RunFailed(f"{one_line(full)}. {go_on}") from error
        if isinstance(error, RunFailed) and not isinstance(error, TrainingError) and resume not in str(error):
            raise type(error)(f"{error} {go_on}") from error
        if not isinstance(error, RunFailed):  # the message of a TrainingError says what helps
            err.print(f"failed. {go_on}", markup=False)
        raise
    finally:
        trouble = lacking = None
        try:
            lacking = close()
            run.adopt(ended=True)
            run.finish(status)
            lacking = run.close() or lacking
        except Exception as error:
            if not (isinstance(error, STORE_ERRORS) or is_of_storage(error)):
                raise
            trouble = one_line(error)
        if lacking:
            warn(
                f"MLflow's store {run.uri} is away ({lacking}); what it lacks is beside the run: once it is back, "
                f"python -m harness.sync {display_path(folder)}"
            )
    if trouble:
        raise RunFailed(f"all is done, but MLflow could not be told so: {trouble} {go_on}")
    run_record.end(folder)
