"""What is told of a run reaches MLflow once, whether its store is there or comes back later; nobody waits for it."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from harness.tracking import outbox, writer
from harness.tracking.names import PARENT, RUN_ID, TRIAL
from harness.tracking.run import Run
from harness.tracking.store import create_run

AWAY = "http://127.0.0.1:9"


@pytest.fixture
def run(store: tuple[str, str], tmp_path: Path) -> Iterator[Run]:
    with Run(store[0], create_run(*store, "a", {}), tmp_path) as one:
        yield one


def kept(folder: Path) -> list[str]:
    """Methods of the calls on disk, in their order."""
    return [json.loads(path.read_text())["method"] for path in sorted((folder / "outbox").glob("*.json"))]


def page(run: Run) -> Any:
    return MlflowClient(run.uri).get_run(run.run_id)


def curve(run: Run, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in MlflowClient(run.uri).get_metric_history(run.run_id, key)]


def tell_all(run: Run) -> None:
    """One call of each kind."""
    run.params({"steps": 3})
    run.tags({"a": "b"})
    run.note({"by": "me"})
    for step in (1, 2):
        run.metrics(step, {"loss": 1 / step, "iou/not: there?": 0.5, "absent": float("nan")})
    run.text("notes/a.txt", "some words")
    run.table("classes.json", {"class": ["road"], "iou": [0.5]})
    run.image("mix", torch.arange(3 * 4 * 5, dtype=torch.uint8).reshape(3, 4, 5), 2)
    run.finish("FINISHED")


def assert_told_once(run: Run) -> None:
    client, found = MlflowClient(run.uri), page(run)
    assert (found.data.params, found.data.tags["a"], found.data.tags["by"]) == ({"steps": "3"}, "b", "me")
    assert curve(run, "loss") == [(1, 1.0), (2, 0.5)]
    assert set(found.data.metrics) == {"loss", "iou/not: there_"}
    assert found.info.status == "FINISHED"
    files = {item.path for item in client.list_artifacts(run.run_id)}
    assert files == {"notes", "classes.json", "images"}
    assert len([item for item in client.list_artifacts(run.run_id, "images") if item.path.endswith(".png")]) == 1
    table = json.loads(Path(client.download_artifacts(run.run_id, "classes.json")).read_text())
    assert table["data"] == [["road", 0.5]]


def test_all_is_sent_and_nothing_stays_behind(run: Run, tmp_path: Path) -> None:
    tell_all(run)
    run.keep()
    assert run.close() is None
    assert_told_once(run)
    assert not (tmp_path / "outbox").exists()


def test_what_a_store_that_is_away_lacks_is_kept_and_sent_by_the_next_process_once(run: Run, tmp_path: Path) -> None:
    began = time.monotonic()
    with Run(AWAY, "a" * 32, tmp_path) as away:
        tell_all(away)
        assert time.monotonic() - began < 1, "no call waits"
        reason = away.close()
    assert time.monotonic() - began < 15
    assert reason is not None
    assert "Connection refused" in reason
    methods = ["params", "tags", "note", "metrics", "metrics", "artifact", "table", "image", "finish"]
    assert kept(tmp_path) == methods
    copies = {path: path.read_text() for path in (tmp_path / "outbox").iterdir()}
    assert run.adopt(ended=True) == len(methods)
    assert run.settle() is None
    assert_told_once(run)
    assert kept(tmp_path) == []
    for path, text in copies.items():  # killed before it could remove them
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    with Run(run.uri, run.run_id, tmp_path) as again:
        again.adopt(ended=True)
    assert_told_once(run)


def test_a_run_that_goes_on_forgets_that_it_had_ended(run: Run, tmp_path: Path) -> None:
    with Run(AWAY, "a" * 32, tmp_path) as away:
        away.tags({"a": "b"})
        away.finish("KILLED")
    assert kept(tmp_path) == ["tags", "finish"]
    run.adopt()
    assert run.settle() is None
    assert (page(run).info.status, page(run).data.tags["a"]) == ("RUNNING", "b")


def test_points_that_a_curve_has_are_not_added_again_in_whatever_order_they_come(run: Run, tmp_path: Path) -> None:
    with Run(AWAY, "a" * 32, tmp_path) as away:
        for step in range(1, 6):
            away.metrics(step, {"loss": 0.0, "system/cpu": 1.0})
    run.adopt()  # the training goes on from a checkpoint of step 3
    for step in range(4, 8):
        run.metrics(step, {"loss": 1.0})
    assert run.settle() is None
    assert [step for step, _ in curve(run, "loss")] == [1, 2, 3, 4, 5, 6, 7]
    assert len(curve(run, "system/cpu")) == 5


def test_more_points_than_mlflow_takes_at_a_time_are_sent(run: Run) -> None:
    for step in range(2500):
        run.metrics(step, {"loss": float(step)})
    assert run.settle() is None
    assert curve(run, "loss") == [(step, float(step)) for step in range(2500)]


def test_a_trial_is_made_when_the_store_is_back_and_once(store: tuple[str, str], tmp_path: Path) -> None:
    uri, experiment = store
    tags = {PARENT: create_run(*store, "parent", {}), TRIAL: "trials/000"}
    with Run(AWAY, None, tmp_path) as away:
        away.tags({"a": "b"})
        away.create(experiment, "trial 0", tags)
    assert kept(tmp_path) == ["create", "tags"], "the order in which they can be sent"
    for _ in range(2):
        with Run(uri, None, tmp_path) as run:
            run.adopt()
            run.create(experiment, "trial 0", tags)
        (tmp_path / RUN_ID).unlink()  # killed before it was noted
    found = MlflowClient(uri).search_runs([experiment], f"tags.`{TRIAL}` = 'trials/000'")
    assert [(one.info.run_name, one.data.tags["a"]) for one in found] == [("trial 0", "b")]


def test_a_trial_that_is_being_made_when_its_run_is_handed_over_is_made_once(
    store: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, experiment = store
    look, tags = writer.children, {PARENT: create_run(*store, "parent", {}), TRIAL: "trials/007"}

    def slowly(*given: Any) -> Any:
        """The store says that there is none, and takes a second to make one."""
        found = look(*given)
        time.sleep(1)
        return found

    monkeypatch.setattr(writer, "children", slowly)
    first = Run(uri, None, tmp_path)
    first.create(experiment, "trial 7", tags)
    first.close(patience=0.2)
    with Run(uri, None, tmp_path) as second:
        second.adopt()
    assert len(MlflowClient(uri).search_runs([experiment], f"tags.`{TRIAL}` = 'trials/007'")) == 1


def test_a_kept_call_that_another_process_sends_meanwhile_is_not_missed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "outbox").mkdir()
    (tmp_path / "outbox" / "gone.json").symlink_to("nowhere")
    assert run.adopt() == 0
    (tmp_path / "outbox" / "gone.json").unlink()


def test_where_a_call_that_was_sent_cannot_be_removed_the_run_hears_of_it(
    store: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(store[0], create_run(*store, "a", {}), tmp_path)

    def refuse(*given: object, **options: object) -> None:
        raise PermissionError("outbox: it must not be")

    monkeypatch.setattr(outbox, "LINGER", 60.0)
    run.metrics(1, {"loss": 1.0})
    run.keep()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(PermissionError, match="outbox"):
            run.settle()


def test_what_is_told_of_a_trial_that_is_not_made_yet_waits_for_it(store: tuple[str, str], tmp_path: Path) -> None:
    with Run(store[0], None, tmp_path) as run:
        run.tags({"a": "b"})
        reason = run.settle()
        assert reason is not None
        assert "not in MLflow yet" in reason
        (tmp_path / RUN_ID).write_text(create_run(*store, "made by another process", {}))
        assert run.settle() is None
        assert page(run).data.tags["a"] == "b"


def test_a_call_that_mlflow_refuses_ends_the_run_and_is_kept(store: tuple[str, str], tmp_path: Path) -> None:
    run = Run(store[0], create_run(*store, "a", {}), tmp_path)
    run.tags({"": "no name"})
    with pytest.raises(MlflowException, match="must not resolve"):
        run.settle()
    with pytest.raises(MlflowException, match="must not resolve"):
        run.metrics(1, {"loss": 1.0})
    assert kept(tmp_path) == ["tags"]
    with pytest.raises(ZeroDivisionError), run:
        raise ZeroDivisionError  # which says more


def test_what_is_kept_is_on_disk_and_sent_from_there_in_order(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "LINGER", 60.0)
    run.metrics(1, {"loss": 1.0})
    run.keep()
    assert kept(tmp_path) == ["metrics"]
    run.metrics(2, {"loss": 2.0})
    run.keep()
    assert kept(tmp_path) == ["metrics", "metrics"]
    assert run.settle() is None, "which waits for no more points"
    assert (curve(run, "loss"), kept(tmp_path)) == ([(1, 1.0), (2, 2.0)], [])


def test_a_disk_that_is_full_is_an_error_of_the_run(run: Run, tmp_path: Path) -> None:
    (tmp_path / "outbox").write_text("no folder")
    run.metrics(1, {"loss": 1.0})
    with pytest.raises(OSError, match="outbox"):
        run.keep()
    (tmp_path / "outbox").unlink()


def test_the_user_is_told_once_where_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outbox, "SILENT", 0.3)
    monkeypatch.setattr(outbox, "PAUSES", (0.1, 0.1))
    with Run(AWAY, "a" * 32, tmp_path) as run:
        run.tags({"a": "b"})
        time.sleep(2)
    (line,) = [one for one in caplog.messages if "does not take what is logged" in one]
    assert f"it is kept in {tmp_path}/outbox until it does" in line
