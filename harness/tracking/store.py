"""MLflow's store as a command finds it: whether it answers, what it has of a study, and that its runs end."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from sqlalchemy.engine import make_url

from harness.tracking.names import FOLDER, PARENT, REASON, TRIAL
from harness.tracking.patience import client_of

STORE_PATIENCE = 300.0
"""Seconds; a busy machine may take a minute to make a store."""


def require_answer(uri: str) -> None:
    """Raise OSError or ValueError unless something listens where a server shall be: MLflow would try for minutes."""
    place = urlsplit(uri)
    if place.scheme in ("http", "https") and place.hostname and place.scheme not in getproxies():
        port = place.port or {"http": 80, "https": 443}[place.scheme]
        socket.create_connection((place.hostname, port), timeout=10).close()


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite store; None: it is another store."""
    database = make_url(uri).database if uri.startswith("sqlite") else None
    return Path(database) if database else None


def is_gone(uri: str, run_id: str) -> bool:
    """Whether a store no longer has a run: its file was moved or deleted, or there is another one in its place."""
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        return True  # to ask it would make an empty one
    try:
        client_of(uri).get_run(run_id)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        return True
    return False


@contextmanager
def store_lock(uri: str) -> Iterator[None]:
    """While the block lasts no other command is in such a block with the same SQLite file. A server needs no lock.

    Raises:
        OSError: its folder cannot be written, or another command held the lock for `STORE_PATIENCE` seconds.
    """
    file = sqlite_file(uri)
    with FileLock(f"{file}.lock", timeout=STORE_PATIENCE) if file else nullcontext():
        yield


def create_run(uri: str, experiment_id: str, name: str, tags: Mapping[str, str]) -> str:
    """Make a run; returns its id."""
    run_id: str = client_of(uri).create_run(experiment_id, run_name=name, tags=dict(tags)).info.run_id
    return run_id


def find_parent(uri: str, experiment_id: str, folder: Path) -> str | None:
    """The run of a study that was killed as soon as it was made: still running, without a child."""
    client = client_of(uri)
    for run in client.search_runs([experiment_id], "attributes.status = 'RUNNING'"):
        run_id: str = run.info.run_id
        if run.data.tags.get(FOLDER) == str(folder) and not children(client, experiment_id, run_id):
            return run_id
    return None


def children(client: MlflowClient, experiment_id: str, parent_id: str, trial: str | None = None) -> list[Run]:
    """All runs of a study, but its parent; or those of one trial."""
    token = None
    found: list[Run] = []
    query = f"tags.`{PARENT}` = '{parent_id}'" + (f" AND tags.`{TRIAL}` = '{trial}'" if trial else "")
    while True:
        page = client.search_runs([experiment_id], query, ViewType.ACTIVE_ONLY, 1000, page_token=token)
        found += list(page)
        token = page.token
        if not token:
            return found


def finish_killed_children(
    uri: str, experiment_id: str, parent_id: str, outcomes: Mapping[str, tuple[str, str | None]]
) -> None:
    """Put right the runs of trials that were killed before they could end them.

    Args:
        outcomes: status, and the reason of a failure, of each trial that ended; all others were killed.
    """
    client = client_of(uri)
    for found in children(client, experiment_id, parent_id):
        status, reason = outcomes.get(found.data.tags.get(TRIAL, ""), ("KILLED", None))
        if status == "FAILED" and found.data.tags.get(REASON) != reason:
            client.set_tag(found.info.run_id, REASON, reason or "")
        if found.info.status != status:
            client.set_terminated(found.info.run_id, status)
