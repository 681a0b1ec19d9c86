"""The exceptions of the harness and the exit codes; harness/cli/exit_code.py maps the first to the second."""

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""


class UserError(Exception):
    """Refused input (exit code 2); the message is one line with the key or file, the rule and the value."""


class RunFailed(Exception):
    """Work that came to nothing for a reason that is no bug of ours (exit code 1); the message is one line."""


class TrainingError(RunFailed):
    """The training itself has failed, on all workers alike, and would do so again: its loss is no number."""


class Interrupted(Exception):
    """The run was asked to stop and has saved its state (exit code 130)."""


class TrialPruned(Exception):
    """The search has decided that a trial is not worth its remaining steps."""


def last_line(error: Exception) -> str:
    """What went wrong in one line: the last, where an error of a loader process brings its traceback along."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].removeprefix("classmix_core.errors.DataError: ")
