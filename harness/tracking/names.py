"""What the tags, metrics and files of our MLflow runs are called."""

SYSTEM = "system/"
"""Prefix of the machine's figures."""
COST = "cost/"
"""Prefix of core- and GPU-hours, which grow also where a command gets no step further."""
PARENT = "mlflow.parentRunId"
TRIAL = "harness.trial_id"
REASON = "harness.reason"
FOLDER = "harness.folder"
DESCRIPTION = "mlflow.note.content"
RUN_ID = "mlflow_run_id"
"""File in the folder of a trial, once MLflow has its run."""


def repeated_by(command: str) -> dict[str, str]:
    """Tags that put the one command that repeats a run onto its page."""
    return {"harness.command": command, DESCRIPTION: f"Repeat: `{command}`"}
