"""A store that is away or locked for a while costs time and nothing else; one that cannot be written fails at once."""

import logging
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from harness.tracking import patience
from harness.tracking.experiment import find_or_create_experiment
from harness.tracking.patience import STORE_ERRORS, PatientClient, is_passing, one_line
from harness.tracking.run import Run
from harness.tracking.store import create_run
from tests.commands import TINY, Result, finish, run, start, wait_for
from tests.harness.test_train import statuses
from tests.studies import BASE, ONE_AT_A_TIME, records, write_space

LOCK = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
"""


@contextmanager
def locked(database: Path, seconds: float) -> Iterator[None]:
    """Another process holds the database for so long, from now on."""
    process = subprocess.Popen([sys.executable, "-c", LOCK, str(database), str(seconds)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"locked\n"
        yield
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "some.db"
    sqlite3.connect(path).execute("CREATE TABLE numbers (number INTEGER)").connection.commit()
    return path


@dataclass
class Write:
    """A call that writes to a database, and does not wait by itself for one that is locked."""

    database: str
    tried: int = 0

    def __call__(self) -> str:
        self.tried += 1
        engine = sqlalchemy.create_engine(f"sqlite:///{self.database}", connect_args={"timeout": 0})
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("INSERT INTO numbers VALUES (1)"))
        return "written"


def error_of(call: Callable[[], object]) -> Exception:
    with pytest.raises(STORE_ERRORS) as raised:
        call()
    return raised.value


@contextmanager
def server(status: int) -> Iterator[str]:
    """Something that answers each request with a status; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.end_headers()

        do_GET = do_PUT = do_POST

        def log_message(self, *args: Any) -> None:
            pass

    one = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=one.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{one.server_port}"
    finally:
        one.shutdown()
        one.server_close()


def test_a_call_to_a_locked_database_is_tried_again_until_it_is_free(
    database: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(patience, "SILENT", 1.0)
    with locked(database, 2), caplog.at_level(logging.WARNING):
        assert PatientClient("sqlite:///some.db").insist(Write(str(database))) == "written"
    (line,) = caplog.messages
    assert re.search("sqlite:///some.db .*database is locked.* up to 60 s", line), "the user is told, once"


def test_after_its_patience_a_call_fails_and_those_that_follow_are_tried_once(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PATIENCE", 1.2)
    client, call = PatientClient("sqlite:///some.db"), Write(str(database))
    with locked(database, 60):
        for tried in (2, 3, 4):
            assert "database is locked" in one_line(error_of(lambda: client.insist(call)))
            assert call.tried == tried
    assert client.insist(call) == "written"
    with locked(database, 60):
        error_of(lambda: client.insist(call))
        assert call.tried == 7, "a new outage has patience of its own"


def test_what_cannot_succeed_later_is_not_tried_again(database: Path, tmp_path: Path) -> None:
    read_only = f"file:{database}?mode=ro&uri=true"
    (tmp_path / "damaged.db").write_text("no database" * 100)
    for place, reason in (
        (read_only, "readonly"),
        (str(tmp_path / "nowhere/some.db"), "unable to open"),
        (str(tmp_path / "damaged.db"), "not a database"),
    ):
        call = Write(place)
        line = one_line(error_of(partial(PatientClient("sqlite:///some.db").insist, call)))
        assert reason in line
        assert "INSERT" not in line, "the statement helps nobody"
        assert call.tried == 1


@pytest.mark.parametrize(("status", "passing"), [(503, True), (500, True), (429, True), (403, False), (404, False)])
def test_a_server_that_is_overloaded_or_starts_is_asked_again_and_one_that_refuses_is_not(
    status: int, passing: bool
) -> None:
    with server(status) as uri:
        assert is_passing(error_of(lambda: MlflowClient(uri).get_run("x")), uri) == passing


def test_a_server_that_is_away_is_asked_again() -> None:
    uri = "http://127.0.0.1:9"
    assert is_passing(error_of(lambda: MlflowClient(uri).get_run("x")), uri)


def test_an_error_of_mlflow_itself_on_a_local_store_is_not_passing() -> None:
    assert not is_passing(MlflowException("wrong use"), "sqlite:///some.db")


def test_a_store_whose_file_was_deleted_fails_at_once_and_says_so(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run = Run(uri, create_run(uri, find_or_create_experiment(uri, "x"), "a", {}), tmp_path / "a")
    run.metrics(1, {"loss": 1.0})
    run.settle()
    (tmp_path / "mlflow.db").unlink()
    run.metrics(2, {"loss": 1.0})
    before = time.monotonic()
    for call in (run.settle, partial(run.tags, {"a": "b"}), partial(run.finish, "FAILED"), run.close):
        assert "its file was moved or deleted" in one_line(error_of(call))
    assert time.monotonic() - before < 2


LONG = (*TINY[1:], "--steps=300", "--eval_every=50", "--checkpoint_every=5", "--name=t")


def assert_ended_by_its_store(result: Result, folder: Path, reason: str) -> None:
    """Exit code 1, and one line that says why and how to go on."""
    assert result.code == 1, result
    assert "Traceback" not in result.out + result.err
    (line,) = [line for line in result.err.splitlines() if line.startswith("failed:")]
    for part in (f"{folder}/mlflow.db", reason, "harness.train --resume --name=t"):
        assert part in line


@pytest.mark.slow
def test_a_training_whose_store_is_deleted_ends_at_once_and_goes_on_with_a_new_one(tmp_path: Path) -> None:
    process = start("harness.train", *LONG, cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob("runs/t/checkpoints/step_*[0-9]")), process)
    (tmp_path / "mlflow.db").unlink()
    assert_ended_by_its_store(finish(process, 60), tmp_path, "its file was moved or deleted")
    resumed = run("harness.train", "--resume", "--name=t", cwd=tmp_path)
    assert resumed.code == 0, resumed
    assert f"warning: MLflow's store sqlite:///{tmp_path}/mlflow.db no longer has the run" in resumed.err
    assert statuses(tmp_path) == {"t": "FINISHED"}
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (found,) = client.search_runs([item.experiment_id for item in client.search_experiments()])
    steps = [point.step for point in client.get_metric_history(found.info.run_id, "train/loss")]
    assert steps == sorted(set(steps))
    assert steps[-1] == 300
    assert found.data.params["steps"] == "300"


def make_read_only(database: Path, write_version: int = 3) -> int:
    """Let SQLite take the database for one of a newer version, which it only reads; root ignores what chmod says.

    Returns:
        what was there before.
    """
    with database.open("r+b") as file:
        header = bytearray(file.read(28))
        before, header[18] = header[18], write_version
        header[24:28] = (int.from_bytes(header[24:28], "big") + 1).to_bytes(4, "big")  # it counts changes
        file.seek(0)
        file.write(header)
    return before


@pytest.mark.slow
def test_a_training_whose_store_becomes_read_only_ends_at_once_and_goes_on_when_it_is_not(tmp_path: Path) -> None:
    process = start("harness.train", *LONG, cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob("runs/t/checkpoints/step_*[0-9]")), process)
    before = make_read_only(tmp_path / "mlflow.db")
    assert_ended_by_its_store(finish(process, 60), tmp_path, "attempt to write a readonly database")
    again = run("harness.train", "--resume", "--name=t", cwd=tmp_path)
    assert_ended_by_its_store(again, tmp_path, "attempt to write a readonly database")
    make_read_only(tmp_path / "mlflow.db", before)
    resumed = run("harness.train", "--resume", "--name=t", cwd=tmp_path)
    assert (resumed.code, resumed.err) == (0, ""), resumed
    assert statuses(tmp_path) == {"t": "FINISHED"}


@pytest.mark.slow
def test_a_training_and_a_search_survive_a_store_that_is_locked_for_30_seconds(tmp_path: Path) -> None:
    """MLflow itself waits for 20 s, and for 5 in a process that opens the store."""
    assert run("harness.train", *TINY, "--name=first", cwd=tmp_path).code == 0, "makes the store"
    grid = "sampler: grid\nearly_stopping: null\nconfirm: {top: 0}\n" + ONE_AT_A_TIME
    space = write_space(tmp_path, f"{grid}{BASE}space: {{optim.lr: {{values: [0.05, 0.04]}}}}")
    search = start("harness.tune", space, "--name=s", cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob("runs/s/trials/000/checkpoints/step_*[0-9]")), search)
    training = start("harness.train", *TINY, "--steps=60", "--name=t", cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob("runs/t/checkpoints/step_*[0-9]")), training)
    with locked(tmp_path / "mlflow.db", 30):
        time.sleep(30)
    results = finish(training), finish(search)
    for result in results:
        assert result.code == 0, result
        assert "Traceback" not in result.out + result.err
    assert [(one["state"], one["failures"]) for one in records(tmp_path)] == [("complete", [])] * 2
