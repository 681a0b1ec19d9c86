"""Faults of the machine that have no other place; docs/faults.md names the test of each."""

import re
import resource
import signal
import time
from pathlib import Path

import psutil
import pytest
import torch

from harness.training import checkpoint
from tests.commands import TINY, TINY_TRAIN, TrainingOnTwo, finish, run, start, wait_for
from tests.harness.test_train import statuses
from tests.studies import ONE_AT_A_TIME, SPACE, records, write_space

pytestmark = pytest.mark.slow


def holds(process: psutil.Process, file: Path) -> bool:
    """Whether a process has the file open; False for one that is gone."""
    try:
        return str(file) in [found.path for found in process.open_files()]
    except psutil.Error:
        return False


def test_a_training_whose_second_and_then_first_worker_is_killed_ends_with_the_weights_of_an_undisturbed_one(
    tmp_path: Path,
) -> None:
    words = (*TINY[1:], "--gpus=0", "--workers=2", "--steps=200", "--eval_every=20", "--checkpoint_every=4")
    assert run("harness.train", *words, "--name=calm", cwd=tmp_path).code == 0
    command = TrainingOnTwo(*words, "--name=r", cwd=tmp_path)
    for first in (False, True):
        (chosen,) = [one for one in command.await_workers() if holds(one, tmp_path / "runs/r/training.lock") == first]
        chosen.kill()
    result = command.finish()
    assert result.code == 0, result
    lines = result.err.splitlines()
    assert len(lines) == 2, lines
    assert all(line.startswith("warning: a worker has died; going on from step ") for line in lines)
    states = []
    for name in ("calm", "r"):
        newest = checkpoint.newest(tmp_path / "runs" / name)
        assert newest is not None
        states.append(checkpoint.load(newest, 0)[0])
    for network in ("student", "teacher"):
        assert all(torch.equal(states[0][network][key], states[1][network][key]) for key in states[0][network])
    assert statuses(tmp_path) == {"calm": "FINISHED", "r": "FINISHED"}


def test_a_trial_whose_process_stands_still_for_60_seconds_goes_on_after_them(tmp_path: Path) -> None:
    space = write_space(tmp_path, f"trials: 2\nearly_stopping: null\nconfirm: {{top: 0}}\n{SPACE}")
    words = (*TINY_TRAIN[1:], "--train.steps=600", "--train.eval_every=50", "--name=s")
    command = start("harness.tune", space, *words, cwd=tmp_path)
    lock = tmp_path / "runs/s/trials/000/lock"
    wait_for(lambda: list(lock.parent.glob("checkpoints/step_*[0-9]")), command)
    stopped = psutil.Process(int(lock.read_text()))
    stopped.send_signal(signal.SIGSTOP)
    before = records(tmp_path)[0]["step"]
    time.sleep(60)
    assert records(tmp_path)[0]["step"] <= before + 50
    stopped.send_signal(signal.SIGCONT)
    result = finish(command)
    assert result.code == 0, result
    assert [(one["state"], one["failures"]) for one in records(tmp_path)] == [("complete", [])] * 2


def test_a_disk_that_is_full_for_a_trial_ends_the_study_in_one_line_and_a_resume_goes_on(tmp_path: Path) -> None:
    """Full: the system lets no file of the trial's process become as large as a checkpoint."""
    space = write_space(tmp_path, f"trials: 2\nearly_stopping: null\nconfirm: {{top: 0}}\n{ONE_AT_A_TIME}{SPACE}")
    words = ("--train.steps=20", "--train.eval_every=10", "--train.checkpoint_every=1", "--train.model.width=64")
    command = start("harness.tune", space, *TINY_TRAIN[2:5], *words, "--name=s", cwd=tmp_path)
    lock = tmp_path / "runs/s/trials/000/lock"
    wait_for(lambda: list(lock.parent.glob("checkpoints/step_*[0-9]")), command)
    resource.prlimit(int(lock.read_text()), resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
    result = finish(command)
    assert result.code == 1, result
    (line,) = result.err.splitlines()
    assert re.match(r"failed: trial 0: .*/step_\d+ cannot be written: File too large; the last checkpoint", line), line
    assert "python -m harness.tune --resume --name=s" in line
    assert not [one for one in records(tmp_path) if one["state"] == "failed"]
    assert run("harness.tune", "--resume", "--name=s", cwd=tmp_path).code == 0
    assert [one["state"] for one in records(tmp_path)] == ["complete"] * 2


@pytest.mark.parametrize("count", [1, 2])
def test_an_image_that_is_deleted_in_the_middle_ends_the_run_in_one_line_and_back_again_it_can_be_resumed(
    count: int, folder_root: Path
) -> None:
    words = (*TINY[1:], "--gpus=0", f"--workers={count}", "--eval_every=2", "--data.name=folder", "--name=r")
    root = f"--data.root={folder_root}"
    command = start("harness.train", *words, root, "--steps=100000", cwd=folder_root)
    wait_for(lambda: list(folder_root.glob("runs/r/checkpoints/step_*[0-9]")), command)
    name = (folder_root / "runs/r/splits/labelled.txt").read_text().splitlines()[0]
    (folder_root / name).rename(folder_root / "away.jpg")
    result = finish(command)
    assert result.code == 1, result
    assert result.err.count("\n") == 1, result.err
    assert f"{folder_root / name}: the file must exist" in result.err
    assert "python -m harness.train --resume --name=r" in result.err
    if count == 2:
        return
    result = run("harness.train", "--resume", "--name=r", cwd=folder_root)
    assert (result.code, result.err.count("\n")) == (2, 1), result
    assert name in result.err
    (folder_root / "away.jpg").rename(folder_root / name)
    step = max(path.name for path in folder_root.glob("runs/r/checkpoints/step_*[0-9]"))
    command = start("harness.train", "--resume", "--name=r", cwd=folder_root)
    wait_for(lambda: max(path.name for path in folder_root.glob("runs/r/checkpoints/step_*[0-9]")) > step, command)
    command.send_signal(signal.SIGINT)
    assert finish(command).code == 130
