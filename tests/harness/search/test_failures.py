"""A trial that fails costs nothing but itself, and one that was not to blame not even that: real failures of real
trials."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from mlflow import MlflowClient

from harness.search.searcher import DIED
from harness.tracking.names import REASON, TRIAL
from tests.commands import finish, run, start, wait_for
from tests.studies import BASE, NO_BASELINE, ONE_AT_A_TIME, artifacts, mlflow_runs, records, write_space

GRID = """
sampler: grid
early_stopping: null
confirm: {top: 0}
"""


def kill_trial(folder: Path, process: "subprocess.Popen[str]", trial: str) -> None:
    """SIGKILL to the actor of a trial of the study called s, once it has a checkpoint."""
    home = folder / "runs/s" / trial
    wait_for(lambda: list(home.glob("checkpoints/step_*[0-9]")), process)
    os.kill(int((home / "lock").read_text()), signal.SIGKILL)


@pytest.mark.slow
def test_a_trial_whose_process_is_killed_goes_on_and_one_that_diverges_or_finds_no_memory_is_failed(
    tmp_path: Path,
) -> None:
    space = "space: {model.width: {values: [4, 100000]}, optim.lr: {values: [0.05, 1.0e+30]}}"
    flag = write_space(tmp_path, f"{GRID}retries: 1\n{ONE_AT_A_TIME}{BASE}{space}")
    process = start("harness.tune", flag, "--name=s", cwd=tmp_path)
    kill_trial(tmp_path, process, "trials/000")
    result = finish(process)
    assert result.code == 0, result
    assert "Traceback" not in result.out + result.err
    assert f"(try 2 of 2: {DIED})" in " ".join(result.out.split())
    assert "4/4 done, 3 failed" in result.out
    lines = " ".join((result.out + result.err).split())
    assert "2 of 4 trials were lost by no fault of their own; the most common reason, 2 of 2: " in lines

    found = records(tmp_path)
    points = [(one["values"]["model.width"], one["values"]["optim.lr"]) for one in found]
    assert points == [(width, lr) for width in (4, 100000) for lr in (0.05, 1e30)]
    assert [one["state"] for one in found] == ["complete", "failed", "failed", "failed"]
    assert [one["own_fault"] for one in found] == [False, True, False, False]
    assert [len(one["failures"]) for one in found] == [1, 1, 2, 2], "none but a training that failed is final at once"
    assert [step for step, _ in found[0]["intermediate_values"]] == [4, 8, 12, 16, 20, 24]
    for one, word in zip(found, (None, "the loss is", "memory", "memory"), strict=True):
        assert one["reason"] is None if word is None else word in one["reason"], one
    _, children = mlflow_runs(tmp_path)
    assert [item.data.tags[TRIAL] for item in children] == [f"trials/{number:03d}" for number in range(4)]
    for item, one in zip(children, found, strict=True):
        assert item.info.status == ("FINISHED" if one["state"] == "complete" else "FAILED")
        assert item.data.tags.get(REASON) == one["reason"]
    assert "traceback.txt" in artifacts(tmp_path, children[1].info.run_id)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    steps = [point.step for point in client.get_metric_history(children[0].info.run_id, "train/loss")]
    assert steps == [4, 8, 12, 16, 20, 24], "no gap, none twice"


@pytest.mark.slow
def test_a_seed_that_is_lost_leaves_the_answer_incomplete_and_a_resumed_study_runs_it_again(tmp_path: Path) -> None:
    study = "trials: 1\nretries: 0\nconfirm: {top: 1, seeds: 2}\nspace: {optim.lr: {low: 0.01, high: 0.1}}"
    flag = write_space(tmp_path, f"{study}\n{NO_BASELINE}{ONE_AT_A_TIME}{BASE}")
    process = start("harness.tune", flag, "--name=s", cwd=tmp_path)
    kill_trial(tmp_path, process, "confirm/000")
    first = finish(process)
    assert first.code == 1, first
    assert "Traceback" not in first.out + first.err
    assert "confirmed: test/miou" in first.out, "what there is is shown"
    assert f"1 of 2 runs were lost by no fault of their own; the most common reason, 1 of 1: {DIED}" in first.err
    assert "--resume --name=s" in first.err
    assert "label with it" not in first.out, "which seed is best is not known yet"
    assert (tmp_path / "runs/s/confirm/001/best.safetensors").is_file()
    known = records(tmp_path, "confirm")[1]

    second = run("harness.tune", "--resume", "--name=s", cwd=tmp_path)
    assert second.code == 0, second
    assert "label with it" in second.out
    assert [one["state"] for one in records(tmp_path, "confirm")] == ["complete", "complete"]
    assert records(tmp_path, "confirm")[1] == known, "the other did not run again"
    parent, children = mlflow_runs(tmp_path)
    assert {item.info.status for item in (parent, *children)} == {"FINISHED"}
    assert [item.data.tags[TRIAL] for item in children] == ["confirm/000", "confirm/001", "trials/000"]
    assert "over 2 seed(s)" in parent.data.tags["harness.best"]


@pytest.mark.slow
def test_when_all_trials_fail_the_command_fails_with_the_most_common_reason(tmp_path: Path) -> None:
    flag = write_space(tmp_path, f"{GRID}{ONE_AT_A_TIME}{BASE}space: {{optim.lr: {{values: [1.0e+30, 1.0e+29]}}}}")
    result = run("harness.tune", flag, "--name=s", cwd=tmp_path)
    assert result.code == 1, result
    assert "Traceback" not in result.out + result.err
    assert "most common reason" in result.err
    assert "the loss is" in result.err
    parent, children = mlflow_runs(tmp_path)
    assert {item.info.status for item in (parent, *children)} == {"FAILED"}
    assert "the loss is" in parent.data.tags[REASON]
