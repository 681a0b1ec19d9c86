"""The exceptions of the harness and the exit codes; harness/cli/exit_code.py maps the first to the second."""

import errno
from collections.abc import Callable

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""


class UserError(Exception):
    """Refused input (exit code 2); the message is one line with the key or file, the rule and the value."""


class RunFailed(Exception):
    """Work that came to nothing for a reason that is no bug of ours (exit code 1); the message is one line."""


class TrainingError(RunFailed):
    """The training itself has failed, on all workers alike, and would do so again: its loss is no number."""


class NoRoom(RunFailed):
    """What must be kept cannot be written: the disk is full, read-only or another's."""


class ClusterLost(RunFailed):
    """The Ray cluster is gone; nothing more can be asked of it, not even to disconnect."""


class Interrupted(Exception):
    """The run was asked to stop and has saved its state (exit code 130)."""


class TrialPruned(Exception):
    """The search has decided that a trial is not worth its remaining steps."""


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
"""Of an OSError."""
STORAGE_LIBRARIES = ("aiobotocore", "aiohttp", "boto3", "botocore", "gcsfs", "google", "s3fs", "s3transfer")


def first_cause(error: BaseException, found: Callable[[BaseException], bool]) -> BaseException | None:
    """The first one, of an error and of those that it was raised from or over, for which `found` holds."""
    one: BaseException | None = error
    while one is not None and not found(one):
        one = one.__cause__ or one.__context__
    return one


def is_no_room(error: BaseException) -> bool:
    return isinstance(error, NoRoom) or (isinstance(error, OSError) and error.errno in NO_ROOM)


def is_of_storage(error: BaseException) -> bool:
    """Whether a library for object storage has raised it: they have no class in common."""
    return type(error).__module__.partition(".")[0] in STORAGE_LIBRARIES


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was not enough: a GPU's, or the CPU's, for which torch has no class."""
    return type(error).__name__ in ("OutOfMemoryError", "MemoryError") or "can't allocate memory" in str(error)


def last_line(error: BaseException) -> str:
    """What went wrong in one line: the last, where an error of a loader process brings its traceback along."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].removeprefix("classmix_core.errors.DataError: ")
