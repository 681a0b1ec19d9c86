"""The files that a study is resumed from."""

from pathlib import Path

import pytest

from harness.ledger import MLFLOW_RUN, Ledger


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


@pytest.mark.parametrize(
    ("states", "total", "after"),
    [(("failed", "failed"), 2, "waiting"), (("failed", "stopped"), 2, None), (("failed", "failed"), 3, None)],
)
def test_trials_that_failed_run_again_only_where_all_of_the_study_did(
    tmp_path: Path, states: tuple[str, ...], total: int, after: str | None
) -> None:
    ledger = Ledger(tmp_path, "trials")
    for state in states:
        entry = ledger.add({"optim.lr": 1.0}, 10, drawn={"optim.lr": 1.0})
        entry.step, entry.stop, entry.history = 5, True, [(5, 0.1)]
        ledger.end(entry, state, "disk full")  # type: ignore[arg-type]
        (ledger.trial_folder(entry.number) / MLFLOW_RUN).write_text("id")
    again = Ledger(tmp_path, "trials")
    assert again.revive_if_all_failed(total) == bool(after)
    for entry in Ledger(tmp_path, "trials").entries:
        assert (entry.step, entry.stop, entry.values) == (0 if after else 5, not after, {"optim.lr": 1.0})
        assert (ledger.trial_folder(entry.number) / MLFLOW_RUN).exists() == (not after)
    assert [entry.state for entry in Ledger(tmp_path, "trials").entries] == [after or state for state in states]
    assert [entry.reason for entry in again.entries] == ([None, None] if after else ["disk full"] * 2)
