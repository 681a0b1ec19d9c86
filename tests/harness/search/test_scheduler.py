"""Early stopping that outlives its process."""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from harness.config.search import EarlyStopping, SearchConfig
from harness.search.scheduler import PruneAtReport, falls_behind
from harness.search.searcher import NUMBER
from harness.search.trial_store import TrialStore

SPACE: dict[str, dict[str, Any]] = {"ssl.tau": {"low": 0.1, "high": 0.9}}


def search(mode: str = "max", asha: bool = True) -> SearchConfig:
    stopping = EarlyStopping(grace_steps=2, reduction_factor=2) if asha else None
    return SearchConfig(space=SPACE, mode=mode, early_stopping=stopping)  # type: ignore[arg-type]


def trial(number: int) -> Any:
    return SimpleNamespace(config={NUMBER: number})


def pruned(scheduler: PruneAtReport, number: int, step: int, value: float) -> bool:
    """Report as Tune does: ask, then enter the report. Whether the trial shall end there."""
    record = scheduler.store.records[number]
    record.prune = False
    decision = scheduler.on_trial_result(None, trial(number), {"step": step, "val/miou": value})  # type: ignore[arg-type]
    assert decision == TrialScheduler.CONTINUE, "a trial ends by itself"
    if all(step != known for known, _ in record.intermediate_values):
        record.intermediate_values.append((step, value))
    return record.prune


@pytest.fixture
def store(tmp_path: Path) -> TrialStore:
    store = TrialStore(tmp_path, "trials")
    for _ in range(3):
        store.add({}, 8)
    return store


@pytest.mark.parametrize(("mode", "good", "bad"), [("max", 0.9, 0.1), ("min", 0.1, 0.9)])
def test_the_worse_half_ends_at_a_rung_and_not_before(store: TrialStore, mode: str, good: float, bad: float) -> None:
    scheduler = PruneAtReport(store, search(mode))
    assert not pruned(scheduler, 0, 2, good)
    assert not pruned(scheduler, 1, 1, bad)
    assert pruned(scheduler, 1, 2, bad)


@pytest.mark.parametrize("every", [1, 3, 4, 7])
@pytest.mark.parametrize(("grace", "factor"), [(2, 2), (3, 2), (2, 3), (5, 4), (1, 2)])
def test_it_decides_as_the_asha_of_ray_does_whatever_the_order_of_reports(every: int, grace: int, factor: int) -> None:
    steps, draw = 60, random.Random(10 * every + grace)
    ray = AsyncHyperBandScheduler(
        "step", "v", "max", max_t=steps + 1, grace_period=grace, reduction_factor=factor, stop_last_trials=False
    )
    curves: dict[int, list[tuple[int, float]]] = {number: [] for number in range(9)}
    for number in curves:
        ray.on_trial_add(None, SimpleNamespace(trial_id=number))  # type: ignore[arg-type]
    going, decisions = set(curves), []
    while going:
        number = draw.choice(sorted(going))
        own = curves[number]
        step, value = (own[-1][0] if own else 0) + every, draw.random()
        one = SimpleNamespace(trial_id=number)
        expected = ray.on_trial_result(None, one, {"step": step, "v": value}) == TrialScheduler.STOP  # type: ignore[arg-type]
        others = [curve for other, curve in curves.items() if other != number]
        stopping = EarlyStopping(grace_steps=grace, reduction_factor=factor)
        assert falls_behind(value, step, own, others, stopping) == expected, (number, step, curves)
        decisions.append(expected)
        own.append((step, value))
        if expected or step + every > steps:
            going.remove(number)
    assert set(decisions) == {True, False}


def test_a_resumed_search_decides_by_what_is_stored(store: TrialStore) -> None:
    first, second, _ = store.records
    first.intermediate_values = [(2, 0.5), (4, 0.6)]
    store.end(first, "pruned")
    second.intermediate_values = [(2, 0.9)]
    scheduler = PruneAtReport(store, search())
    assert pruned(scheduler, 2, 2, 0.6), "below the median of 0.5 and 0.9"
    assert not pruned(scheduler, 1, 2, 0.1), "it has passed this rung before"
    assert pruned(scheduler, 1, 4, 0.1)


def test_a_report_heard_twice_is_judged_once_and_one_between_rungs_enters_none_anew(store: TrialStore) -> None:
    """Reports at 3, 6, 8 and 10 over rungs at 2, 4 and 8."""
    store.records[1].intermediate_values = [(2, 0.8), (4, 0.1), (8, 0.3)]
    for step, value in ((3, 0.9), (6, 0.2), (8, 0.4), (10, 0.1), (10, 0.1)):
        assert not pruned(PruneAtReport(store, search()), 0, step, value)


def test_a_report_enters_no_rung_below_one_that_it_has_passed(store: TrialStore) -> None:
    """Evaluations every 4 steps never hit the rung at 2; those at 4 and 8 do theirs, and the one at 12 none."""
    scheduler = PruneAtReport(store, search())
    for number, value in ((0, 0.9), (1, 0.95)):
        for step in (4, 8):
            assert not pruned(scheduler, number, step, value)
    assert not pruned(scheduler, 1, 12, 0.1)


@pytest.mark.parametrize("asha", [True, False])
def test_after_the_budget_each_report_is_the_last(store: TrialStore, asha: bool) -> None:
    assert pruned(PruneAtReport(store, search(asha=asha), lambda: True), 0, 1, 0.9)
    assert not pruned(PruneAtReport(store, search(asha=asha), lambda: False), 1, 1, 0.9)


def test_without_asha_no_trial_is_pruned(store: TrialStore) -> None:
    scheduler = PruneAtReport(store, search(asha=False))
    assert not any(pruned(scheduler, number, 4, 0.9 - number) for number in range(2))


def test_a_failed_trial_reports_no_metric_and_is_not_judged(store: TrialStore) -> None:
    scheduler = PruneAtReport(store, search())
    result: Any = {"failed": "x"}
    assert scheduler.on_trial_result(None, trial(0), result) == TrialScheduler.CONTINUE  # type: ignore[arg-type]
    assert not store.records[0].prune
