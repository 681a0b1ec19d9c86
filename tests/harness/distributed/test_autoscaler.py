"""A cluster that has scaled down to nothing: what fits on machines that its autoscaler can add is not refused."""

from pathlib import Path

import pytest

from tests.clusters import cluster_that_grows, free_port, ray_start
from tests.commands import TINY, TINY_TRAIN, finish, run, start
from tests.servers import mlflow_server
from tests.studies import records, write_space

SPACE = "trials: 3\nearly_stopping: null\nconfirm: {top: 0}\nspace:\n  ssl.tau: {low: 0.3, high: 0.99}\n"


@pytest.mark.slow
def test_a_cluster_without_a_machine_is_asked_for_some_and_what_it_can_never_have_is_refused(tmp_path: Path) -> None:
    store, files = f"sqlite:///{tmp_path}/served.db", str(tmp_path / "served")
    with cluster_that_grows(2) as address, mlflow_server(free_port(), store, files) as uri:
        there = f"--address={address}"
        server, words = f"--tracking-uri={uri}", (*TINY, "--gpus=0", there)
        never = run("harness.train", *TINY, "--gpus=1", there, server, cwd=tmp_path)
        assert (never.code, never.err.count("\n")) == (2, 1), never
        assert "gpus: 1 asked for, but the Ray cluster" in never.err
        file = run("harness.train", *words, "--workers=2", cwd=tmp_path)
        assert (file.code, file.err.count("\n")) == (2, 1), file
        assert "a cluster of machines that its autoscaler adds needs an MLflow server" in file.err
        process = start("harness.train", *words, "--workers=2", "--name=t", server, cwd=tmp_path)
        assert process.stdout is not None
        assert any("waiting for 2 more CPUs, 0 of 2 there" in line for line in process.stdout)
        with ray_start(there, "--num-cpus=1"), ray_start(there, "--num-cpus=1"):
            result = finish(process)
            assert result.code == 0, result
        space = write_space(tmp_path, SPACE)
        search = start("harness.tune", space, *TINY_TRAIN, there, server, "--name=s", cwd=tmp_path)
        with ray_start(there, "--num-cpus=1"):
            result = finish(search)
        assert result.code == 0, result
        assert [one["state"] for one in records(tmp_path)] == ["complete"] * 3
