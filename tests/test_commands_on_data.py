"""The real commands on miniature trees of each data set, and the recipes."""

from pathlib import Path

import pytest
import yaml

from harness import predict, train
from harness.classes import read_classes
from harness.config import load_config, train_config
from tests.commands import ROOT, TINY, TINY_TRAIN, call, run
from tests.studies import entries, write_space

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
CLASSES = {"cityscapes": 19, "voc": 21, "camvid": 11, "folder": 3}
PHOTOGRAPHS = {"cityscapes": "leftImg8bit/val", "voc": "VOCdevkit/VOC2012/JPEGImages", "camvid": "images/test"}


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_train_predict_and_tune_on_each_data_set(
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = request.getfixturevalue(f"{name}_root")
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
    assert len(list((here / "out/masks").rglob("*.png"))) == len([*images.rglob("*.png"), *images.rglob("*.jpg")])

    study = "trials: 2\nsampler: random\nconfirm: {top: 1, seeds: 1}\nspace: {ssl.tau: {low: 0.1, high: 0.9}}\n"
    flags = [word.replace("--data", "--train.data") for word in data]
    result = run("harness.tune", write_space(here, study), "--name=s", *TINY_TRAIN, *flags, cwd=here)
    assert result.code == 0, result
    assert {one["state"] for one in entries(here)} <= {"complete", "stopped"}
    assert "confirmed: test/miou" in result.out


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
