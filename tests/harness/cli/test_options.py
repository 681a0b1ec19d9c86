"""The options that commands share: above all where the default store lies."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from sqlalchemy.engine import make_url
from torchvision.io import write_png

from harness import predict, train
from harness.cli.options import CommonOptions, default_uri, place_to_look, sqlite_uri
from harness.tracking.names import TRIAL
from harness.tracking.store import sqlite_file
from tests.commands import TINY, TINY_TRAIN, call, run
from tests.studies import NO_BASELINE, ONE_AT_A_TIME, ended, write_space

ODD = "a?b #c %20 d"
"""Characters that mean something in a URL."""


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / ODD
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def logged() -> dict[str, str]:
    """What a plain MlflowClient finds in the current folder: the id of each run, by trial or name."""
    client = MlflowClient()  # as `mlflow ui` finds it
    runs = client.search_runs([item.experiment_id for item in client.search_experiments()])
    return {one.data.tags.get(TRIAL, one.info.run_name): one.info.run_id for one in runs}


def test_where_to_look_follows_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert place_to_look(default_uri()) == "python -m harness.ui"
    assert place_to_look("sqlite:////a b/x.db") == "python -m harness.ui --tracking-uri 'sqlite:////a b/x.db'"
    assert place_to_look("http://127.0.0.1:5000") == "http://127.0.0.1:5000"


@pytest.mark.parametrize("name", ["plain", "with blanks", "50%", "50%25", "a?b=c&d", "#1", "grün", ODD])
def test_the_uri_of_a_file_leads_to_that_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / name / "mlflow.db"
    url = make_url(sqlite_uri(path))
    assert (url.database, url.query, url.get_backend_name()) == (str(path), {}, "sqlite")
    path.parent.mkdir()
    monkeypatch.chdir(path.parent)
    assert sqlite_file(default_uri()) == path


@pytest.mark.parametrize("scheme", ["sqlite", "sqlite+pysqlite"])
def test_a_store_that_is_named_without_a_folder_is_in_this_one_wherever_a_run_is_resumed(
    scheme: str, odd: Path
) -> None:
    given = CommonOptions(
        name=None, resume=False, tracking_uri=f"{scheme}:///own.db", storage_path="runs", address=None, verbose=False
    )
    assert sqlite_file(given.uri) == odd / "own.db"
    for uri in ("sqlite:////tmp/own.db", "http://127.0.0.1:5000", "sqlite:///:memory:"):
        assert replace(given, tracking_uri=uri).uri == uri


def test_an_ordinary_path_is_in_its_uri_as_it_is() -> None:
    assert sqlite_uri(Path("/home/a b/mlflow.db")) == "sqlite:////home/a b/mlflow.db"
    assert sqlite_file("http://127.0.0.1:5000") is None
    assert sqlite_file("sqlite://") is None, "in memory"


def test_a_folder_of_any_name_keeps_its_store_and_its_artefacts(odd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = call(train.main, capsys, *TINY, "--name=a")
    assert (result.code, result.err) == (0, "")
    assert {path.name for path in odd.iterdir()} == {"mlflow.db", "mlflow.db.lock", "mlruns", "runs"}
    assert list(odd.parent.iterdir()) == [odd], "nothing beside it"

    run_id = logged()["a"]
    kept = odd / "mlruns" / run_id / "artifacts"
    assert {"config.yaml", "splits", "model", "images"} <= {path.name for path in kept.iterdir()}
    assert {item.path for item in MlflowClient().list_artifacts(run_id)} == {path.name for path in kept.iterdir()}

    write_png(torch.zeros(3, 32, 48, dtype=torch.uint8), "photo.png")
    result = call(predict.main, capsys, "--run", run_id, "--images=photo.png", "--out=out")
    assert result.code == 0, result
    assert (odd / "out/masks/photo.png").is_file()


@pytest.mark.slow
def test_a_study_in_a_folder_of_any_name_logs_each_trial_there(odd: Path) -> None:
    space = "trials: 2\nconfirm: {top: 1, seeds: 1}\nspace: {ssl.tau: {low: 0.1, high: 0.9}}\n" + ONE_AT_A_TIME
    result = run("harness.tune", write_space(odd, space + NO_BASELINE), "--name=s", *TINY_TRAIN, cwd=odd)
    assert result.code == 0, result
    assert {path.name for path in odd.iterdir()} == {"mlflow.db", "mlflow.db.lock", "mlruns", "runs", "space.yaml"}
    assert list(odd.parent.iterdir()) == [odd], "nothing beside it"
    assert len(ended(odd)) == 2
    assert (odd / "runs/s/optuna.db").is_file()
    runs = logged()
    assert runs.keys() == {"s", "trials/000", "trials/001", "confirm/000"}
    assert {path.name for path in (odd / "mlruns").iterdir()} == set(runs.values())
