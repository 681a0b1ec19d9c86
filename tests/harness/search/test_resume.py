"""A study that is interrupted again and again equals one that never was."""

import fcntl
import os
import signal
import subprocess
from pathlib import Path

import pytest
from mlflow import MlflowClient

from harness.tracking.names import TRIAL
from tests.commands import finish, interrupt, run, start, wait_for
from tests.studies import (
    BASE,
    ONE_AT_A_TIME,
    artifacts,
    ended,
    mlflow_runs,
    records,
    wait_until_in_the_middle,
    without_time,
    write_space,
)

STUDY = f"""
trials: 8
sampler: tpe
early_stopping: {{grace_steps: 8, reduction_factor: 2}}
confirm: {{top: 1, seeds: 2}}
{ONE_AT_A_TIME}{BASE}
start:
  - {{ssl.tau: 0.968, ssl.ema_decay: 0.99, optim.lr: 0.05}}
space:
  ssl.tau: {{low: 0.3, high: 0.99}}
  ssl.ema_decay: {{low: 0.9, high: 0.999, scale: log_complement}}
  optim.lr: {{low: 0.001, high: 0.2, scale: log}}
"""
"""One trial at a time, so that the order in which trials end, which TPE learns from, is the same each time."""


PHASES = ("trials", "baseline", "confirm")


def resume(folder: Path) -> "subprocess.Popen[str]":
    return start("harness.tune", "--resume", "--name=s", cwd=folder)


def is_held(lock: Path) -> bool:
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def kill(process: "subprocess.Popen[str]") -> None:
    os.kill(process.pid, signal.SIGKILL)
    finish(process)


def assert_said_how_to_go_on(process: "subprocess.Popen[str]", number: int, folder: Path) -> None:
    process.send_signal(number)
    result = finish(process)
    assert result.code == 130, result
    assert "python -m harness.tune --resume --name=s" in result.out
    assert "Traceback" not in result.err
    parent, children = mlflow_runs(folder)
    assert parent.info.status == "KILLED"
    assert "RUNNING" not in {item.info.status for item in children}


@pytest.mark.slow
def test_a_study_interrupted_at_any_moment_and_resumed_equals_a_straight_one(tmp_path: Path) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    for folder in (straight, broken):
        folder.mkdir()
        write_space(folder, STUDY)
    result = run("harness.tune", "--space=space.yaml", "--name=s", cwd=straight)
    assert result.code == 0, result

    process = start("harness.tune", "--space=space.yaml", "--name=s", cwd=broken)
    wait_for(lambda: (broken / "runs/s/run.json").exists(), process)
    kill(process)
    assert records(broken) == []

    process = resume(broken)
    wait_until_in_the_middle(broken, process, "trials", 2)
    kill(process)
    before = ended(broken)

    process = resume(broken)
    wait_until_in_the_middle(broken, process, "trials", 5)
    assert_said_how_to_go_on(process, signal.SIGINT, broken)
    assert {number: ended(broken)[number] for number in before} == before, "no finished trial ran again"
    before = ended(broken)

    process = resume(broken)
    wait_until_in_the_middle(broken, process, "baseline", 1)
    kill(process)
    supervised = ended(broken, "baseline")

    process = resume(broken)
    wait_until_in_the_middle(broken, process, "confirm", 1)
    kill(process)
    confirmed = ended(broken, "confirm")

    process = resume(broken)
    wait_until_in_the_middle(broken, process, "confirm", 2)
    assert_said_how_to_go_on(process, signal.SIGTERM, broken)
    assert {number: ended(broken, "confirm")[number] for number in confirmed} == confirmed

    process = resume(broken)
    wait_for(lambda: is_held(broken / "runs/s/lock"), process)
    second = run("harness.tune", "--resume", "--name=s", cwd=broken)
    assert second.code == 2, "two commands on one study"
    assert "another command" in second.err
    result = finish(process)
    assert result.code == 0, result
    assert {number: ended(broken)[number] for number in before} == before
    assert {number: ended(broken, "confirm")[number] for number in confirmed} == confirmed

    assert {number: ended(broken, "baseline")[number] for number in supervised} == supervised
    for phase in PHASES:
        assert without_time(records(broken, phase)) == without_time(records(straight, phase)), phase
    assert len(records(broken)) == 8
    assert {one["state"] for one in records(broken)} == {"complete", "pruned"}
    assert_no_run_is_there_twice(broken)
    assert (broken / "runs/s/best.yaml").read_text() == (straight / "runs/s/best.yaml").read_text()
    refused = run("harness.tune", "--resume", "--name=s", cwd=broken)
    assert refused.code == 2
    assert "ran to its end" in refused.err


def assert_no_run_is_there_twice(folder: Path) -> None:
    parent, children = mlflow_runs(folder)
    assert {item.info.status for item in (parent, *children)} == {"FINISHED"}
    names = [item.data.tags[TRIAL] for item in children]
    assert len(names) == len(set(names)) == sum(len(records(folder, phase)) for phase in PHASES)
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    for item in children:
        assert {"train/loss", "train/lr"} < set(item.data.metrics)
        for metric in item.data.metrics:
            steps = [point.step for point in client.get_metric_history(item.info.run_id, metric)]
            assert len(steps) == len(set(steps)), (item.data.tags[TRIAL], metric)
            assert metric != "train/loss" or steps == list(range(4, max(steps) + 1, 4)), "no gap, none twice"
        pictures = [path.split("+")[:3] for path in artifacts(folder, item.info.run_id, "images") if "png" in path]
        assert {len(picture) for picture in pictures} <= {3}
        assert all(pictures.count(one) == 1 for one in pictures), item.data.tags[TRIAL]


@pytest.mark.slow
def test_ctrl_c_leaves_within_seconds_and_a_store_that_is_deleted_then_costs_no_trial(tmp_path: Path) -> None:
    space = STUDY.replace("trials: 8", "trials: 3").replace("top: 1, seeds: 2", "top: 0")
    write_space(
        tmp_path, space.replace("{grace_steps: 8, reduction_factor: 2}", "null")
    )  # one pruned by now has no run
    process = start("harness.tune", "--space=space.yaml", "--name=s", cwd=tmp_path)
    wait_until_in_the_middle(tmp_path, process, "trials", 1)
    result, seconds = interrupt(process)
    assert result.code == 130, result
    assert seconds < 10

    before = ended(tmp_path)
    for file in tmp_path.glob("mlflow.db*"):
        file.unlink()
    result = finish(resume(tmp_path))
    assert result.code == 0, result
    assert "no longer has the run" in result.err
    assert {number: ended(tmp_path)[number] for number in before} == before
    assert len(ended(tmp_path)) == 3
    parent, children = mlflow_runs(tmp_path)
    assert [item.data.tags[TRIAL] for item in children] == [f"trials/{number:03d}" for number in range(len(before), 3)]
    assert {item.info.status for item in (parent, *children)} == {"FINISHED"}
    assert {"best.yaml", "trials.csv"} <= artifacts(tmp_path, parent.info.run_id)
