"""All that goes to MLflow, by explicit run id: no global active run, so nothing is left running and trials never mix.

A run gets its configuration and lists of images (train.py, search/trial.py, search/study.py), where it comes from
(training/provenance.py), what it costs (training/cost.py), curves and pictures (training/trainer.py), tables and
confusion matrix (training/evaluator.py), its model (inference/registry.py); the parent of a search gets plots, tables
and best.yaml (search/study.py, search/plots.py)."""

import logging
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from filelock import FileLock
from mlflow.entities import DatasetInput, Metric, Param, RunStatus, RunTag, ViewType
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from sqlalchemy.engine import make_url

from harness.storage import local_copy
from harness.tracking.patience import STORE_ERRORS, client_of, one_line

for _name in ("mlflow", "alembic"):  # after the import, which sets levels of its own
    logging.getLogger(_name).setLevel(logging.ERROR)

SYSTEM = "system/"
"""Prefix of the machine's figures."""
COST = "cost/"
"""Prefix of core- and GPU-hours, which grow also where a command gets no step further."""
PARENT = "mlflow.parentRunId"
TRIAL = "harness.trial_id"
REASON = "harness.reason"
FOLDER = "harness.folder"
STORE_PATIENCE = 300.0
"""Seconds; a busy machine may take a minute to make a store."""
DESCRIPTION = "mlflow.note.content"
AND_THEN = " | "
"""In a tag, between what was true before a resume and what is true since."""
INVALID_CHARS = re.compile(r"[^/\w.\- :]")
"""In the name of a metric, such as one with the name of a class, MLflow refuses these."""


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


def repeated_by(command: str) -> dict[str, str]:
    """Tags that put the one command that repeats a run onto its page."""
    return {"harness.command": command, DESCRIPTION: f"Repeat: `{command}`"}


class Run:
    """One MLflow run. Metrics are sent in batches; `flush` or `finish` sends what is left.

    Args:
        uri: of the store.
        run_id: of a run that exists.
    """

    def __init__(self, uri: str, run_id: str) -> None:
        self.client, self.uri, self.run_id = client_of(uri), uri, run_id
        self.pending: list[Metric] = []
        self.known: dict[str, int] = {}
        """The last step of each metric that was logged before; `images` are known as (key, step)."""
        self.images: set[tuple[str, ...]] = set()

    @classmethod
    def create(cls, uri: str, experiment_id: str, name: str, tags: Mapping[str, str]) -> "Run":
        run = client_of(uri).create_run(experiment_id, run_name=name, tags=dict(tags))
        return cls(uri, run.info.run_id)

    def restart(self) -> None:
        """Mark a run that ended as running again; why it failed then is no longer true."""
        self.client.update_run(self.run_id, status=RunStatus.to_string(RunStatus.RUNNING))
        if REASON in self.client.get_run(self.run_id).data.tags:
            self.client.delete_tag(self.run_id, REASON)

    def load_logged_steps(self) -> None:
        """Look up how far each curve goes: a training that goes on from a checkpoint comes by its last points again."""
        names = self.client.get_run(self.run_id).data.metrics
        self.known = {
            name: max(point.step for point in self.client.get_metric_history(self.run_id, name))
            for name in names
            if not name.startswith((SYSTEM, COST))
        }
        images = self.client.list_artifacts(self.run_id, "images")
        self.images = {tuple(re.split(r"[+%]", Path(item.path).name)[:3:2]) for item in images}  # KEY+step+N+...

    def params(self, values: Mapping[str, Any]) -> None:
        """Note parameters; those that are known, from before an interruption, stay as they are."""
        known = self.client.get_run(self.run_id).data.params
        params = [Param(key, str(value)) for key, value in values.items() if key not in known]
        self.client.log_batch(self.run_id, params=params)

    def tags(self, values: Mapping[str, str]) -> None:
        self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in values.items()])

    def note(self, values: Mapping[str, str]) -> None:
        """Tags of which a run that is resumed loses none: what has changed since is added, `before | now`."""
        known = self.client.get_run(self.run_id).data.tags
        changed = {key: value for key, value in values.items() if known.get(key, "").split(AND_THEN)[-1] != value}
        if changed:
            self.tags({key: AND_THEN.join(filter(None, (known.get(key), now))) for key, now in changed.items()})

    def inputs(self, datasets: Sequence[DatasetInput]) -> None:
        """Data sets that the run reads; those that it has already are not added again."""
        try:
            self.client.log_inputs(self.run_id, list(datasets))
        except MlflowException:  # another trial has made the same one at this moment: it is there now
            self.client.log_inputs(self.run_id, list(datasets))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Note metrics at an optimiser step; NaN (a class that is not there) is left out."""
        now = int(time.time() * 1000)
        for name, value in values.items():
            key = re.sub("/+", "/", INVALID_CHARS.sub("_", name)).rstrip("/")
            if value == value and step > self.known.get(key, -1):
                self.pending.append(Metric(key, value, now, step))
        if len(self.pending) >= 500:
            self.flush()

    def flush(self) -> None:
        while self.pending:
            batch, self.pending = self.pending[:1000], self.pending[1000:]
            self.client.log_batch(self.run_id, metrics=batch)

    def text(self, name: str, content: str) -> None:
        self.client.log_text(self.run_id, content, name)

    def file(self, path: Path, folder: str | None = None) -> None:
        with local_copy(path) as here:
            self.client.log_artifact(self.run_id, str(here), folder)

    def files(self, home: Path, *names: str) -> None:
        """Files of a run's folder, and its lists of images."""
        for name in names:
            self.file(home / name)
        for path in sorted((home / "splits").iterdir()):
            self.file(path, "splits")

    def folder(self, path: Path, name: str) -> None:
        self.client.log_artifacts(self.run_id, str(path), name)

    def figure(self, name: str, figure: Any) -> None:
        """A matplotlib or plotly figure under a file name."""
        self.client.log_figure(self.run_id, figure, name)

    def table(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """A table under a file name, once: MLflow would add to one that is there from before an interruption."""
        if any(item.path == name for item in self.client.list_artifacts(self.run_id, name.rpartition("/")[0])):
            return
        self.client.log_table(self.run_id, {key: list(values) for key, values in columns.items()}, name)

    def image(self, key: str, image: torch.Tensor, step: int) -> None:
        """A uint8 image (3, H, W) in the series `key`."""
        if (key, str(step)) in self.images:
            return
        self.client.log_image(self.run_id, image.permute(1, 2, 0).numpy(), key=key, step=step)

    def failed(self, error: BaseException) -> None:
        """Note on the run's page, in one line, why it failed."""
        self.tags({REASON: one_line(error)})

    def finish(self, status: str) -> None:
        """`status`: FINISHED, FAILED or KILLED."""
        self.flush()
        self.client.set_terminated(self.run_id, status)

    def finish_or_reason(self, status: str) -> str | None:
        """`finish`, or why that was not possible, in one line."""
        try:
            self.finish(status)
        except STORE_ERRORS as error:
            return one_line(error)
        return None


def find_run(uri: str, experiment_id: str, folder: Path) -> Run | None:
    """The search of a folder that was killed as soon as its run was made: still running, without a child."""
    for run in client_of(uri).search_runs([experiment_id], "attributes.status = 'RUNNING'"):
        if run.data.tags.get(FOLDER) == str(folder) and not children(uri, experiment_id, run.info.run_id):
            return Run(uri, run.info.run_id)
    return None


def children(uri: str, experiment_id: str, parent_id: str, trial: str | None = None) -> list[MlflowRun]:
    """All runs of a search, but its parent; or those of one trial."""
    client, token = client_of(uri), None
    found: list[MlflowRun] = []
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
    for found in children(uri, experiment_id, parent_id):
        status, reason = outcomes.get(found.data.tags.get(TRIAL, ""), ("KILLED", None))
        run = Run(uri, found.info.run_id)
        if status == "FAILED" and found.data.tags.get(REASON) != reason:
            run.tags({REASON: reason or ""})
        if found.info.status != status:
            run.finish(status)
