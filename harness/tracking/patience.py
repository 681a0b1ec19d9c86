"""Calls to MLflow that wait where its store is away or locked for a while, and what such a store raises."""

import logging
import os
import time
from collections.abc import Callable
from functools import cache
from typing import Any, cast

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from requests import RequestException
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from harness.errors import is_of_storage

for _name in ("mlflow", "alembic"):  # after the import, which sets levels of its own
    logging.getLogger(_name).setLevel(logging.ERROR)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it prints the traceback of what it raises
logger = logging.getLogger(__name__)

MLFLOW_ERRORS = (MlflowException, SQLAlchemyError, RequestException)
STORE_ERRORS = (*MLFLOW_ERRORS, OSError)
"""What a store that is out of reach or full raises."""
PATIENCE = float(os.environ["HARNESS_MLFLOW_PATIENCE"])
"""Seconds in all that a call is tried again."""
SILENT = 5.0
"""Seconds of them that the user is not told of."""
PASSING = (408, 429, 500, 502, 503, 504)
"""What a server answers that is overloaded, starts or ends."""


def one_line(error: BaseException) -> str:
    """What went wrong, for a table or a tag; without a database's statement, or what MLflow says of the request."""
    failed, asked = database_error(error), error.__context__
    said: object = error if failed is None else failed.orig
    if isinstance(error, MlflowException) and isinstance(asked, RequestException) and asked.args:
        said = getattr(asked.args[0], "reason", error)
    moved = getattr(said, "sqlite_errorname", "") == "SQLITE_READONLY_DBMOVED"
    hint = " (its file was moved or deleted)" if moved else ""
    return " ".join(f"{type(said).__name__}: {said}{hint}".split())[:500]


def database_error(error: BaseException) -> DBAPIError | None:
    """The error of a database, out of what MLflow wraps it in."""
    found = error.__cause__ if isinstance(error, MlflowException) else error
    return found if isinstance(found, DBAPIError) else None


def is_passing(error: BaseException, uri: str) -> bool:
    """Whether a call may succeed a little later: the store is away, overloaded or locked."""
    failed = database_error(error)
    if failed is not None:
        sqlite = getattr(failed.orig, "sqlite_errorname", None)
        if sqlite is None:  # of another database: its connection is lost
            return isinstance(failed, OperationalError | InterfaceError)
        return sqlite.startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))  # not: read-only, deleted, full, damaged
    if isinstance(error, MlflowException):
        return uri.startswith("http") and error.get_http_status_code() in PASSING
    if isinstance(error, RequestException):
        return error.response is None or error.response.status_code in PASSING
    return is_of_storage(error) or isinstance(error, ConnectionError | TimeoutError)


class PatientClient:
    """An MlflowClient whose calls are tried again, with growing pauses, while its store is away or locked.

    A call that soon follows one that was given up is tried once: a run that fails makes several as it ends.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.away_since = self.failed_at = float("-inf")

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **options: self.insist(lambda: getattr(MlflowClient(self.uri), name)(*args, **options))

    def insist(self, call: Callable[[], Any]) -> Any:
        started, pause, told = time.monotonic(), 0.5, False
        if started > self.failed_at + 10:
            self.away_since = started
        while True:
            try:
                answer = call()
            except STORE_ERRORS as error:
                if not is_passing(error, self.uri):
                    raise
                self.failed_at = time.monotonic()
                waited = self.failed_at - self.away_since
                if waited + pause > PATIENCE:
                    self.away_since = float("-inf")
                    raise
                if waited > SILENT and not told:
                    logger.warning(
                        "warning: MLflow's store %s does not take what is logged (%s); trying again for up to %.0f s",
                        self.uri,
                        one_line(error),
                        PATIENCE,
                    )
                    told = True
                time.sleep(pause)
                pause = min(2 * pause, 8.0)
            else:
                self.failed_at = float("-inf")
                return answer


@cache
def client_of(uri: str) -> MlflowClient:
    """The one client of this process for a store."""
    return cast(MlflowClient, PatientClient(uri))
