"""MLflow's server over PostgreSQL, with artefacts in S3: where it goes away, trainings and studies go on to their end,
and what it lacks is sent later, once."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from harness import sync
from harness.run_dir import RunRecord
from harness.tracking.names import PARENT, TRIAL
from tests.buckets import s3_server
from tests.clusters import free_port
from tests.commands import TINY, assert_refused, call, finish, run, start, wait_for
from tests.servers import mlflow_server, postgres
from tests.studies import BASE, ONE_AT_A_TIME, write_space

Server = partial[AbstractContextManager[str]]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Starts MLflow's server, always over the same store and at the same address."""
    with s3_server() as bucket, postgres(free_port()) as store:
        yield partial(mlflow_server, free_port(), store, f"{bucket}/mlflow")


def curve(client: MlflowClient, run_id: str, key: str) -> list[int]:
    """Steps, in the order in which they were logged."""
    return [point.step for point in client.get_metric_history(run_id, key)]


def runs(uri: str, experiment: str) -> list[Any]:
    found = MlflowClient(uri).get_experiment_by_name(experiment)
    assert found is not None
    return list(MlflowClient(uri).search_runs([found.experiment_id]))


def warned(err: str) -> str:
    return " ".join(err.split())


LONG = (*TINY[1:], "--steps=120", "--eval_every=40", "--checkpoint_every=10")


@pytest.mark.slow
def test_a_training_whose_server_goes_away_ends_well_and_is_sent_later_once(server: Server, tmp_path: Path) -> None:
    with server() as uri:
        process = start("harness.train", *LONG, "--name=t", f"--tracking-uri={uri}", cwd=tmp_path)
        wait_for(lambda: list(tmp_path.glob("runs/t/checkpoints/step_*[0-9]")), process)
    result = finish(process)
    assert result.code == 0, result
    assert "Traceback" not in result.out + result.err
    assert "registered as" not in result.out
    assert f"MLflow's store {uri} is away" in warned(result.err)
    assert "python -m harness.sync runs/t" in warned(result.err)
    again = run("harness.sync", "runs/t", cwd=tmp_path)
    assert (again.code, again.err.count("\n")) == (1, 1), again
    assert "Connection refused" in again.err
    with server():
        for number in range(2):
            sent = run("harness.sync", "runs/t", cwd=tmp_path)
            assert sent.code == 0, sent
            assert ("\n0 calls sent" in "\n" + sent.out) == (number == 1)
        client, (one,) = MlflowClient(uri), [item for item in runs(uri, "train") if item.info.run_name == "t"]
        assert one.info.status == "FINISHED"
        assert curve(client, one.info.run_id, "val/miou") == [40, 80, 120]
        steps = curve(client, one.info.run_id, "train/loss")
        assert (steps, steps[-1]) == (sorted(set(steps)), 120)
        (version,) = client.search_model_versions(f"run_id='{one.info.run_id}'")
        assert version.source.startswith("mlflow-artifacts:/")
        files = {item.path for item in client.list_artifacts(one.info.run_id)}
        assert {"config.yaml", "splits", "images", "test", "model"} <= files
        refused = run("harness.train", "--resume", "--name=t", cwd=tmp_path)
        assert refused.code == 2, "it has ended"
    assert not (tmp_path / "runs/t/outbox").exists()


@pytest.mark.slow
def test_a_training_that_is_killed_while_its_server_is_away_goes_on_and_catches_up(
    server: Server, tmp_path: Path
) -> None:
    with server() as uri:
        process = start(
            "harness.train",
            *LONG,
            "--steps=1200",
            "--eval_every=400",
            "--name=k",
            f"--tracking-uri={uri}",
            cwd=tmp_path,
        )
        wait_for(lambda: list(tmp_path.glob("runs/k/checkpoints/step_*[0-9]")), process)
    wait_for(lambda: len(list(tmp_path.glob("runs/k/outbox/*.json"))) > 2, process)
    process.kill()
    process.wait()
    process = start("harness.train", "--resume", "--name=k", cwd=tmp_path)
    wait_for(lambda: max(tmp_path.glob("runs/k/checkpoints/step_*[0-9]")).name > "step_00000050", process)
    with server():
        result = finish(process)
        assert result.code == 0, result
        assert "is away" in warned(result.err), "as the resume began"
        (one,) = [item for item in runs(uri, "train") if item.info.run_name == "k"]
        assert one.info.status == "FINISHED"
        assert curve(MlflowClient(uri), one.info.run_id, "val/miou") == [400, 800, 1200]
    assert not (tmp_path / "runs/k/outbox").exists()


@pytest.mark.slow
def test_a_study_whose_server_goes_away_ends_well_and_is_sent_later(server: Server, tmp_path: Path) -> None:
    confirm = "confirm: {top: 1, seeds: 2}\nbaseline: {trials: 0}\n"
    grid = f"sampler: grid\nearly_stopping: null\n{confirm}{ONE_AT_A_TIME}{BASE}"
    flag = write_space(tmp_path, f"{grid}space: {{optim.lr: {{values: [0.05, 0.04, 0.03]}}}}")
    with server() as uri:
        process = start("harness.tune", flag, "--name=s", f"--tracking-uri={uri}", cwd=tmp_path)
        wait_for(lambda: list(tmp_path.glob("runs/s/trials/000/checkpoints/step_*[0-9]")), process)
    result = finish(process)
    assert result.code == 0, result
    assert "Traceback" not in result.out + result.err
    assert "3/3 done" in result.out
    assert "python -m harness.sync runs/s" in warned(result.err)
    with server():
        sent = run("harness.sync", "runs/s", cwd=tmp_path)
        assert sent.code == 0, sent
        found = runs(uri, "s")
        client, (parent,) = MlflowClient(uri), [item for item in found if PARENT not in item.data.tags]
        names = sorted(item.data.tags[TRIAL] for item in found if PARENT in item.data.tags)
        assert names == ["confirm/000", "confirm/001", *(f"trials/{number:03d}" for number in range(3))]
        assert {item.info.status for item in found} == {"FINISHED"}
        for item in found:
            if item is not parent:
                steps = curve(client, item.info.run_id, "train/loss")
                assert steps == sorted(set(steps))
                assert item.data.params["steps"] == str(max(steps))
        assert {"best.yaml", "report.html", "trials.csv"} <= {
            item.path for item in client.list_artifacts(parent.info.run_id)
        }
        best = [item.info.run_id for item in found if item.data.tags.get(TRIAL, "").startswith("confirm/")]
        assert sum(len(client.search_model_versions(f"run_id='{run_id}'")) for run_id in best) == 1


def test_wrong_input_is_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(call(sync.main, capsys, "runs/no"), here, "RUN: must be the folder of a run", "runs/no")
    assert_refused(call(sync.main, capsys, "nonsense://x"), here, "RUN: ", "nonsense://x")
    RunRecord("train", "http://127.0.0.1:9", "1", "a" * 32).write(here / "t")
    result = call(sync.main, capsys, "t")
    assert (result.code, result.err.count("\n")) == (1, 1), result
    assert "failed: MLflow's store http://127.0.0.1:9 failed: ConnectionRefusedError" in result.err
