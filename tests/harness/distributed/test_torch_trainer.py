"""Several workers in a real Ray TorchTrainer."""

import os
import signal
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from harness.training import checkpoint
from tests.commands import Result, TrainingOnTwo, finish, interrupt, run, start, wait_for
from tests.harness.test_train import statuses

pytestmark = pytest.mark.slow

PLAIN = ("--gpus=0", "--steps=12", "--eval_every=6", "--checkpoint_every=1", "--log_every=1", "--optim.lr=0.02")
PLAIN += ("--model.norm=group", "--model.width=4", "--model.depth=1", "--ssl.tau=0.2")
"""A network without batch statistics; all that is random in a step is on."""


def state(folder: Path, name: str) -> checkpoint.State:
    newest = checkpoint.newest(folder / "runs" / name)
    assert newest is not None
    return checkpoint.load(newest, 0)[0]


def test_a_run_begun_on_two_workers_stopped_by_ctrl_c_and_resumed_on_one_in_two_pieces_learns_what_one_does(
    tmp_path: Path,
) -> None:
    sizes = ("--data.batch_labelled=4", "--data.batch_unlabelled=4")
    result = run("harness.train", *PLAIN, *sizes, "--workers=1", "--name=one", cwd=tmp_path)
    assert result.code == 0, result.err
    process = start("harness.train", *PLAIN, *sizes, "--workers=2", "--name=two", cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob("runs/two/checkpoints/step_0000000[2345]")), process)
    result, seconds = interrupt(process)
    assert result.code == 130, result
    assert seconds < 10
    assert "python -m harness.train --resume --name=two" in result.out
    assert "Traceback" not in result.err
    assert statuses(tmp_path) == {"one": "FINISHED", "two": "KILLED"}
    result = run("harness.train", "--resume", "--name=two", "--workers=1", "--accumulate=2", cwd=tmp_path)
    assert result.code == 0, result.err
    one, two = state(tmp_path, "one"), state(tmp_path, "two")
    for network in ("student", "teacher"):
        for key, value in one[network].items():
            torch.testing.assert_close(two[network][key], value, rtol=0, atol=1e-5, msg=key)
    assert statuses(tmp_path) == {"one": "FINISHED", "two": "FINISHED"}
    for name in ("train/loss", "train/lambda", "val/miou"):
        expected, found = (curve(tmp_path, run, name) for run in ("one", "two"))
        assert found == pytest.approx(expected, abs=1e-4), name


def curve(folder: Path, run: str, metric: str) -> dict[int, float]:
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (found,) = client.search_runs(["1"], f"attributes.run_name = '{run}'")
    points = client.get_metric_history(found.info.run_id, metric)
    assert len({point.step for point in points}) == len(points)
    return {point.step: point.value for point in points}


def test_a_sigterm_to_all_processes_of_a_command_ends_it_as_one_to_itself_does(tmp_path: Path) -> None:
    sizes = ("--data.batch_labelled=4", "--data.batch_unlabelled=4", "--steps=4000")
    process = start("harness.train", *PLAIN, *sizes, "--workers=2", "--name=a", cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob("runs/a/checkpoints/step_0*")), process)
    os.killpg(process.pid, signal.SIGTERM)
    result = finish(process, timeout=60)
    assert result.code == 130, result
    assert "go on with: python -m harness.train --resume --name=a" in result.out
    assert "Traceback" not in result.err + result.out, result
    assert statuses(tmp_path) == {"a": "KILLED"}


def test_a_network_with_parameters_that_get_no_gradient_trains_and_statistics_are_the_mean_of_all_workers(
    tmp_path: Path,
) -> None:
    """Running means are linear in the batches: at a learning rate of next to nothing their mean is that of one worker
    with all images, and that of rank 0 alone is not."""
    words = ("--gpus=0", "--steps=6", "--eval_every=6", "--optim.lr=1e-12", "--model.name=smp/PSPNet/resnet18")
    words += ("--data.batch_labelled=4", "--ssl.unlabelled_weight=0")  # masks follow a teacher's batch statistics
    for workers in (1, 2):
        result = run("harness.train", *words, f"--workers={workers}", f"--name={workers}", cwd=tmp_path)
        assert result.code == 0, result
    students = [state(tmp_path, name)["student"] for name in "12"]
    first = next(key for key in students[0] if key.endswith("running_mean"))
    one, two = (student[first] for student in students)
    assert one.abs().max() > 0.05
    torch.testing.assert_close(two, one, rtol=0, atol=1e-5)


def test_workers_that_are_killed_three_times_in_a_row_end_the_run_in_one_line_that_says_how_to_resume(
    tmp_path: Path,
) -> None:
    words = ("--steps=100000", "--eval_every=20", "--checkpoint_every=100000", "--name=r")
    words += ("--optim.lr=1e-12",)  # val does not get better, so there is no checkpoint after that of step 20
    command = TrainingOnTwo(*PLAIN, *words, cwd=tmp_path)
    for _ in range(3):
        command.await_workers()[0].kill()
    result = command.finish()
    assert result.code == 1, result
    assert result.err.splitlines()[:2] == ["warning: a worker has died; going on from step 20"] * 2
    result = Result(result.code, result.out, result.err.partition("\n")[2].partition("\n")[2])
    assert "raylet" not in result.out
    assert result.err.count("\n") == 1, result.err
    assert "has died 3 times in a row" in result.err
    assert "python -m harness.train --resume --name=r" in result.err
    assert statuses(tmp_path) == {"r": "FAILED"}
