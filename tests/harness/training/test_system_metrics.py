"""The machine's figures in MLflow: they come, they go on after a resume, and they never hold up a run."""

import threading
import time
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from harness.tracking.run import Run
from harness.tracking.store import create_run
from harness.training.system_metrics import system_metrics

CPU = "system/cpu_utilization_percentage"


@pytest.fixture
def run(store: tuple[str, str], tmp_path: Path) -> Run:
    return Run(store[0], create_run(*store, "a", {}), tmp_path)


def steps(run: Run) -> list[int]:
    return [point.step for point in MlflowClient(run.uri).get_metric_history(run.run_id, CPU)]


def threads() -> int:
    return threading.active_count()


def test_they_are_sampled_while_the_block_lasts_and_no_longer(run: Run) -> None:
    before, uri = threads(), mlflow.get_tracking_uri()
    with system_metrics(run, interval=0.5):
        time.sleep(3)
    found = MlflowClient(run.uri).get_run(run.run_id).data.metrics
    assert {CPU, "system/system_memory_usage_megabytes", "system/network_receive_megabytes"} < set(found)
    assert 0 < found[CPU] <= 100
    count = len(steps(run))
    assert 2 <= count <= 6
    time.sleep(1)
    assert (len(steps(run)), threads()) == (count, before)
    assert mlflow.active_run() is None
    assert mlflow.get_tracking_uri() == uri, "nothing global"


def test_a_resume_goes_on_after_the_last_sample(run: Run) -> None:
    for _ in range(2):
        with system_metrics(run, interval=1):
            time.sleep(2.5)
    assert len(steps(run)) >= 2
    assert steps(run) == sorted(steps(run))
    assert steps(run)[-1] >= 3, "seconds since the run was made"


def test_a_run_shorter_than_an_interval_ends_at_once_and_has_none(run: Run) -> None:
    started = time.monotonic()
    with system_metrics(run):
        pass
    assert time.monotonic() - started < 2
    assert steps(run) == []


def test_a_store_that_is_away_neither_fails_nor_holds_up_a_run(tmp_path: Path) -> None:
    with system_metrics(Run("http://127.0.0.1:9", "a" * 32, tmp_path), interval=0.1):
        time.sleep(1)
        started = time.monotonic()
    assert time.monotonic() - started < 3
    left = [one for one in threading.enumerate() if one.name == "system metrics"]
    assert all(one.daemon for one in left), "one that still waits for an answer keeps no process alive"


def test_a_failure_within_the_block_is_passed_on(run: Run) -> None:
    with pytest.raises(ZeroDivisionError), system_metrics(run):
        raise ZeroDivisionError
