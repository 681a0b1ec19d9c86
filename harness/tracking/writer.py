"""What an MLflow run is given, written at once. Each call can be made again: what is there already stays as it is."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunStatus, RunTag
from mlflow.exceptions import MlflowException

from harness.atomic import write_text
from harness.tracking.names import COST, PARENT, REASON, RUN_ID, SYSTEM, TRIAL
from harness.tracking.store import children

AND_THEN = " | "
"""In a tag, between what was true before a resume and what is true since."""
BATCH = 1000
"""Metrics that MLflow takes at a time."""

Point = tuple[str, float, int, int]
"""Of a curve: its metric, value, time (ms since 1970) and step."""


class NotCreated(Exception):
    """The run is not in the store yet."""


class Writer:
    """Writes to one run of an MLflow store; one thread may use it.

    Args:
        uri: of the store.
        run_id: None: what the file `RUN_ID` says, once the run is made.
        home: folder beside which the run is kept.
    """

    def __init__(self, uri: str, run_id: str | None, home: Path) -> None:
        self.uri, self.given_id, self.home = uri, run_id, home
        self.last_steps: dict[str, int] | None = None
        self.images: set[tuple[str, ...]] | None = None

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    @property
    def run_id(self) -> str:
        """
        Raises:
            NotCreated: there is none yet.
        """
        if self.given_id is None:
            if not (self.home / RUN_ID).is_file():
                raise NotCreated(f"the run of {self.home} is not in MLflow yet")
            self.given_id = (self.home / RUN_ID).read_text()
        return self.given_id

    def create(self, experiment_id: str, name: str, tags: Mapping[str, str], start_time: int) -> None:
        """Make the run of a trial, unless there is one from before its id was noted."""
        if not (self.home / RUN_ID).is_file():
            client = self.client
            known = children(client, experiment_id, tags[PARENT], tags[TRIAL])
            made = known[0] if known else client.create_run(experiment_id, start_time, dict(tags), name)
            write_text(self.home / RUN_ID, made.info.run_id)

    def restart(self) -> None:
        """Mark a run that ended as running again; why it failed then is no longer true."""
        self.client.update_run(self.run_id, status=RunStatus.to_string(RunStatus.RUNNING))
        if REASON in self.client.get_run(self.run_id).data.tags:
            self.client.delete_tag(self.run_id, REASON)

    def params(self, values: Mapping[str, str]) -> None:
        known = self.client.get_run(self.run_id).data.params
        params = [Param(key, value) for key, value in values.items() if key not in known]
        self.client.log_batch(self.run_id, params=params)

    def tags(self, values: Mapping[str, str]) -> None:
        self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in values.items()])

    def note(self, values: Mapping[str, str]) -> None:
        known = self.client.get_run(self.run_id).data.tags
        changed = {key: value for key, value in values.items() if known.get(key, "").split(AND_THEN)[-1] != value}
        if changed:
            self.tags({key: AND_THEN.join(filter(None, (known.get(key), now))) for key, now in changed.items()})

    def inputs(self, datasets: Sequence[Mapping[str, Any]]) -> None:
        found = [
            DatasetInput(Dataset(**one["dataset"]), [InputTag(key, value) for key, value in one["tags"].items()])
            for one in datasets
        ]
        try:
            self.client.log_inputs(self.run_id, found)
        except MlflowException:  # another trial has made the same one at this moment: it is there now
            self.client.log_inputs(self.run_id, found)

    def experiment_tags(self, experiment_id: str, values: Mapping[str, str]) -> None:
        for key, value in values.items():
            self.client.set_experiment_tag(experiment_id, key, value)

    def metrics(self, points: Sequence[Point]) -> None:
        """Points of curves, in order of their steps; those that a curve has, or is beyond of, are left out."""
        if self.last_steps is None:
            names = self.client.get_run(self.run_id).data.metrics
            self.last_steps = {
                name: max(point.step for point in self.client.get_metric_history(self.run_id, name))
                for name in names
                if not name.startswith((SYSTEM, COST))
            }
        last_steps, new = dict(self.last_steps), []
        for key, value, time, step in points:
            if step > last_steps.get(key, -1):
                new.append(Metric(key, value, time, step))
                if not key.startswith((SYSTEM, COST)):
                    last_steps[key] = step
        for start in range(0, len(new), BATCH):
            self.client.log_batch(self.run_id, metrics=new[start : start + BATCH])
        self.last_steps = last_steps

    def artifact(self, name: str, content: bytes) -> None:
        """A file under its path among those of the run."""
        folder, _, file = name.rpartition("/")
        with TemporaryDirectory() as home:
            path = Path(home) / file
            path.write_bytes(content)
            self.client.log_artifact(self.run_id, str(path), folder or None)

    def folder(self, path: Path, name: str) -> None:
        self.client.log_artifacts(self.run_id, str(path), name)

    def table(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Once: MLflow would add to one that is there."""
        if any(item.path == name for item in self.client.list_artifacts(self.run_id, name.rpartition("/")[0])):
            return
        self.client.log_table(self.run_id, {key: list(values) for key, values in columns.items()}, name)

    def image(self, key: str, step: int, content: bytes) -> None:
        """A PNG in the series `key`."""
        if self.images is None:
            files = self.client.list_artifacts(self.run_id, "images")
            self.images = {tuple(re.split(r"[+%]", Path(item.path).name)[:3:2]) for item in files}  # KEY+step+N+...
        if (key, str(step)) not in self.images:
            from torchvision.io import decode_png

            image = decode_png(torch.frombuffer(bytearray(content), dtype=torch.uint8))
            self.client.log_image(self.run_id, image.permute(1, 2, 0).numpy(), key=key, step=step)
            self.images.add((key, str(step)))

    def finish(self, status: str, end_time: int) -> None:
        self.client.set_terminated(self.run_id, status, end_time)
