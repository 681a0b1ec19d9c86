"""The real commands on miniature trees of each data set, and the recipes."""

from pathlib import Path

import pytest
import yaml

from classmix_core.data.image_io import image_files
from harness import predict, train
from harness.config.train import TrainConfig, flatten, from_mapping, load_config, train_config
from harness.inference.class_names import read_classes
from tests.commands import ROOT, TINY, TINY_TRAIN, call, run
from tests.studies import NO_BASELINE, ONE_AT_A_TIME, records, write_space
from tests.trees import build_camvid, build_cityscapes, build_folder, build_voc

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
CLASSES = {"cityscapes": 19, "voc": 21, "camvid": 11, "folder": 3}
PHOTOGRAPHS = {"cityscapes": "leftImg8bit/val", "voc": "VOCdevkit/VOC2012/JPEGImages", "camvid": "test"}
TAU = "ssl.tau: {low: 0.1, high: 0.9}"
BUILD = {"cityscapes": build_cityscapes, "voc": build_voc, "camvid": build_camvid, "folder": build_folder}


@pytest.mark.parametrize("name", CLASSES)
def test_train_and_predict_on_each_data_set(
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = BUILD[name](tmp_path / name)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    data = (f"--data.name={name}", f"--data.root={root}", "--data.labelled=2", "--data.resize=[16,24]")
    result = call(train.main, capsys, *TINY, *data, "--name=a")
    assert result.code == 0, result
    assert len(read_classes(here / "runs/a/classes.json").names) == CLASSES[name]

    images = root / PHOTOGRAPHS.get(name, "images")
    result = call(predict.main, capsys, "--checkpoint=runs/a", f"--images={images}", "--out=out")
    assert result.code == 0, result
    assert len(list((here / "out/masks").rglob("*.png"))) == len(image_files(images))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "axis"), [("folder", "data.labelled: {values: [2, 1]}"), ("voc", TAU)])
def test_a_search_on_files(name: str, axis: str, tmp_path: Path) -> None:
    data = (f"--train.data.name={name}", f"--train.data.root={BUILD[name](tmp_path / name)}")
    here = tmp_path / "here"
    here.mkdir()
    study = (
        f"trials: 2\nsampler: random\nconfirm: {{top: 1, seeds: 1}}\nspace: {{{axis}}}\n{NO_BASELINE}{ONE_AT_A_TIME}"
    )
    flags = (*data, "--train.data.resize=[16,24]", *(["--train.data.labelled=2"] if axis == TAU else []))
    result = run("harness.tune", write_space(here, study), "--name=s", *TINY_TRAIN, *flags, cwd=here)
    assert result.code == 0, result
    assert {one["state"] for one in records(here)} <= {"complete", "pruned"}
    assert "confirmed: test/miou" in result.out
    for one in (*records(here), *records(here, "confirm")) if axis != TAU else ():
        phase = "confirm" if "seed" in one["values"] else "trials"
        labelled = (here / f"runs/s/{phase}/{one['number']:03d}/splits/labelled.txt").read_text().splitlines()
        assert len(labelled) == one["values"]["data.labelled"], "its axis changes the split, so it has lists of its own"


PAPER = {
    "steps": 40000,
    "model.name": "deeplabv2",
    "model.aspp_branches": 2,
    "model.batch_norm": "frozen_affine",
    "ssl.tau": 0.968,
    "ssl.ema_decay": 0.99,
    "ssl.mix": "class",
    "ssl.weight": "batch",
    "ssl.teacher_mode": "train",
    "optim.name": "sgd",
    "optim.lr": 2.5e-4,
    "optim.head_lr_scale": 10,
    "optim.lr_scales": "authors",
    "optim.momentum": 0.9,
    "optim.weight_decay": 5e-4,
    "optim.power": 0.9,
    "eval.network": "student",
    "data.flip": False,
}
"""Of the authors' code on both data sets; what differs is below."""
CITYSCAPES = {"data.resize": (512, 1024), "data.crop": None, "data.scale": (1.0, 1.0), "data.batch_labelled": 2}
CITYSCAPES |= {"data.batch_unlabelled": 2, "ssl.jitter": 0.25, "ssl.jitter_probability": 0.8, "ssl.blur": 1.15}
CITYSCAPES |= {"ssl.blur_probability": 0.5, "eval.resize_labels": True, "eval_every": 5000}
VOC = {"data.resize": None, "data.crop": (321, 321), "data.scale": (0.5, 1.6), "data.batch_labelled": 10}
VOC |= {
    "data.batch_unlabelled": 10,
    "ssl.jitter": 0.0,
    "ssl.blur": 0.0,
    "eval.resize_labels": False,
    "eval_every": 5000,
}


@pytest.mark.parametrize(("name", "own"), [("cityscapes", CITYSCAPES), ("voc", VOC)])
def test_the_papers_recipes_are_those_of_the_authors_code(name: str, own: dict[str, object]) -> None:
    values = yaml.safe_load((ROOT / f"recipes/paper_{name}.yaml").read_text())
    values["data"]["root"] = "anywhere"
    found = flatten(from_mapping(TrainConfig, values))
    for key, value in (PAPER | own).items():
        assert found[key] == value, key


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_a_recipe_prints_as_the_configuration_that_it_is(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = f"--data.root={tmp_path}"
    result = call(train.main, capsys, f"--config={recipe}", root, "--print_config")
    assert result.code == 0, result
    printed = tmp_path / "printed.yaml"
    printed.write_text(result.out)
    given = tmp_path / "given.yaml"
    values = yaml.safe_load(recipe.read_text())
    values["data"]["root"] = str(tmp_path)
    given.write_text(yaml.safe_dump(values))
    again = train.build_parser().read([f"--config={printed}"])
    assert train_config(again.as_dict()) == load_config(given)
    for key, value in values["data"].items():
        assert yaml.safe_load(result.out)["data"][key] == value, key
