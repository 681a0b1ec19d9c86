"""The model that a run leaves in MLflow, served as its user serves it."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from torchvision.io import write_png

from classmix_core.config import DataConfig
from classmix_core.data import Data, load_data
from classmix_core.data.samples import ArraySamples
from harness import train
from harness.config.train import TrainConfig, override
from harness.inference.registry import (
    CHAMPION,
    VAL,
    identity,
    measured_on,
    measured_tags,
    model_name,
    publish,
    register,
)
from harness.tracking.experiment import find_or_create_experiment
from harness.tracking.run import Run
from harness.tracking.store import create_run
from harness.tracking.writer import Writer
from tests.commands import ROOT, TINY, call, run
from tests.conftest import random_label

NAME = "classmix-scenes-bd0b952e"
DEFAULT = TrainConfig()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_mlflow_serves_the_champion_of_the_registry(tmp_path: Path) -> None:
    result = run("harness.train", *TINY, "--name=a", cwd=tmp_path)
    assert result.code == 0, result
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    version = MlflowClient(uri).get_model_version_by_alias(NAME, CHAMPION)
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 56, 3), dtype=np.uint8)

    port, environment = free_port(), {**os.environ, "MLFLOW_TRACKING_URI": uri}
    command = ["models", "serve", "-m", f"models:/{NAME}@{CHAMPION}", "--env-manager", "local"]
    words = [sys.executable, "-m", "mlflow", *command, "--host", "127.0.0.1", "--port", str(port)]
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    server = subprocess.Popen(words, cwd=tmp_path, env=environment, start_new_session=True, **pipes)
    try:
        served = ask(port, {"inputs": images.tolist()}, server)
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # MLflow's own end asks its child by SIGINT, which may be ignored here
        server.wait()
    labels = np.asarray(served["predictions"])
    assert labels.shape == (3, 40, 56)

    (tmp_path / "photos").mkdir()
    mlflow.set_tracking_uri(uri)
    loaded = mlflow.pyfunc.load_model(f"models:/{NAME}/{version.version}")
    assert (loaded.predict(images) == labels).all()
    assert loaded.metadata.signature.inputs.input_types() == [np.dtype(np.uint8)]
    example = loaded.input_example
    assert example.shape[0] >= 2


def ask(port: int, request: object, server: "subprocess.Popen[bytes]") -> dict[str, list[object]]:
    """POST to /invocations, once the server is up."""
    body = json.dumps(request).encode()
    url, headers = f"http://127.0.0.1:{port}/invocations", {"Content-Type": "application/json"}
    for _ in range(300):
        assert server.poll() is None, server.stderr and server.stderr.read()
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as answer:
                return json.loads(answer.read())  # type: ignore[no-any-return]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read()) from error
        except urllib.error.URLError:
            time.sleep(0.2)
    raise AssertionError("the server did not come up")


# ---- champions


def measured(config: TrainConfig = DEFAULT, **changes: Any) -> dict[str, Any]:
    """What a score is measured on, of two images of val with labels of two sizes."""
    labels = [torch.arange(6, dtype=torch.uint8).view(2, 3), torch.zeros(3, 2, dtype=torch.uint8)]
    given = {"classes": ("a", "b"), "names": ["x.jpg", "y.jpg"], "labels": labels} | changes

    class Val(ArraySamples):
        def label(self, index: int) -> torch.Tensor:
            return given["labels"][index]  # type: ignore[no-any-return]

    val = Val(given["names"], torch.zeros(0), torch.zeros(0))
    return measured_on(config, Data(given["classes"], (), val, val, val, None))


@pytest.mark.parametrize(
    ("changes", "comparable"),
    [
        ({"seed": 5, "optim.lr": 0.3, "data.labelled": 3, "model.width": 8}, True),
        ({"eval.network": "teacher", "eval.batch": 2}, True),
        ({"data.resize": (32, 48)}, False),
        ({"data.resize": (32, 48), "eval.resize_labels": False}, True),
        ({"eval.resize_labels": False}, True),
        ({"eval.window": (16, 24)}, False),
        ({"eval.flip": True}, False),
        ({"eval.scales": (1.0, 1.5)}, False),
    ],
)
def test_runs_compete_where_they_are_measured_alike_alone(changes: dict[str, Any], comparable: bool) -> None:
    assert (identity(measured(override(TrainConfig(), changes))) == identity(measured())) == comparable


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": ("b", "a")},
        {"classes": ("a", "b", "c")},
        {"names": ["x.jpg", "z.jpg"]},
        {"labels": [torch.arange(6, dtype=torch.uint8).view(3, 2), torch.zeros(3, 2, dtype=torch.uint8)]},
        {"labels": [torch.arange(6, dtype=torch.uint8).view(2, 3), torch.ones(3, 2, dtype=torch.uint8)]},
    ],
)
def test_another_val_set_or_one_pixel_of_it_makes_another_name(changes: dict[str, Any]) -> None:
    names = {model_name(DataConfig(), one) for one in (measured(), measured(**changes))}
    assert len(names) == 2
    assert all(re.fullmatch(r"classmix-scenes-[0-9a-f]{8}", name) for name in names)


def test_what_is_read_through_the_cache_is_measured_on_the_same(folder_root: Path, tmp_path: Path) -> None:
    data = {"data.name": "folder", "data.root": str(folder_root), "data.resize": (16, 24)}
    plain = override(TrainConfig(), data)
    cached = override(plain, {"data.cache": "disk", "data.cache_dir": str(tmp_path / "cache")})
    assert identity(measured_on(plain, load_data(plain.data))) == identity(measured_on(cached, load_data(cached.data)))


def test_the_tags_say_in_words_what_a_version_was_measured_on() -> None:
    given = {"data.resize": (32, 48), "eval.window": (16, 24), "eval.flip": True}
    found = measured_tags(measured(override(TrainConfig(), given)))
    words = "2 classes, 2 images of val, labels resized to 32x48, windows of 16x24, mirrored too, scales 1.0"
    assert found == {"identity": found["identity"], "measured_on": words}
    assert len(found["identity"]) == 64


def test_the_guide_has_the_name_that_a_training_on_the_scenes_prints() -> None:
    assert model_name(DEFAULT.data, measured_on(DEFAULT, load_data(DEFAULT.data))) == NAME
    for page in ("docs/predict.md", "harness/inference/pyfunc_model.py"):
        assert f"models:/{NAME}@champion" in (ROOT / page).read_text()


def test_after_relabelling_val_a_champion_of_its_own_begins(
    here: Path, folder_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ("--data.name=folder", f"--data.root={folder_root}", "--data.resize=[16,24]")
    result = call(train.main, capsys, *TINY, *data, "--name=a")
    assert result.code == 0, result
    first = re.findall(r"^registered as models:/(classmix-.*)@champion$", result.out, re.MULTILINE)
    assert len(first) == 1, "said once"
    uri, folder = f"sqlite:///{here}/mlflow.db", here / "runs/a"
    client = MlflowClient(uri)
    name = (folder / "splits/val.txt").read_text().splitlines()[0]
    write_png(
        random_label(99, 9, 14, 3), str(folder_root / name.replace("images", "labels", 1).replace(".jpg", ".png"))
    )
    again = create_run(uri, client.get_experiment_by_name("train").experiment_id, "b", {})
    second = publish(Run(uri, again, folder), folder, 0.001, folder / "splits")
    assert second is not None
    assert second.endswith("@champion"), "worse than the first, and not compared with it"
    assert second != f"models:/{first[0]}@champion"
    version = client.get_model_version_by_alias(first[0], CHAMPION)
    assert "3 classes, 2 images of val, labels resized to 16x24" in version.tags["measured_on"]


def test_a_run_that_is_registered_twice_has_one_version(tmp_path: Path) -> None:
    """It was killed after it had been registered, and resumed."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run = Writer(uri, create_run(uri, find_or_create_experiment(uri, "x"), "r", {}), tmp_path)
    assert register(run, "net", 0.3, {}) == register(run, "net", 0.3, {}) == "models:/net@champion"
    assert len(MlflowClient(uri).search_model_versions("name='net'")) == 1


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (DataConfig(), "classmix-scenes-"),
        (DataConfig(name="camvid", root="/x/y"), "classmix-camvid-"),
        (DataConfig(name="folder", root="/x/a:b's"), "classmix-folder-a_b_s-"),
        (DataConfig(name="folder", root="/x/my photos"), "classmix-folder-my photos-"),
    ],
)
def test_a_name_tells_the_data_set_or_the_folder(data: DataConfig, name: str) -> None:
    assert model_name(data, measured())[:-8] == name


def test_the_champion_is_the_best_on_val_and_the_newest_of_equals(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    experiment = find_or_create_experiment(uri, "x")
    champions, said = [], []
    for score in (0.3, 0.5, 0.4, 0.5, float("nan")):
        said.append(register(Writer(uri, create_run(uri, experiment, "r", {}), tmp_path), "net", score, {}))
        champions.append(MlflowClient(uri).get_model_version_by_alias("net", CHAMPION).version)
    assert [int(version) for version in champions] == [1, 2, 2, 4, 4]
    champion = "models:/net@champion"
    assert said == [champion, champion, "models:/net/3", champion, "models:/net/5"]


NETS = [f"net{number}" for number in range(6)]


def register_at_once(uri: str, experiment: str, ready: Path, score: float) -> None:
    """In a process of its own; each name when the other process is there too."""
    own = Writer(uri, create_run(uri, experiment, "r", {}), ready)
    for name in NETS:
        (ready / f"{name} {score}").touch()
        while len(list(ready.glob(f"{name} *"))) < 2:
            time.sleep(0.001)
        register(own, name, score, {})


@pytest.mark.slow
def test_of_two_trainings_that_end_at_once_the_better_is_the_champion(tmp_path: Path) -> None:
    uri, ready = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "ready"
    experiment = find_or_create_experiment(uri, "x")
    ready.mkdir()
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=register_at_once, args=(uri, experiment, ready, one)) for one in (0.3, 0.7)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=240)
    assert [process.exitcode for process in processes] == [0, 0]
    client = MlflowClient(uri)
    champions = [client.get_model_version_by_alias(name, CHAMPION).tags[VAL] for name in NETS]
    assert champions == ["0.7"] * len(NETS)
