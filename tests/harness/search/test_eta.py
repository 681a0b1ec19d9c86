"""How long a study will still take."""

from pathlib import Path

import pytest

from harness.search.eta import Expected, TimeLeft, steps_left
from harness.search.trial_store import TrialStore


def test_what_is_left_is_counted_in_steps_of_all_phases(tmp_path: Path) -> None:
    trials, confirm = TrialStore(tmp_path, "trials"), TrialStore(tmp_path, "confirm")
    assert steps_left(Expected(trials, 4, 50)) == 200
    for steps in (100, 20):
        record = trials.add({}, 100)
        record.step, record.state = steps, "pruned"
    running = trials.add({}, 100)
    running.step = 30
    assert steps_left(Expected(trials, 4, 50)) == 2 * 60 - 30
    running.step = 90
    assert steps_left(Expected(trials, 4, 50)) == 60, "it takes longer than the mean: the other one is left"
    assert steps_left(Expected(confirm, 6, 100)) == 600


def test_the_pace_is_that_of_this_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("harness.search.eta.time.monotonic", lambda: clock[0])
    trials, confirm = TrialStore(tmp_path, "trials"), TrialStore(tmp_path, "confirm")
    old = trials.add({}, 100)
    old.step, old.state = 100, "complete"
    time_left = TimeLeft(lambda: [Expected(trials, 2, 100), Expected(confirm, 3, 100)])
    assert time_left.seconds() is None
    new = trials.add({}, 100)
    new.step = 10
    clock[0] += 60
    assert time_left.seconds() is None, "no pace yet: the processes have started in that minute"
    new.step = 50
    clock[0] += 10
    assert time_left.seconds() == pytest.approx(350 * 10 / 40)
