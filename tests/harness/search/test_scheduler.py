"""Early stopping that outlives its process."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from harness.config.search import EarlyStopping, SearchConfig
from harness.search.scheduler import build_scheduler
from harness.search.searcher import NUMBER
from harness.search.trial_store import TrialStore

SPACE: dict[str, dict[str, Any]] = {"ssl.tau": {"low": 0.1, "high": 0.9}}


def search(mode: str = "max", asha: bool = True) -> SearchConfig:
    stopping = EarlyStopping(grace_steps=2, reduction_factor=2) if asha else None
    return SearchConfig(space=SPACE, mode=mode, early_stopping=stopping)  # type: ignore[arg-type]


def trial(number: int, name: str = "") -> Any:
    return SimpleNamespace(trial_id=name or f"id{number}", config={NUMBER: number})


def stopped(scheduler: Any, store: TrialStore, one: Any, step: int, value: float) -> bool:
    """Report; whether the verdict is to stop."""
    record = store.records[one.config[NUMBER]]
    record.stop = False
    decision = scheduler.on_trial_result(None, one, {"step": step, "val/miou": value})
    assert decision == TrialScheduler.CONTINUE, "a trial ends by itself"
    return record.stop


@pytest.fixture
def store(tmp_path: Path) -> TrialStore:
    store = TrialStore(tmp_path, "trials")
    for _ in range(3):
        store.add({}, 8)
    return store


@pytest.mark.parametrize(("mode", "good", "bad"), [("max", 0.9, 0.1), ("min", 0.1, 0.9)])
def test_the_worse_half_is_stopped_at_a_rung_and_not_before(
    store: TrialStore, mode: str, good: float, bad: float
) -> None:
    scheduler = build_scheduler(search(mode), store, 8, float("inf"))
    for number in range(2):
        scheduler.on_trial_add(None, trial(number))
    assert not stopped(scheduler, store, trial(0), 2, good)
    assert not stopped(scheduler, store, trial(1), 1, bad)
    assert stopped(scheduler, store, trial(1), 2, bad)


def test_rungs_are_recalled_from_the_ledger(store: TrialStore) -> None:
    first, second, _ = store.records
    first.intermediate_values = [(2, 0.5), (4, 0.6)]
    store.end(first, "pruned")
    second.intermediate_values = [(2, 0.9)]
    scheduler = build_scheduler(search(), store, 8, float("inf"))
    scheduler.on_trial_add(None, trial(1, "new name"))
    scheduler.on_trial_add(None, trial(2))
    assert stopped(scheduler, store, trial(2), 2, 0.6), "below the median of 0.5, 0.9 and itself"
    assert not stopped(scheduler, store, trial(1, "new name"), 2, 0.1), "it has passed this rung before"
    assert stopped(scheduler, store, trial(1, "new name"), 4, 0.1)


def test_the_last_step_is_no_early_stop(store: TrialStore) -> None:
    scheduler = build_scheduler(search(), store, 7, float("inf"))
    scheduler.on_trial_add(None, trial(0))
    assert not stopped(scheduler, store, trial(0), 7, 0.1)


def test_a_report_heard_twice_is_judged_once_and_one_between_rungs_enters_none_anew(store: TrialStore) -> None:
    """With reports at 3, 6, 8 and 10 over rungs at 2, 4 and 8, a resumed scheduler holds what a straight one does."""
    straight = build_scheduler(search(), store, 12, float("inf"))
    straight.on_trial_add(None, trial(0))
    for step, value in ((3, 0.9), (6, 0.2), (8, 0.4), (10, 0.1)):
        assert not stopped(straight, store, trial(0), step, value)
        store.records[0].intermediate_values.append((step, value))
    resumed = build_scheduler(search(), store, 12, float("inf"))
    resumed.on_trial_add(None, trial(0))
    assert not stopped(resumed, store, trial(0), 10, 0.1)
    rungs = [one.inner._brackets[0]._rungs for one in (straight, resumed)]  # type: ignore[union-attr]
    assert rungs[0] == rungs[1]
    assert [recorded for _, recorded in rungs[0]] == [{"id0": 0.4}, {"id0": 0.2}, {"id0": 0.9}]


def test_a_report_enters_no_rung_below_one_that_it_has_passed(store: TrialStore) -> None:
    """Evaluations every 4 steps never hit the rung at 2; those at 4 and 8 do theirs, and the one at 12 none."""
    scheduler = build_scheduler(search(), store, 14, float("inf"))
    for number, value in ((0, 0.9), (1, 0.95)):
        scheduler.on_trial_add(None, trial(number))
        for step in (4, 8):
            assert not stopped(scheduler, store, trial(number), step, value)
    assert not stopped(scheduler, store, trial(1), 12, 0.1)


@pytest.mark.parametrize("asha", [True, False])
def test_after_the_deadline_each_report_is_the_last(store: TrialStore, asha: bool) -> None:
    late = build_scheduler(search(asha=asha), store, 8, time.monotonic() - 1)
    late.on_trial_add(None, trial(0))
    assert stopped(late, store, trial(0), 1, 0.9)
    early = build_scheduler(search(asha=asha), store, 8, time.monotonic() + 1000)
    early.on_trial_add(None, trial(1))
    assert not stopped(early, store, trial(1), 1, 0.9)


def test_without_asha_no_trial_is_stopped(store: TrialStore) -> None:
    scheduler = build_scheduler(search(asha=False), store, 8, float("inf"))
    for number in range(2):
        scheduler.on_trial_add(None, trial(number))
        assert not stopped(scheduler, store, trial(number), 4, 0.9 - number)


def test_a_failed_trial_reports_no_metric_and_is_not_judged(store: TrialStore) -> None:
    scheduler = build_scheduler(search(), store, 8, float("inf"))
    scheduler.on_trial_add(None, trial(0))
    assert scheduler.on_trial_result(None, trial(0), {"failed": "x"}) == TrialScheduler.CONTINUE
    assert not store.records[0].stop
