"""However a run ends, MLflow has its status, its record says whether it is finished, and the user how to go on."""

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from classmix_core.errors import DataError
from harness.cli.lifecycle import open_experiment, reopen_run, run_lifecycle
from harness.errors import Interrupted, RunFailed, TrainingError, UserError
from harness.run_dir import RunRecord, read_run_record
from harness.tracking.names import REASON
from harness.tracking.store import create_run

GO_ON = "go on with: python -m harness.train --resume --name=a"
RESUME = GO_ON.partition(": ")[2]


@pytest.fixture(scope="session")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def record(uri: str, tmp_path: Path) -> RunRecord:
    experiment = open_experiment(uri, "x")
    record = RunRecord("train", uri, experiment, create_run(uri, experiment, "a", {}))
    record.write(tmp_path)
    return record


def mlflow_run(record: RunRecord) -> Any:
    return MlflowClient(record.tracking_uri).get_run(record.run_id)


def finished(folder: Path) -> bool:
    record = read_run_record(folder)
    assert record is not None
    return record.finished


def live(record: RunRecord, folder: Path, error: BaseException | None, **options: Any) -> None:
    with run_lifecycle(reopen_run(record, folder), record, folder, RESUME, **options):
        if error:
            raise error


def test_one_that_ends_well_is_finished(record: RunRecord, tmp_path: Path) -> None:
    live(record, tmp_path, None)
    assert (mlflow_run(record).info.status, finished(tmp_path)) == ("FINISHED", True)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Interrupted()])
def test_an_interrupted_one_says_how_to_go_on_before_it_tidies_up(
    error: BaseException, record: RunRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    with pytest.raises(Interrupted):
        live(record, tmp_path, error, close=lambda: said.append(capsys.readouterr().out), progress=lambda: " after 3")
    assert said == [f"interrupted after 3; {GO_ON}\n"]
    assert (mlflow_run(record).info.status, finished(tmp_path)) == ("KILLED", False)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (TrainingError("the loss is nan."), "the loss is nan."),
        (RunFailed("no room."), f"no room. Once the cause is gone, {GO_ON}"),
        (DataError("x.png: must exist."), f"x.png: must exist. Once the cause is gone, {GO_ON}"),
        (UserError("state.pt: format must be 1."), f"state.pt: format must be 1. Once the cause is gone, {GO_ON}"),
    ],
)
def test_one_that_fails_has_its_reason_on_its_page(
    error: Exception, message: str, record: RunRecord, tmp_path: Path
) -> None:
    with pytest.raises(RunFailed) as failed:
        live(record, tmp_path, error)
    assert str(failed.value) == message
    page = mlflow_run(record)
    assert (page.info.status, finished(tmp_path)) == ("FAILED", False)
    assert str(error) in page.data.tags[REASON]
    reopen_run(record, tmp_path).settle()
    assert REASON not in mlflow_run(record).data.tags, "no longer true once it goes on"


def test_a_full_disk_is_one_line(record: RunRecord, tmp_path: Path) -> None:
    with pytest.raises(RunFailed) as failed:
        live(record, tmp_path, OSError(errno.ENOSPC, "No space left on device", "state.pt"))
    reason = "OSError: [Errno 28] No space left on device: 'state.pt'."
    assert str(failed.value) == f"{reason} Once the cause is gone, {GO_ON}"


def test_a_bug_keeps_its_traceback_and_says_how_to_go_on(
    record: RunRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ZeroDivisionError):
        live(record, tmp_path, ZeroDivisionError())
    assert capsys.readouterr().err == f"failed. Once the cause is gone, {GO_ON}\n"
    assert mlflow_run(record).info.status == "FAILED"


def test_what_could_not_be_sent_is_told_and_fails_no_run(
    record: RunRecord, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    live(record, tmp_path, None, close=lambda: "it is away")
    told = " ".join(capsys.readouterr().err.split())
    assert "is away (it is away); what it lacks is beside the run: once it is back, python -m harness.sync" in told
    assert finished(tmp_path)


def test_what_mlflow_refuses_fails_the_run(record: RunRecord, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"all is done, but MLflow could not be told so: .*no such run"):
        live(replace(record, run_id="no such run"), tmp_path, None)
    assert not finished(tmp_path)


def test_a_store_that_cannot_be_had_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--tracking-uri: must be an MLflow store"):
        open_experiment(f"sqlite:///{tmp_path}/file/mlflow.db", "x")
