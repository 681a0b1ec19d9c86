"""A study on a cluster whose nodes come and go."""

from pathlib import Path

import pytest

from tests.clusters import cluster, ray_start
from tests.commands import TINY_TRAIN, finish, run, start, wait_for
from tests.studies import ended, mlflow_runs, records, write_space

pytestmark = pytest.mark.slow

SPACE = """
trials: 12
early_stopping: null
confirm: {top: 0}
space:
  ssl.tau: {low: 0.3, high: 0.99}
"""
LONGER = ("--train.steps=600", "--train.eval_every=50", "--name=s")
WORDS = (*(word for word in TINY_TRAIN if not word.startswith(("--train.steps", "--train.eval_every"))), *LONGER)


@pytest.fixture
def space(tmp_path: Path) -> str:
    return write_space(tmp_path, SPACE)


def running(folder: Path) -> list[int]:
    return [one["number"] for one in records(folder) if one["state"] == "running"]


def with_checkpoint(folder: Path) -> set[int]:
    return {int(path.parts[-3]) for path in folder.glob("runs/s/trials/*/checkpoints/step_*[0-9]")}


def test_a_search_goes_on_where_a_node_is_lost_and_uses_one_that_comes(tmp_path: Path, space: str) -> None:
    with cluster(1) as address, ray_start(f"--address={address}", "--num-cpus=1"):
        with ray_start(f"--address={address}", "--num-cpus=1"):
            process = start("harness.tune", space, f"--address={address}", *WORDS, cwd=tmp_path)
            wait_for(lambda: len(with_checkpoint(tmp_path) & set(running(tmp_path))) == 3, process)
        wait_for(lambda: sum(bool(one["failures"]) for one in records(tmp_path)) == 1, process)
        with ray_start(f"--address={address}", "--num-cpus=1"):
            wait_for(lambda: len(running(tmp_path)) == 3, process)
            result = finish(process)
    assert result.code == 0, result
    found = records(tmp_path)
    assert [one["state"] for one in found] == ["complete"] * 12
    assert sorted(len(one["failures"]) for one in found) == [0] * 11 + [1]
    assert [[step for step, _ in one["intermediate_values"]] for one in found] == [list(range(50, 650, 50))] * 12
    _, children = mlflow_runs(tmp_path)
    assert len(children) == 12
    assert {child.info.status for child in children} == {"FINISHED"}


def test_a_lost_head_ends_the_search_in_one_line_and_a_resume_on_another_cluster_finishes_it(
    tmp_path: Path, space: str
) -> None:
    with cluster(2) as address:
        process = start("harness.tune", space, f"--address={address}", *WORDS, cwd=tmp_path)
        wait_for(lambda: len(ended(tmp_path)) >= 2 and with_checkpoint(tmp_path), process)
    result = finish(process)
    assert (result.code, result.err.count("\n")) == (1, 1), result
    assert "has not answered for 15 s" in result.err
    assert f"python -m harness.tune --resume --name=s --address={address}" in result.err
    before = ended(tmp_path)
    parent, _ = mlflow_runs(tmp_path)
    assert parent.info.status == "FAILED"
    result = run("harness.tune", "--resume", "--name=s", cwd=tmp_path)
    assert result.code == 0, result
    after = ended(tmp_path)
    assert len(after) == 12
    assert {number: after[number] for number in before} == before
