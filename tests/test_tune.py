"""harness.tune as its user meets it, on the real Ray, Optuna and MLflow."""

import csv
import os
import signal
from pathlib import Path

import optuna
import pytest
import yaml

from harness import tune
from harness.tracking import PARENT, TRIAL, MlflowClient
from tests.commands import SPACE, TINY_TRAIN, assert_refused, call, finish, interrupt, run, start, wait_for

SPACE_TEXT = """
trials: 6
sampler: random
early_stopping: {grace_steps: 2, reduction_factor: 2}
start:
  - {ssl.tau: 0.968, optim.lr: 0.05}
space:
  ssl.tau: {low: 0.3, high: 0.99}
  optim.lr: {low: 0.001, high: 0.2, scale: log}
"""


def search_runs(folder: Path) -> list[object]:
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    return list(client.search_runs([item.experiment_id for item in client.search_experiments()]))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), ("--space", "search_spaces/tau_ema.yaml")),
        (("--space=none.yaml",), ("--space", "none.yaml")),
        ((f"--space={SPACE}", "--trials=0"), ("--trials", "trials >= 1", "0")),
        ((f"--space={SPACE}", "--train.ssl.tau=2"), ("train.ssl.tau", "0 <= tau <= 1", "2")),
        ((f"--space={SPACE}", "--train.stepz=2"), ("train.stepz", "nearest key: train.steps")),
        ((f"--space={SPACE}", "--train.data.labelled=999"), ("data.labelled", "999")),
        ((f"--space={SPACE}", "--gpus-per-trial=1.5"), ("--gpus-per-trial", "1.5")),
        ((f"--space={SPACE}", "--gpus-per-trial=0.5"), ("resources.gpus", "0.5", "0 GPUs")),
        ((f"--space={SPACE}", "--train.gpus=1"), ("train.gpus", "resources", "1")),
        ((f"--space={SPACE}", "--address=nowhere"), ("--address", "nowhere")),
        (("--resume",), ("--resume", "runs")),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert_refused(call(tune.main, capsys, *args), here, *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("metric: val/iou/unicorn", ("metric", "val/iou/unicorn", "val/iou/sky")),
        ("train: {stepz: 3}", ("train", "stepz")),
        ("train: {steps: abc}", ("steps", "abc")),
    ],
)
def test_a_bad_space_file_is_one_line_and_leaves_nothing(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, words: tuple[str, ...]
) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(f"{change}\n{SPACE_TEXT}")
    assert_refused(call(tune.main, capsys, f"--space={file}"), here, *words)


@pytest.mark.slow
def test_a_search_ends_with_a_table_a_best_config_and_true_mlflow_states(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE_TEXT)
    result = run("harness.tune", "--space=space.yaml", "--name=s", *TINY_TRAIN, cwd=tmp_path)
    assert result.code == 0, result
    assert result.err == ""
    for word in (
        "6 trials",
        "ASHA",
        "at a time",
        "6/6 done",
        "left",
        "best: val/miou",
        "its IoU on val: sky",
        "harness.ui",
    ):
        assert word in result.out, word
    assert "python -m harness.train --config runs/s/best.yaml" in result.out

    with (tmp_path / "runs/s/trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in rows] == list(range(6))
    assert (float(rows[0]["ssl.tau"]), float(rows[0]["optim.lr"])) == (0.968, 0.05)
    assert all(0.3 <= float(row["ssl.tau"]) <= 0.99 for row in rows)
    states = {row["state"] for row in rows}
    assert states == {"complete", "stopped"}, "early stopping is at work"
    assert {row["steps"] for row in rows if row["state"] == "complete"} == {"6"}

    complete = [row for row in rows if row["state"] == "complete"]
    best = max(complete, key=lambda row: float(row["val/miou"]))
    written = yaml.safe_load((tmp_path / "runs/s/best.yaml").read_text())
    assert written["ssl"]["tau"] == pytest.approx(float(best["ssl.tau"]))
    assert written["steps"] == 6

    runs = search_runs(tmp_path)
    assert {item.info.status for item in runs} == {"FINISHED"}
    (parent,) = [item for item in runs if PARENT not in item.data.tags]
    children = [item for item in runs if item.data.tags.get(PARENT) == parent.info.run_id]
    assert len(children) == 6
    assert len({item.data.tags[TRIAL] for item in children}) == 6
    assert {item.data.params["ssl.tau"] for item in children} == {row["ssl.tau"] for row in rows}
    assert not any(key.startswith("test") for item in children for key in item.data.metrics)
    files = {item.path for item in MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").list_artifacts(parent.info.run_id)}
    assert {"best.yaml", "trials.csv", "space.yaml", "optuna.db", "plots"} <= files

    study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/runs/s/optuna.db")
    ended = {trial.number: trial.state.name for trial in study.trials}
    assert sorted(ended) == list(range(6))
    assert sorted(ended.values()) == sorted("COMPLETE" if row["state"] == "complete" else "PRUNED" for row in rows)

    result = run("harness.train", "--config=runs/s/best.yaml", cwd=tmp_path)
    assert result.code == 0, result.err


def search_until_trials(folder: Path, ended: int) -> object:
    """Start a TPE search without early stopping, and wait until some of its trials have ended."""
    text = SPACE_TEXT.replace("random", "tpe").replace("{grace_steps: 2, reduction_factor: 2}", "null")
    (folder / "space.yaml").write_text(text)
    words = [word for word in TINY_TRAIN if "steps" not in word]
    process = start("harness.tune", "--space=space.yaml", "--name=s", "--train.steps=30", *words, cwd=folder)

    def enough() -> bool:
        done = list(folder.glob("runs/s/trials/*/checkpoints/step_00000030"))
        running = list(folder.glob("runs/s/trials/*/checkpoints/step_*[0-9]"))
        return len(done) >= ended and len(running) > len(done)

    wait_for(enough, process)
    return process


def assert_whole_after_resume(folder: Path) -> None:
    result = run("harness.tune", "--resume", "--name=s", cwd=folder)
    assert result.code == 0, result
    with (folder / "runs/s/trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in rows] == list(range(6))
    assert {row["state"] for row in rows} == {"complete"}
    runs = search_runs(folder)
    assert {item.info.status for item in runs} <= {"FINISHED", "KILLED"}
    parents = [item for item in runs if PARENT not in item.data.tags]
    assert [item.info.status for item in parents] == ["FINISHED"]
    finished = [item for item in runs if PARENT in item.data.tags and item.info.status == "FINISHED"]
    assert len(finished) == 6


@pytest.mark.slow
def test_a_search_killed_after_its_last_trial_gives_its_result_on_resume(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE_TEXT.replace("trials: 6", "trials: 2"))
    first = run("harness.tune", "--space=space.yaml", "--name=s", *TINY_TRAIN, cwd=tmp_path)
    assert first.code == 0, first
    record = tmp_path / "runs/s/run.json"
    record.write_text(record.read_text().replace("true", "false"))
    again = run("harness.tune", "--resume", "--name=s", cwd=tmp_path)
    assert again.code == 0, again
    assert again.out.split("best: ")[1] == first.out.split("best: ")[1]


@pytest.mark.slow
def test_ctrl_c_marks_the_runs_killed_and_resume_finishes_the_search(tmp_path: Path) -> None:
    process = search_until_trials(tmp_path, ended=2)
    result, seconds = interrupt(process)  # type: ignore[arg-type]
    assert result.code == 130, result
    assert seconds < 10
    assert "python -m harness.tune --resume --name=s" in result.out
    assert "Traceback" not in result.err
    statuses = [item.info.status for item in search_runs(tmp_path)]
    assert "RUNNING" not in statuses
    assert "KILLED" in statuses
    assert_whole_after_resume(tmp_path)


@pytest.mark.slow
def test_kill_9_of_the_driver_then_resume_finishes_the_search(tmp_path: Path) -> None:
    process = search_until_trials(tmp_path, ended=2)
    os.kill(process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
    finish(process)  # type: ignore[arg-type]
    assert_whole_after_resume(tmp_path)
