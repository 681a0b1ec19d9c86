"""A trial that fails costs nothing but itself: real failures of real trials."""

import os
import signal
from pathlib import Path

import pytest

from harness.tracking import REASON, TRIAL
from tests.commands import finish, run, start, wait_for
from tests.studies import BASE, artifacts, mlflow_runs, records, write_space

GRID = """
sampler: grid
early_stopping: null
confirm: {top: 0}
"""


@pytest.mark.slow
def test_trials_that_diverge_run_out_of_memory_or_are_killed_are_failed_and_the_search_goes_on(tmp_path: Path) -> None:
    space = "space: {model.width: {values: [4, 100000]}, optim.lr: {values: [0.05, 1.0e+30, 0.04]}}"
    flag = write_space(tmp_path, f"{GRID}resources: {{cpus: {os.cpu_count()}}}\n{BASE}{space}")
    process = start("harness.tune", flag, "--name=s", cwd=tmp_path)
    first = tmp_path / "runs/s/trials/000"
    wait_for(lambda: list(first.glob("checkpoints/step_*[0-9]")), process)
    os.kill(int((first / "lock").read_text()), signal.SIGKILL)
    result = finish(process)
    assert result.code == 0, result
    assert "Traceback" not in result.out + result.err
    assert "6/6 done, 5 failed" in result.out

    found = records(tmp_path)
    points = [(one["values"]["model.width"], one["values"]["optim.lr"]) for one in found]
    assert points == [(width, lr) for width in (4, 100000) for lr in (0.05, 1e30, 0.04)]
    assert [one["state"] for one in found] == ["failed", "failed", "complete", "failed", "failed", "failed"]
    for one, word in zip(found, ("killed", "the loss is", None, "memory", "memory", "memory"), strict=True):
        assert word is None or word in one["reason"], one
    _, children = mlflow_runs(tmp_path)
    assert [item.data.tags[TRIAL] for item in children] == [f"trials/{number:03d}" for number in range(6)]
    for item, one in zip(children, found, strict=True):
        assert item.info.status == ("FINISHED" if one["state"] == "complete" else "FAILED")
        assert item.data.tags.get(REASON) == one["reason"]
    assert "traceback.txt" in artifacts(tmp_path, children[1].info.run_id)


@pytest.mark.slow
def test_when_all_trials_fail_the_command_fails_with_the_most_common_reason(tmp_path: Path) -> None:
    flag = write_space(tmp_path, f"{GRID}{BASE}space: {{optim.lr: {{values: [1.0e+30, 1.0e+29]}}}}")
    result = run("harness.tune", flag, "--name=s", cwd=tmp_path)
    assert result.code == 1, result
    assert "Traceback" not in result.out + result.err
    assert "most common reason" in result.err
    assert "the loss is" in result.err
    parent, children = mlflow_runs(tmp_path)
    assert {item.info.status for item in (parent, *children)} == {"FAILED"}
    assert "the loss is" in parent.data.tags[REASON]
