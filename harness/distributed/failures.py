"""Why workers have ended, and whether they would end so again."""

import ray
import torch

from classmix_core.errors import DataError, InvalidValue
from harness.errors import RunFailed, UserError, first_cause, is_no_room, is_out_of_memory, last_line
from harness.tracking.patience import MLFLOW_ERRORS, one_line

FINAL = (RunFailed, UserError, DataError, InvalidValue)
"""The same again if it were tried again, as are those of MLflow's store, whose calls have been tried again."""


def final_reason(error: Exception) -> str | None:
    """In one line, if the same would happen again."""
    if isinstance(error, MLFLOW_ERRORS):
        return f"MLflow's store failed: {one_line(error)}."
    if isinstance(error, FINAL) or is_out_of_memory(error):
        return last_line(error)
    full = first_cause(error, is_no_room)
    return None if full is None else f"{one_line(full)}."


def found_no_room(error: BaseException) -> bool:
    """Whether no worker has started, since others have what it needs."""
    cause = getattr(error, "controller_failure", None)
    return type(cause).__name__ == "WorkerGroupStartupTimeoutError"


def is_loss_of_worker(error: BaseException) -> bool:
    """Whether a worker has died: its own end, or what the others get who exchange tensors with it."""
    exchange = isinstance(error, torch.distributed.DistError) or "gloo/transport" in str(error)
    return exchange or isinstance(error, ray.exceptions.RayActorError)


def innermost(error: BaseException) -> BaseException:
    """What went wrong first, out of what Ray Train wraps it in: the others have lost the worker that failed."""
    causes = []
    for found in getattr(error, "worker_failures", {}).values():
        if isinstance(found, ray.exceptions.RayTaskError):
            found = found.cause
        causes.append(getattr(found, "health_check_failure", found))  # how Ray says that a worker has died
    errors = [cause for cause in causes if isinstance(cause, Exception)]
    return next((one for one in errors if not is_loss_of_worker(one)), next(iter(errors), error))
