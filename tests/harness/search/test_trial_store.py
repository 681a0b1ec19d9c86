"""The files that a study is resumed from."""

from pathlib import Path

from harness.search.trial_store import MLFLOW_RUN, Entry, Ledger


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "trials")
    first = ledger.add({"ssl.tau": 0.1 + 0.2, "ssl.mix": "cut", "data.labelled": None}, 10)
    first.history, first.metrics = [(5, 1 / 3), (10, 2 / 3)], {"val/iou/car": float("nan")}
    ledger.end(first, "failed", "because")
    ledger.add({"ssl.tau": 0.5}, 20, "waiting")
    again = Ledger(tmp_path, "trials")
    assert [vars(one) | {"metrics": None} for one in again.entries] == [
        vars(one) | {"metrics": None} for one in ledger.entries
    ]
    assert again.entries[0].metric == 2 / 3
    assert (again.ended, again.count("waiting"), again.count("failed", "waiting")) == (1, 1, 2)
    assert Ledger(tmp_path, "confirm").entries == []


def test_a_trial_whose_entry_was_not_written_whole_is_not_there(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "trials")
    ledger.add({}, 10)
    (tmp_path / "trials/001").mkdir()
    (tmp_path / "trials/001/trial.json.part").write_text('{"number": 1')
    assert len(Ledger(tmp_path, "trials").entries) == 1


def test_trials_that_are_revived_begin_from_scratch(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "trials")
    for _ in range(2):
        entry = ledger.add({"optim.lr": 1.0}, 10, drawn={"optim.lr": 1.0})
        entry.step, entry.stop, entry.history = 5, True, [(5, 0.1)]
        ledger.end(entry, "failed", "disk full")
        (ledger.trial_folder(entry.number) / MLFLOW_RUN).write_text("id")
    Ledger(tmp_path, "trials").revive()
    for entry in Ledger(tmp_path, "trials").entries:
        assert entry == Entry(entry.number, {"optim.lr": 1.0}, 10, "waiting", drawn={"optim.lr": 1.0})
        assert not (ledger.trial_folder(entry.number) / MLFLOW_RUN).exists()
