"""The files that a study is resumed from."""

from pathlib import Path

import pytest

from harness.errors import UserError
from harness.search.trial_store import TrialRecord, TrialStore, joined
from harness.tracking.names import RUN_ID


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    store = TrialStore(tmp_path, "trials")
    first = store.add({"ssl.tau": 0.1 + 0.2, "ssl.mix": "cut", "data.labelled": None}, 10)
    first.intermediate_values, first.metrics = [(5, 1 / 3), (10, 2 / 3)], {"val/iou/car": float("nan")}
    store.end(first, "failed", "because")
    store.add({"ssl.tau": 0.5}, 20, "waiting")
    again = TrialStore(tmp_path, "trials")
    assert [vars(one) | {"metrics": None} for one in again.records] == [
        vars(one) | {"metrics": None} for one in store.records
    ]
    assert again.records[0].metric == 2 / 3
    assert (again.ended, again.count("waiting"), again.count("failed", "waiting")) == (1, 1, 2)
    assert TrialStore(tmp_path, "confirm").records == []


def test_a_trial_whose_entry_was_not_written_whole_is_not_there(tmp_path: Path) -> None:
    store = TrialStore(tmp_path, "trials")
    store.add({}, 10)
    (tmp_path / "trials/001").mkdir()
    (tmp_path / "trials/001/trial.json.part").write_text('{"number": 1')
    assert len(TrialStore(tmp_path, "trials").records) == 1


def test_trials_that_are_run_again_begin_from_scratch(tmp_path: Path) -> None:
    store = TrialStore(tmp_path, "trials")
    for _ in range(2):
        record = store.add({"optim.lr": 1.0}, 10, sampler_params={"optim.lr": 1.0})
        record.step, record.prune, record.intermediate_values = 5, True, [(5, 0.1)]
        record.failures, record.own_fault = ["disk full"], True
        store.end(record, "failed", "disk full")
        (store.trial_folder(record.number) / RUN_ID).write_text("id")
    again = TrialStore(tmp_path, "trials")
    again.restart(again.records)
    for record in TrialStore(tmp_path, "trials").records:
        assert record == TrialRecord(record.number, {"optim.lr": 1.0}, 10, "waiting", sampler_params={"optim.lr": 1.0})
        assert not (store.trial_folder(record.number) / RUN_ID).exists()


@pytest.mark.parametrize("content", ['{"number": 0}', '{"format": 1, "number": 0}', '{"format": 3, "id": 0}', "x"])
def test_a_record_of_another_format_is_one_line_with_the_file(content: str, tmp_path: Path) -> None:
    TrialStore(tmp_path, "trials").add({}, 5)
    path = tmp_path / "trials/000/trial.json"
    path.write_text(content)
    with pytest.raises(UserError) as refused:
        TrialStore(tmp_path, "trials")
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("failures", "line"),
    [
        (["killed"], "killed"),
        (["killed", "killed"], "killed (2 times)"),
        (["killed", "disk full", "killed"], "1. killed (2 times); 2. disk full"),
    ],
)
def test_the_reasons_of_all_tries_are_one_line(failures: list[str], line: str) -> None:
    assert joined(failures) == line
