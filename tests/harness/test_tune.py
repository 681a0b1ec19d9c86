"""harness.tune as its user meets it, on the real Ray, Optuna and MLflow."""

import csv
import json
import os
import re
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from harness import tune
from harness.tracking.names import TRIAL
from harness.training.provenance import git_tags
from tests.commands import ROOT, SPACE, assert_refused, call, run
from tests.studies import BASE, ONE_AT_A_TIME, artifacts, mlflow_runs, records, write_space

SMOKE = ROOT / "search_spaces" / "smoke.yaml"
ONE_AXIS = "space: {ssl.tau: {low: 0.3, high: 0.99}}"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), ("--space", "search_spaces/tau_ema.yaml")),
        (("--space=none.yaml",), ("--space", "none.yaml")),
        ((f"--space={SPACE}", "--trials=0"), ("--trials", "trials >= 1", "0")),
        ((f"--space={SPACE}", "--train.ssl.tau=2"), ("train.ssl.tau", "0 <= tau <= 1", "2")),
        ((f"--space={SPACE}", "--train.ssl.tau=0.5"), ("--train.ssl.tau", "space.ssl.tau", "tau_ema.yaml")),
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
        ("sampler: grid", ("space.ssl.tau", "{values}", "grid")),
    ],
)
def test_a_bad_space_file_is_one_line_and_leaves_nothing(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, words: tuple[str, ...]
) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(f"{change}\n{ONE_AXIS}")
    assert_refused(call(tune.main, capsys, f"--space={file}"), here, *words)


@pytest.mark.parametrize(
    ("shared", "words"),
    [
        ("{steps: 0}", ("train.steps: `steps >= 1`",)),
        ("{steps: foo}", ("train", "steps", "foo")),
        ("{stepz: 3}", ("train", "stepz")),
        ("{data: {name: folder}}", ("train.data.root",)),
        ("{data: 5}", ("train", "data", "5")),
    ],
)
def test_an_error_in_what_trials_share_names_the_file_and_the_key(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], shared: str, words: tuple[str, ...]
) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(f"train: {shared}\nspace: {{ssl.tau: {{low: 0.1, high: 0.9}}}}\n")
    assert_refused(call(tune.main, capsys, f"--space={file}"), here, str(file), *words)


@pytest.mark.slow
def test_a_study_ends_with_a_confirmed_configuration_and_true_mlflow_states(tmp_path: Path) -> None:
    result = run("harness.tune", f"--space={SMOKE}", "--name=s", cwd=tmp_path)
    assert result.code == 0, result
    assert result.err == ""
    for word in ("4 trials", "ASHA", "at a time", "4/4 done", "left", "its IoU on val: sky", "harness.ui"):
        assert word in result.out, word
    assert "confirmed: test/miou" in result.out
    assert "over 2 seed(s)" in result.out
    assert "python -m harness.train --config runs/s/best.yaml" in result.out

    with (tmp_path / "runs/s/trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in rows] == list(range(4))
    assert (float(rows[0]["ssl.tau"]), float(rows[0]["optim.lr"])) == (0.968, 0.05)
    assert all(0.3 <= float(row["ssl.tau"]) <= 0.99 for row in rows)
    assert {row["state"] for row in rows} == {"complete", "pruned"}, "early stopping is at work"
    assert {row["steps"] for row in rows if row["state"] == "complete"} == {"6"}

    (baseline,), reruns = records(tmp_path, "baseline"), records(tmp_path, "confirm")
    assert (baseline["values"], baseline["state"]) == ({"optim.lr": 0.05, "ssl.unlabelled_weight": 0.0}, "complete")
    best = max((row for row in rows if row["state"] == "complete"), key=lambda row: float(row["val/miou"]))
    raced = {"trials/000", f"trials/{int(best['trial']):03d}", "baseline/000"}
    assert sorted((one["of"], one["values"]["seed"]) for one in reruns) == sorted(
        (name, seed) for name in raced for seed in (1, 2)
    ), "the start point, the best and the baseline, twice each"
    assert all(one["values"]["data.split_seed"] == one["values"]["seed"] for one in reruns)
    assert {(one["state"], one["step"]) for one in reruns} == {("complete", 6)}
    drawn = {one["number"]: (tmp_path / f"runs/s/confirm/{one['number']:03d}/splits/labelled.txt") for one in reruns}
    lists = {one["values"]["seed"]: drawn[one["number"]].read_text() for one in reruns}
    assert lists[1] != lists[2]
    assert all(drawn[one["number"]].read_text() == lists[one["values"]["seed"]] for one in reruns)
    with (tmp_path / "runs/s/confirm.csv").open() as file:
        table = list(csv.DictReader(file))
    assert sorted((row["of"], int(row["seed"])) for row in table) == sorted(
        (one["of"], one["values"]["seed"]) for one in reruns
    )
    written = yaml.safe_load((tmp_path / "runs/s/best.yaml").read_text())
    means = {
        name: {key: fmean(float(row[f"{key}/miou"]) for row in table if row["of"] == name) for key in ("val", "test")}
        for name in raced
    }
    helped = [one for one in reruns if one["of"] != "baseline/000"]
    chosen = {(one["values"]["ssl.tau"], one["values"]["optim.lr"]): one["of"] for one in helped}[
        written["ssl"]["tau"], written["optim"]["lr"]
    ]
    assert (written["steps"], written["seed"]) == (6, 0)

    parent, children = mlflow_runs(tmp_path)
    assert {item.info.status for item in (parent, *children)} == {"FINISHED"}
    counts = {"baseline": 1, "confirm": len(reruns), "trials": 4}
    names = [f"{phase}/{number:03d}" for phase, count in counts.items() for number in range(count)]
    assert [item.data.tags[TRIAL] for item in children] == names
    for item in children:
        seen = {key.split("/")[0] for key in item.data.metrics}
        scored = {"val", "test"} if item.data.tags[TRIAL].startswith("confirm") else {"val"}
        assert seen == {"train", "cost"} | scored
    figures = parent.data.metrics
    assert figures["chosen/test/miou/mean"] == pytest.approx(means[chosen]["test"])
    assert figures["chosen/val/miou/mean"] == pytest.approx(means[chosen]["val"])
    gain = means[chosen]["test"] - means["baseline/000"]["test"]
    assert figures["gain_over_baseline/test/miou"] == pytest.approx(gain)
    assert figures["gain_over_baseline/low"] < gain < figures["gain_over_baseline/high"]
    assert f"unlabelled images: {100 * gain:+.1f} points (95%: " in result.out
    command = f"python -m harness.tune --space={SMOKE} --name=s"
    known = ("harness.argv", "harness.versions", "mlflow.user", "mlflow.source.name", *git_tags(ROOT))
    for item in (parent, *children):
        assert item.data.tags["harness.argv"] == command
        assert [item.data.tags[name] for name in known] == [parent.data.tags[name] for name in known]
        roles = {one.tags[0].value for one in item.inputs.dataset_inputs}
        phase = item.data.tags.get(TRIAL, "").partition("/")[0]
        supervised = item.data.params["ssl.unlabelled_weight"] == "0.0"
        used = {"labelled", "val"} if supervised else {"labelled", "unlabelled", "val"}
        assert roles == used | ({"test"} if phase in ("confirm", "") else set())
        assert item is parent or "harness.device" in item.data.tags
    total = sum(item.data.metrics["cost/core_hours"] for item in children)
    assert total <= parent.data.metrics["cost/core_hours"] <= 2 * total, "its trials, with how they begin and end"
    assert re.search(r"^cost: \S+ core-hours$", result.out, re.MULTILINE)
    files = artifacts(tmp_path, parent.info.run_id)
    assert {"best.yaml", "trials.csv", "confirm.csv", "space.yaml", "optuna.db", "plots.html"} <= files
    page = (tmp_path / "runs/s/plots.html").read_text()
    several = len({row["val/miou"] for row in rows if row["state"] == "complete"}) > 1
    plots = ["learning curves", "history", "slice", "parallel coordinate", *(["importance"] if several else [])]
    assert [name for name in plots if f"<h2>{name}</h2>" in page] == plots
    assert "cdn.plot" not in page.split("<h2>")[-1], "it needs no network"

    study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/runs/s/optuna.db")
    states = ["COMPLETE" if row["state"] == "complete" else "PRUNED" for row in rows]
    assert [trial.state.name for trial in study.trials] == states

    check_winner(tmp_path, parent, [one for one in reruns if one["of"] == chosen])
    assert "report.html" in files

    result = run("harness.train", "--config=runs/s/best.yaml", cwd=tmp_path)
    assert result.code == 0, result.err


def check_winner(folder: Path, parent: Run, reruns: list[dict[str, Any]]) -> None:
    """Its best seed is a model; it and the baseline's alone have kept their weights; pages and views are there."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    best = max(reruns, key=lambda one: one["metrics"]["val/miou"])
    home = folder / f"runs/s/confirm/{best['number']:03d}"
    kept = [path.parent for path in (folder / "runs/s/confirm").glob("*/best.safetensors")]
    assert home in kept
    assert len(kept) == 2
    (version,) = client.search_model_versions(f"run_id='{(home / 'mlflow_run_id').read_text()}'")
    page, text = (folder / "runs/s/report.html").read_text(), parent.data.tags["mlflow.note.content"]
    for word in (
        f"models:/{version.name}@champion",
        "baseline",
        "harness.train --config runs/s/best.yaml",
        "core-hours",
    ):
        assert word in page, word
        assert word in text, word
    assert page.count("data:image/jpeg;base64") == 4, "images of val beside the baseline"
    assert "| trial | tau | lr | val/miou | test/miou | seeds |\n| --- |" in text
    tags = client.get_experiment(parent.info.experiment_id).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    view = json.loads(tags["mlflow.sharedViewState.search"])
    assert {"params.`ssl.tau`", "metrics.`val/miou`"} < set(view["selectedColumns"])
    assert "workflowType=machine_learning&viewStateShareKey=search" in text
    labelled = run("harness.predict", f"--checkpoint={home}", "--images=none", cwd=folder)
    assert "--images" in labelled.err, "the network is found, only images are missing"


@pytest.mark.slow
def test_a_grid_with_seeds_tries_each_point_once_and_prints_its_table(tmp_path: Path) -> None:
    space = """
sampler: grid
early_stopping: null
confirm: {top: 0}
space:
  ssl.mix: {values: [class, none]}
  ssl.weight: {values: [image, pixel]}
  seed: {values: [3, 4]}
"""
    flag = write_space(tmp_path, BASE.replace("24", "2").replace("eval_every: 4", "eval_every: 2") + space)
    result = run("harness.tune", flag, "--name=s", cwd=tmp_path)
    assert result.code == 0, result
    points = [tuple(one["values"].values()) for one in records(tmp_path)]
    assert points == [
        (mix, weight, seed) for mix in ("class", "none") for weight in ("image", "pixel") for seed in (3, 4)
    ]
    processes = {(tmp_path / f"runs/s/trials/{number:03d}/lock").read_text() for number in range(8)}
    assert len(processes) == min(os.cpu_count() or 1, 8), "each actor runs one trial after the other"
    assert "mean +- std over 2 seeds" in result.out
    assert "mix / weight" in result.out
    assert result.out.count("+-") >= 5, "four cells and a title"
    assert (tmp_path / "runs/s/points.csv").is_file()
    assert yaml.safe_load((tmp_path / "runs/s/best.yaml").read_text())["seed"] == 0


@pytest.mark.slow
def test_a_search_ends_soon_after_its_budget_and_says_that_it_is_not_confirmed(tmp_path: Path) -> None:
    text = (
        BASE.replace("24", "100000")
        + ONE_AXIS
        + "\ntrials: 50\nbudget: {minutes: 0.25}\nconfirm: {top: 0}\n"
        + ONE_AT_A_TIME
    )
    result = run("harness.tune", write_space(tmp_path, text), "--name=s", cwd=tmp_path)
    assert result.code == 0, result
    assert "0.25 min at most" in result.out
    assert "not confirmed" in result.out
    assert "confirm: {top: 4, seeds: [3, 8]}" in result.out
    found = records(tmp_path)
    assert 1 <= len(found) < 50
    assert {one["state"] for one in found} == {"pruned"}
    _, children = mlflow_runs(tmp_path)
    assert {item.info.status for item in children} == {"FINISHED"}
