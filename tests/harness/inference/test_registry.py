"""The model that a run leaves in MLflow, served as its user serves it."""

import json
import os
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
from mlflow import MlflowClient

from classmix_core.config import DataConfig
from harness.inference.registry import CHAMPION, model_name, register
from harness.tracking import Run, find_or_create_experiment
from tests.commands import TINY, run

NAME = "classmix-scenes"


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


def test_a_run_that_is_registered_twice_has_one_version(tmp_path: Path) -> None:
    """It was killed after it had been registered, and resumed."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run = Run.create(uri, find_or_create_experiment(uri, "x"), "r", {})
    assert register(run, "net", 0.3).version == register(run, "net", 0.3).version
    assert len(MlflowClient(uri).search_model_versions("name='net'")) == 1


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (DataConfig(), "classmix-scenes"),
        (DataConfig(name="camvid", root="/x/y"), "classmix-camvid"),
        (DataConfig(name="folder", root="/x/a:b's"), "classmix-folder-a_b_s"),
        (DataConfig(name="folder", root="/x/my photos"), "classmix-folder-my photos"),
    ],
)
def test_folders_of_ones_own_have_champions_of_their_own(data: DataConfig, name: str) -> None:
    assert model_name(data) == name


def test_the_champion_is_the_best_on_val_and_the_newest_of_equals(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    experiment = find_or_create_experiment(uri, "x")
    champions = []
    for score in (0.3, 0.5, 0.4, 0.5, float("nan")):
        register(Run.create(uri, experiment, "r", {}), "net", score)
        champions.append(MlflowClient(uri).get_model_version_by_alias("net", CHAMPION).version)
    assert [int(version) for version in champions] == [1, 2, 2, 4, 4]
