"""What each machine of a cluster must have is looked at before anything starts."""

import shutil
import subprocess
from pathlib import Path

import pytest

from harness.config.train import TrainConfig, override
from harness.distributed.nodes import Needs
from tests.clusters import cluster, ray_start
from tests.commands import TINY, TINY_TRAIN, run
from tests.studies import write_space
from tests.trees import build_folder


def test_what_is_needed_is_named_by_its_key() -> None:
    config = override(TrainConfig(), {"model.weights": "torchvision:resnet50"})
    assert Needs.of(config, Path("/runs/a"), "sqlite:///x.db").paths == {"--storage-path": "/runs/a"}
    config = override(config, {"data.name": "camvid", "data.root": "/data", "model.weights": "/weights.pth"})
    expected = {"data.root": "/data", "model.weights": "/weights.pth", "--storage-path": "/runs/a"}
    assert Needs.of(config, Path("/runs/a"), "sqlite:///x.db").paths == expected


def can_hide() -> bool:
    """Whether this system lets a process have mounts of its own."""
    command = ["unshare", "--map-root-user", "--mount", "true"]
    return bool(shutil.which("unshare")) and subprocess.run(command).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_hide(), reason="needs namespaces")
def test_a_machine_without_the_data_is_named_before_anything_starts(tmp_path: Path) -> None:
    root, here = tmp_path / "data", tmp_path / "here"
    here.mkdir()
    build_folder(root)
    data = ("data.name=folder", f"data.root={root}", "data.resize=[16,24]")
    space = write_space(tmp_path, "trials: 1\nspace:\n  ssl.tau: {low: 0.3, high: 0.9}\n").partition("=")[2]
    with cluster(1) as address:
        train = (*TINY, "--workers=1", "--gpus=0", f"--address={address}", *(f"--{word}" for word in data))
        tune = (f"--space={tmp_path}/{space}", f"--address={address}", *(f"--train.{word}" for word in data))
        with ray_start(f"--address={address}", "--num-cpus=1", hidden=tmp_path):
            for module, words in (("harness.train", train), ("harness.tune", (*tune, *TINY_TRAIN))):
                result = run(module, *words, cwd=here)
                assert (result.code, result.err.count("\n")) == (2, 1), result
                assert "--address: each machine of the cluster must be ready, but on " in result.err
                assert f"data.root: {root} must be there" in result.err
                assert f"--storage-path: {here}/runs/" in result.err
                assert not list(here.iterdir())
        result = run("harness.train", *train, cwd=tmp_path)
        assert result.code == 0, result
        with ray_start(f"--address={address}", "--num-cpus=1", "--node-ip-address=127.0.0.2"):
            result = run("harness.train", *train, cwd=here)
            assert (result.code, result.err.count("\n")) == (2, 1), result
            assert "--tracking-uri: a cluster of 2 machines needs an MLflow server" in result.err
            assert "mlflow server --host HOST --port 5000" in result.err
            assert not list(here.iterdir())
            result = run("harness.train", *train, "--tracking-uri=http://127.0.0.1:9", cwd=here)
            assert (result.code, result.err.count("\n")) == (2, 1), result
            assert "--tracking-uri: http://127.0.0.1:9 must be reached" in result.err
