"""Several workers in a real Ray TorchTrainer."""

from pathlib import Path

import pytest
import torch

from harness.training import checkpoint
from tests.commands import TINY, interrupt, run, start, wait_for
from tests.harness.test_train import statuses

pytestmark = pytest.mark.slow

PLAIN = (
    "--gpus=0",
    "--steps=4",
    "--eval_every=2",
    "--model.norm=group",
    "--model.width=4",
    "--model.depth=1",
    "--ssl.mix=none",
    "--ssl.weight=batch",
    "--ssl.tau=0.2",
    "--ssl.jitter=0",
    "--ssl.blur=0",
    "--data.flip=false",
)
"""A training in which nothing depends on who draws: no batch statistics, no augmentation."""


def test_two_workers_learn_what_one_does_from_the_same_images(tmp_path: Path) -> None:
    for name, workers, batch in (("one", 1, 4), ("two", 2, 2)):
        words = (f"--workers={workers}", f"--data.batch_labelled={batch}", f"--data.batch_unlabelled={batch}")
        result = run("harness.train", *PLAIN, *words, f"--name={name}", cwd=tmp_path)
        assert result.code == 0, result.err
        assert result.err == ""
        assert "mean" in result.out
    states = []
    for name in ("one", "two"):
        newest = checkpoint.newest(tmp_path / "runs" / name)
        assert newest is not None
        states.append(checkpoint.load(newest, 0)[0])
    for network in ("student", "teacher"):
        for key, value in states[0][network].items():
            torch.testing.assert_close(value, states[1][network][key], rtol=1e-4, atol=1e-5, msg=key)
    for key, value in states[0]["metrics"].items():
        assert states[1]["metrics"][key] == pytest.approx(value, abs=1e-3, nan_ok=True), key
    assert statuses(tmp_path) == {"one": "FINISHED", "two": "FINISHED"}


def test_ctrl_c_on_two_workers_marks_the_run_killed_and_resume_goes_on(tmp_path: Path) -> None:
    words = (*TINY[1:], "--gpus=0", "--workers=2", "--steps=2000", "--name=long")
    process = start("harness.train", *words, cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob("runs/long/checkpoints/step_*[0-9]")), process)
    result, seconds = interrupt(process)
    assert result.code == 130, result
    assert seconds < 10
    assert "python -m harness.train --resume --name=long" in result.out
    assert "Traceback" not in result.err
    assert statuses(tmp_path) == {"long": "KILLED"}
    saved = list(tmp_path.glob("runs/long/checkpoints/step_*[0-9]"))
    process = start("harness.train", "--resume", "--name=long", cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob("runs/long/checkpoints/step_*[0-9]")) not in (saved, []), process)
    result, _ = interrupt(process)
    assert result.code == 130
    assert statuses(tmp_path) == {"long": "KILLED"}
