"""The exceptions of the harness and the exit codes; harness/cli/exit_code.py maps the first to the second."""

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130
"""Exit codes."""


class UserError(Exception):
    """Refused input (exit code 2); the message is one line with the key or file, the rule and the value."""


class RunFailed(Exception):
    """Work that came to nothing for a reason that is no bug of ours (exit code 1); the message is one line."""


class Interrupted(Exception):
    """The run was asked to stop and has saved its state (exit code 130)."""


class TrialPruned(Exception):
    """The search has decided that a trial is not worth its remaining steps."""
