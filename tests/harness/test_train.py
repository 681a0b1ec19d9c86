"""harness.train as its user meets it."""

import os
import re
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mlflow import MlflowClient
from safetensors.torch import load_file, save_file
from torchvision.io import write_png

from classmix_core.data.datasets import scenes
from harness import train
from harness.cli.capacity import find_team
from harness.cli.options import CommonOptions
from harness.config.train import TrainConfig
from harness.errors import UserError
from harness.run_dir import RunRecord
from harness.training.provenance import device_name, git_tags
from tests.commands import ROOT, TINY, assert_refused, call, files, finish, interrupt, run, start, wait_for
from tests.trees import build_folder, label_more

ALL_SCENES = str(scenes.COUNTS["train"])
LONG = (*TINY[1:], "--steps=2000", "--checkpoint_every=5", "--name=long")


def statuses(folder: Path) -> dict[str, str]:
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiments = [item.experiment_id for item in client.search_experiments()]
    return {item.info.run_name: item.info.status for item in client.search_runs(experiments)}


def test_a_run_leaves_config_splits_weights_and_a_finished_mlflow_run(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = call(train.main, capsys, *TINY, "--name=a")
    assert result.code == 0
    assert result.err == ""
    for word in ("person", "mean", "harness.ui", "test mIoU"):
        assert word in result.out
    names = {path.name for path in (here / "runs/a").iterdir()}
    assert {"config.yaml", "splits", "best.safetensors", "run.json"} <= names
    assert statuses(here) == {"a": "FINISHED"}
    labelled = (here / "runs/a/splits/labelled.txt").read_text().split()
    assert labelled == sorted(labelled)


def page(folder: Path) -> Any:
    """The only run of the experiment."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (found,) = client.search_runs([item.experiment_id for item in client.search_experiments()])
    return found


def test_the_run_page_says_where_the_run_comes_from_and_what_it_cost(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = call(train.main, capsys, *TINY, "--name=a", "--seed=3")
    found = page(here)
    tags = found.data.tags
    assert tags["harness.argv"] == f"python -m harness.train {' '.join(TINY)} --name=a --seed=3"
    assert tags["mlflow.source.name"] == "python -m harness.train"
    assert f"torch {torch.__version__.partition('+')[0]}" in tags["harness.versions"]
    assert tags["harness.device"] == device_name(torch.device("cpu"))
    assert git_tags(ROOT).items() <= tags.items()
    roles = [one.tags[0].value for one in found.inputs.dataset_inputs]
    assert roles == ["labelled", "unlabelled", "val", "test"]
    hours = found.data.metrics["cost/core_hours"]
    assert 0 < hours < 0.5
    (cost,) = re.findall(r"^cost: (\S+) core-hours$", result.out, re.MULTILINE)
    assert float(cost) == pytest.approx(hours, rel=0.05)


def test_the_command_on_the_run_page_repeats_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = call(train.main, capsys, *TINY, "--name=a", "--seed=3")
    again = call(train.main, capsys, "--config=runs/a/config.yaml", "--name=b")
    tables = [result.out.split("test, student")[1].partition("\ncost: ")[0] for result in (first, again)]
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--stepz=3",), ("--stepz", "nearest key: steps")),
        (("--steps=three",), ("steps", "int", "three")),
        (("--ssl.tau=1.5",), ("ssl.tau", "0 <= tau <= 1", "1.5")),
        (("--ssl.ema_decay=1",), ("ssl.ema_decay", "ema_decay < 1", "1")),
        (("--data.labelled=1000",), ("data.labelled", ALL_SCENES, "1000")),
        ((f"--data.labelled={ALL_SCENES}",), ("data.labelled", "unlabelled")),
        (("--data.split_file=none.txt",), ("data.split_file", "none.txt")),
        (("--data.name=camvid", "--data.root=nowhere"), ("nowhere", "must exist")),
        (("--data.name=camvid", "--data.root=."), ("images/train", "must exist")),
        (("--data.name=folder", "--data.root=."), ("classes.txt", "must exist")),
        (("--model.name=smp/Nonsense/resnet18",), ("model.name", "Nonsense")),
        (("--name=a/b",), ("--name", "a/b")),
        (("--resume",), ("--resume", "runs")),
        (("--resume", "--name=a"), ("--resume", "runs/a")),
        (("--tracking-uri=nonsense://x",), ("--tracking-uri", "nonsense://x")),
        (("--workers=2", "--gpus=1"), ("workers", "workers == gpus", "2")),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], words: tuple[str, ...]
) -> None:
    if "smp/" in args[0]:
        pytest.importorskip("segmentation_models_pytorch")
    assert_refused(call(train.main, capsys, *args), here, *words)


def label_beyond(root: Path) -> Path:
    path = root / "labels/train/seq5.png"
    write_png(torch.full((1, 9, 13), 12, dtype=torch.uint8), str(path))
    return path


def size_differs(root: Path) -> Path:
    path = root / "labels/val/seq9.png"
    write_png(torch.zeros(1, 9, 12, dtype=torch.uint8), str(path))
    return path


def unreadable(root: Path) -> Path:
    path = root / "images/test/seq8.png"
    path.write_bytes(path.read_bytes()[:40])
    return path


def no_image(root: Path) -> Path:
    for path in (root / "images/val").iterdir():
        path.unlink()
    return root / "images/val"


def no_label(root: Path) -> Path:
    path = root / "labels/test/seq9.png"
    path.unlink()
    return path


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (label_beyond, ("0..10", "12")),
        (size_differs, ("one size", "9x12", "9x13")),
        (unreadable, ("readable",)),
        (no_image, ("at least one image",)),
        (no_label, ("must exist",)),
    ],
)
def test_a_damaged_data_set_is_one_line_with_the_file_and_leaves_nothing(
    here: Path, camvid_root: Path, capsys: pytest.CaptureFixture[str], damage: object, words: tuple[str, ...]
) -> None:
    assert callable(damage)
    path = damage(camvid_root)
    args = ("--data.name=camvid", f"--data.root={camvid_root}", "--data.labelled=7", "--ssl.unlabelled_weight=0")
    assert_refused(call(train.main, capsys, *args), here, str(path), *words)


def test_camvid_trains_and_reports_each_class(
    here: Path, camvid_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ("--data.name=camvid", f"--data.root={camvid_root}", "--data.labelled=3", "--data.resize=[16,24]")
    result = call(train.main, capsys, *TINY, *args)
    assert result.code == 0, result.err
    assert "bicyclist" in result.out


def test_more_gpus_than_there_are_is_refused_with_what_to_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = torch.cuda.device_count()
    result = call(train.main, capsys, f"--gpus={there + 8}")
    assert_refused(result, here, str(there + 8), f"has {there}", "python -m harness.train --gpus")
    result = call(train.main, capsys, "--seed=3", "--gpus", str(there + 8), "--ssl.tau=0.5")
    assert_refused(result, here, "python -m harness.train --seed=3 --ssl.tau=0.5 --gpus=")


def test_a_batch_that_the_workers_cannot_share_is_refused_with_two_commands(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--gpus=0", "--workers=3", "--data.batch_labelled=4", "--data.batch_unlabelled=6")
    result = call(train.main, capsys, *words)
    fewer = "--data.batch_labelled=4 --data.batch_unlabelled=6 --gpus=0 --workers=2"
    larger = "--gpus=0 --workers=3 --data.batch_labelled=6 --data.batch_unlabelled=6 --optim.lr=0.15"
    assert_refused(result, here, "data.batch_labelled", f"harness.train {fewer} or", f"harness.train {larger}\n")


def test_a_taken_name_is_refused_and_says_how_to_go_on(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(train.main, capsys, *TINY, "--name=a")
    result = call(train.main, capsys, *TINY, "--name=a")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "another --name" in result.err
    result = call(train.main, capsys, "--resume", "--name=a")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "ran to its end" in result.err


def test_training_starts_from_a_file_of_weights_and_says_what_fitted(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(train.main, capsys, *TINY, "--name=a").code == 0
    file = here / "runs/a/best.safetensors"
    result = call(train.main, capsys, *TINY, "--name=b", f"--model.weights={file}", "--optim.lr=1e-12")
    assert result.code == 0, result
    own, given = load_file(here / "runs/b/best.safetensors"), load_file(file)
    trained = [name for name in given if name.endswith(("weight", "bias"))]
    assert f"weights: {len(given) - sum('num_batches' in name for name in given)} of" in result.out
    for name in trained:
        assert torch.allclose(own[name], given[name], atol=1e-6), name

    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    shutil.rmtree(here / "runs")
    for store in here.glob("mlflow.db*"):
        store.unlink()
    shutil.rmtree(here / "mlruns")
    refused = call(train.main, capsys, *TINY, f"--model.weights={tmp_path}/other.safetensors")
    assert_refused(refused, here, "other.safetensors", "must hold tensors of the network", "but has x")


@pytest.mark.parametrize("before", ["none", "disk"])
@pytest.mark.parametrize("after", ["none", "disk"])
def test_a_resume_may_change_where_samples_are_cached_and_nothing_else(
    tmp_path: Path, camvid_root: Path, before: str, after: str
) -> None:
    data = {"name": "camvid", "root": str(camvid_root), "labelled": 3, "cache": before}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"steps": 7, "data": data}))
    config = train.resumed_config(tmp_path, [f"--data.cache={after}", "--data.loader_workers=2", "--steps=7"])
    assert (config.data.cache, config.data.loader_workers, config.data.labelled, config.steps) == (after, 2, 3, 7)
    assert train.resumed_config(tmp_path, ["--resume", "--name=a"]).data.cache == before
    with pytest.raises(UserError, match=r"steps: .* keeps its configuration \(7\), but got 8"):
        train.resumed_config(tmp_path, ["--steps=8"])


def test_flags_of_a_resume_are_read_over_the_stored_configuration(
    here: Path, camvid_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """data.root and cache_dir break a rule of the default data set, but not of the stored one."""
    folder = here / "runs/a"
    folder.mkdir(parents=True)
    RunRecord("train", "sqlite:///x.db", "1", "abc").write(folder)
    data = {"name": "camvid", "root": str(camvid_root), "labelled": 3, "cache": "disk"}
    (folder / "config.yaml").write_text(yaml.safe_dump({"steps": 7, "data": data}))
    words = ("--resume", "--name=a", f"--data.root={camvid_root}", f"--data.cache_dir={here}")
    result = call(train.main, capsys, *words, "--steps=8")
    assert (result.code, result.err.count("\n")) == (2, 1), result
    assert "steps: a resumed run keeps its configuration (7), but got 8" in result.err


@pytest.mark.parametrize("gpus", [1, 4])
def test_waiting_for_gpus_is_for_a_cluster_alone(gpus: int) -> None:
    there = torch.cuda.device_count()
    options = CommonOptions(
        name=None, resume=False, tracking_uri=None, storage_path="runs", address=None, verbose=False
    )
    with pytest.raises(UserError, match=f"gpus: {gpus + there} asked for, but this machine has {there}"):
        find_team(TrainConfig(gpus=gpus + there), options, [])


@pytest.mark.slow
def test_ctrl_c_saves_says_how_to_resume_and_resume_goes_on(tmp_path: Path) -> None:
    process = start("harness.train", *LONG, cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob("runs/long/checkpoints/step_*[0-9]")), process)
    result, seconds = interrupt(process)
    assert result.code == 130
    assert seconds < 10
    assert "python -m harness.train --resume --name=long" in result.out
    assert "Traceback" not in result.err
    assert statuses(tmp_path) == {"long": "KILLED"}
    saved = max(tmp_path.glob("runs/long/checkpoints/step_*[0-9]"))

    refused = run("harness.train", "--resume", "--name=long", "--ssl.tau=0.5", cwd=tmp_path)
    assert refused.code == 2
    assert "ssl.tau" in refused.err

    before = page(tmp_path).data.metrics["cost/core_hours"]
    process = start("harness.train", "--resume", "--name=long", cwd=tmp_path)
    wait_for(lambda: max(tmp_path.glob("runs/long/checkpoints/step_*[0-9]")) > saved, process)
    result, _ = interrupt(process)
    assert result.code == 130
    assert statuses(tmp_path) == {"long": "KILLED"}
    found = page(tmp_path)
    words = f"python -m harness.train {' '.join(LONG)} | python -m harness.train --resume --name=long"
    assert found.data.tags["harness.argv"] == words
    assert " | " not in found.data.tags["harness.versions"], "nothing else has changed"
    assert len(found.inputs.dataset_inputs) == 4, "none is there twice"
    assert found.data.metrics["cost/core_hours"] > before > 0


@pytest.mark.slow
def test_a_full_disk_ends_the_run_in_one_line_and_a_resume_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    """Full: the system lets no file of the running command become as large as a checkpoint."""
    words = (*TINY[:-2], "--model.width=64", "--model.depth=1", "--steps=20", "--checkpoint_every=1", "--eval_every=10")
    process = start("harness.train", *words, "--name=a", cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob("runs/a/checkpoints/step_*[0-9]")), process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))  # the store has 1 MB, state.pt 4.6
    result = finish(process)
    assert result.code == 1, result
    assert "Traceback" not in result.err
    what = rf"{tmp_path}/runs/a/checkpoints/step_\d+ cannot be written: File too large"
    rest = r"the last checkpoint, of step \d+, is whole. Once the cause is gone, go on with: python -m harness.train"
    assert re.fullmatch(rf"failed: {what}; {rest} --resume --name=a\n", result.err), result.err
    assert statuses(tmp_path) == {"a": "FAILED"}
    assert not list(tmp_path.glob("runs/a/**/*.part"))
    assert run("harness.train", "--resume", "--name=a", cwd=tmp_path).code == 0
    assert run("harness.train", *words, "--name=b", cwd=tmp_path).code == 0
    for file in ("best.safetensors", "best_teacher.safetensors", "checkpoints/step_00000020/rank_0.pt"):
        assert (tmp_path / "runs/a" / file).read_bytes() == (tmp_path / "runs/b" / file).read_bytes(), file


@pytest.mark.slow
def test_commands_of_the_same_second_share_neither_folder_nor_run(tmp_path: Path) -> None:
    """In a fresh folder, where they also make the MLflow store together."""
    seeds = range(4)
    results = [finish(one) for one in [start("harness.train", *TINY, f"--seed={seed}", cwd=tmp_path) for seed in seeds]]
    assert [result.code for result in results] == [0] * 4, results
    folders = list((tmp_path / "runs").iterdir())
    assert len(folders) == 4
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("train").experiment_id])
    assert {item.info.run_name: item.info.status for item in runs} == dict.fromkeys(
        (folder.name for folder in folders), "FINISHED"
    )
    assert len(client.search_model_versions()) == 4
    of_run = {item.info.run_name: item.data.params["seed"] for item in runs}
    assert set(of_run.values()) == {str(seed) for seed in seeds}
    for folder in folders:
        seed = of_run[folder.name]
        assert yaml.safe_load((folder / "config.yaml").read_text())["seed"] == int(seed)
    weights = {of_run[folder.name]: (folder / "best.safetensors").read_bytes() for folder in folders}
    assert len(set(weights.values())) == 4
    for seed in of_run.values():
        assert run("harness.train", *TINY, f"--seed={seed}", f"--name=alone{seed}", cwd=tmp_path).code == 0
        assert (tmp_path / f"runs/alone{seed}/best.safetensors").read_bytes() == weights[seed], seed


@pytest.mark.slow
def test_of_two_commands_with_one_name_one_is_refused_and_the_other_works(tmp_path: Path) -> None:
    results = [finish(one) for one in [start("harness.train", *TINY, "--name=a", cwd=tmp_path) for _ in range(2)]]
    done, refused = sorted(results, key=lambda result: result.code)
    assert (done.code, refused.code, refused.err.count("\n")) == (0, 2, 1), results
    assert "another command is at work on it" in refused.err
    assert statuses(tmp_path) == {"a": "FINISHED"}
    assert (tmp_path / "runs/a/best.safetensors").is_file()


@pytest.mark.slow
def test_kill_9_then_resume_goes_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    short = (*TINY[1:], "--steps=40", "--eval_every=10", "--checkpoint_every=2", "--name=short")
    process = start("harness.train", *short, cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob("runs/short/checkpoints/step_*[0-9]")), process)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    assert statuses(tmp_path) == {"short": "RUNNING"}
    result = run("harness.train", "--resume", cwd=tmp_path)
    assert result.code == 0, result.err
    assert statuses(tmp_path) == {"short": "FINISHED"}
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("train").experiment_id])
    steps = [point.step for point in client.get_metric_history(found.info.run_id, "val/miou")]
    assert sorted(set(steps)) == [10, 20, 30, 40]


@pytest.mark.slow
def test_a_resume_refuses_labels_that_were_added_and_without_them_equals_an_undisturbed_run(tmp_path: Path) -> None:
    root = build_folder(tmp_path / "photos")
    data = (f"--data.root={root}", "--data.name=folder", "--data.resize=[16,24]")
    words = (*TINY[1:], *data, "--steps=60", "--eval_every=30", "--checkpoint_every=2")
    straight = run("harness.train", *words, "--name=a", cwd=tmp_path)
    assert straight.code == 0, straight
    process = start("harness.train", *words, "--name=b", cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob("runs/b/checkpoints/step_*[0-9]")), process)
    assert interrupt(process)[0].code == 130

    added, before = label_more(root), (files(tmp_path / "runs"), statuses(tmp_path))
    refused = run("harness.train", "--resume", "--name=b", cwd=tmp_path)
    assert (refused.code, refused.err.count("\n")) == (2, 1), refused
    assert "images/2026 summer/IMG_1008.JPG (unlabelled -> " in refused.err
    assert "4 changed" in refused.err
    assert "python -m harness.train --config runs/b/config.yaml --name NEW" in refused.err
    assert (files(tmp_path / "runs"), statuses(tmp_path)) == before, "nothing is written"

    for path in added:
        path.unlink()
    resumed = run("harness.train", "--resume", "--name=b", cwd=tmp_path)
    assert resumed.code == 0, resumed
    first, second = (load_file(tmp_path / f"runs/{name}/best.safetensors") for name in "ab")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    results = [result.out.split("test, student")[1].partition("\ncost: ")[0] for result in (straight, resumed)]
    assert results[0] == results[1]
