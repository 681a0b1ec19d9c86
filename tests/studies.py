"""Studies in tests: a tiny space, and what the files and MLflow say of a study."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from harness.tracking.names import PARENT, TRIAL
from tests.commands import wait_for

BASE = """
train:
  steps: 24
  eval_every: 4
  log_every: 4
  data: {batch_labelled: 2, batch_unlabelled: 2}
  model: {width: 4, depth: 1}
"""
ONE_AT_A_TIME = f"resources: {{cpus: {os.cpu_count()}}}\n"
"""One process, which imports torch, Ray and MLflow once, where trials need not run beside each other."""
NO_BASELINE = "baseline: {trials: 0}\n"
SPACE = """
start:
  - {ssl.tau: 0.968, optim.lr: 0.05}
space:
  ssl.tau: {low: 0.3, high: 0.99}
  optim.lr: {low: 0.001, high: 0.2, scale: log}
"""


def write_space(folder: Path, text: str) -> str:
    """A space file in the folder; returns the flag that names it."""
    (folder / "space.yaml").write_text(text)
    return "--space=space.yaml"


def records(folder: Path, phase: str = "trials") -> list[dict[str, Any]]:
    """The store of the study called s, by number."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"runs/s/{phase}/*/trial.json"))]


def ended(folder: Path, phase: str = "trials") -> dict[int, dict[str, Any]]:
    return {one["number"]: one for one in records(folder, phase) if one["state"] not in ("waiting", "running")}


def without_time(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in one.items() if key != "seconds"} for one in found]


def wait_until_in_the_middle(folder: Path, process: "subprocess.Popen[str]", phase: str, count: int) -> None:
    """Until so many trials have ended and the next has a checkpoint to go on from."""
    newest = folder / f"runs/s/{phase}/{count:03d}"

    def there() -> bool:
        return len(ended(folder, phase)) >= count and bool(list(newest.glob("checkpoints/step_*[0-9]")))

    wait_for(there, process)


def mlflow_runs(folder: Path) -> tuple[Any, list[Any]]:
    """The parent, and its children by trial."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([item.experiment_id for item in client.search_experiments()])
    (parent,) = [item for item in runs if PARENT not in item.data.tags]
    children = [item for item in runs if item.data.tags.get(PARENT) == parent.info.run_id]
    assert len(children) == len(runs) - 1
    return parent, sorted(children, key=lambda item: item.data.tags[TRIAL])


def artifacts(folder: Path, run_id: str, path: str = "") -> set[str]:
    return {item.path for item in MlflowClient(f"sqlite:///{folder}/mlflow.db").list_artifacts(run_id, path)}
