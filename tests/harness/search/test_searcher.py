"""Who decides what the next trial is."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from ray.tune.search import Searcher

from harness.config.search import Confirm, SearchConfig
from harness.config.train import TrainConfig
from harness.search import searcher as searcher_module
from harness.search.limits import NoLimits
from harness.search.search_space import SearchParameter, initial_points, search_parameters
from harness.search.searcher import DIED, NUMBER, OptunaSampler, ResumableSearcher, Suggestion
from harness.search.trial_store import TrialRecord, TrialStore

SEARCH = SearchConfig(
    space={
        "ssl.tau": {"low": 0.3, "high": 0.99},
        "ssl.ema_decay": {"low": 0.9, "high": 0.999, "scale": "log_complement"},
        "optim.lr": {"low": 0.001, "high": 0.2, "scale": "log"},
    }
)
START = {"ssl.tau": 0.968, "ssl.ema_decay": 0.999, "optim.lr": 0.05}


def axes(search: SearchConfig = SEARCH) -> list[SearchParameter]:
    return search_parameters(search, TrainConfig(), Path("space.yaml"))


def build_sampler(sampler: str = "tpe", seed: int = 0, records: Sequence[TrialRecord] = ()) -> OptunaSampler:
    return OptunaSampler(axes(), sampler=sampler, seed=seed, mode="max", trials=9, points=[START], records=records)


class Spent(NoLimits):
    """A budget that is."""

    def spent(self) -> bool:
        return True


def pretend(record: TrialRecord) -> None:
    """A trial that ended: every fourth failed, every fourth stopped."""
    value = -abs(record.values["ssl.tau"] - 0.7) - abs(math.log(record.values["optim.lr"] / 0.02))
    record.step, record.intermediate_values = 10, [(5, value - 1), (10, value)]
    if record.number % 4 == 2:
        record.state, record.intermediate_values = "failed", []
    elif record.number % 4 == 3:
        record.state, record.step, record.intermediate_values = "pruned", 5, record.intermediate_values[:1]
    else:
        record.state = "complete"


def searched(source: OptunaSampler, records: list[TrialRecord], count: int) -> list[TrialRecord]:
    """Trials one after the other."""
    while len(records) < count:
        values, drawn = source.ask()
        record = TrialRecord(len(records), values, 10, sampler_params=drawn)
        pretend(record)
        source.tell(record)
        records.append(record)
    return records


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_same_seed_draws_the_same_trials_and_another_others(sampler: str) -> None:
    first, second, other = (searched(build_sampler(sampler, seed), [], 8) for seed in (0, 0, 1))
    assert first == second
    assert [one.values for one in first[1:]] != [one.values for one in other[1:]]
    assert len({tuple(one.values.values()) for one in first}) == 8


def test_start_points_come_first_and_stay_on_their_bounds() -> None:
    assert build_sampler().ask().values == pytest.approx(START)


@pytest.mark.parametrize("known", range(9))
def test_tpe_built_anew_from_the_store_goes_on_with_what_it_knew(known: int) -> None:
    straight = searched(build_sampler(), [], 9)
    records = [TrialRecord(**vars(one)) for one in straight[:known]]
    assert searched(build_sampler(records=records), records, 9) == straight


def test_tpe_learns_from_the_trials_that_ended() -> None:
    straight = searched(build_sampler(), [], 9)
    assert straight[-1].values != searched(build_sampler("random"), [], 9)[-1].values
    worse = [TrialRecord(**vars(one)) for one in straight[:8]]
    for one in worse:
        one.intermediate_values = [(step, -value) for step, value in one.intermediate_values]
    assert searched(build_sampler(records=worse), worse, 9)[-1].values != straight[-1].values


def test_what_has_not_ended_is_asked_for_again_under_its_number() -> None:
    records = searched(build_sampler(), [], 4)
    records[1].state = "running"
    again = build_sampler(records=records)
    assert again.ask().values == pytest.approx(records[1].values)
    again.tell(TrialRecord(**{**vars(records[1]), "state": "complete"}))
    assert again.study.trials[1].state.name == "COMPLETE"
    assert [trial.state.name for trial in again.study.trials] == ["COMPLETE", "COMPLETE", "FAIL", "PRUNED"]


def test_a_grid_covers_each_point_once_start_points_first() -> None:
    space = {"ssl.mix": {"values": ["class", "cut", "class"]}, "seed": {"values": [1, 2, 3]}}
    start = [{"ssl.mix": "cut", "seed": 2}]
    search = SearchConfig(sampler="grid", early_stopping=None, space=space, start=start, confirm=Confirm(top=0))
    total, points = initial_points(search, axes(search), Path("space.yaml"))
    source = OptunaSampler(axes(search), sampler="grid", seed=0, mode="max", trials=total, points=points)
    drawn = [source.ask().values for _ in range(total)]
    assert drawn[0] == start[0]
    assert {tuple(one.values()) for one in drawn} == {(mix, seed) for mix in ("class", "cut") for seed in (1, 2, 3)}
    assert total == 6


def test_tune_is_given_the_unfinished_then_new_trials_then_the_end(tmp_path: Path) -> None:
    store = TrialStore(tmp_path, "trials")
    store.add({"optim.lr": 0.1}, 10, "complete")
    store.add({"optim.lr": 0.2, "steps": 7}, 7)

    class Threes(OptunaSampler):
        def __init__(self) -> None:
            pass

        def ask(self) -> Suggestion:
            return Suggestion({"optim.lr": 0.3, "steps": 5}, {})

        def tell(self, record: TrialRecord) -> None:
            pass

    searcher = ResumableSearcher(store, Threes(), trials=3, steps=10)
    assert [searcher.suggest(name) for name in "abc"] == [{NUMBER: 1}, {NUMBER: 2}, None], "they may fail yet"
    assert TrialStore(tmp_path, "trials").records[2].steps == 5, "written before Tune hears of it"
    assert store.records[2].state == "running"
    searcher.on_trial_complete("a")
    assert searcher.suggest("d") is None
    searcher.on_trial_complete("b")
    assert searcher.suggest("d") == Searcher.FINISHED


def test_after_the_budget_no_trial_starts(tmp_path: Path) -> None:
    store = TrialStore(tmp_path, "trials")
    store.add({}, 10)
    searcher = ResumableSearcher(store, None, trials=3, steps=10, limits=Spent())
    assert searcher.suggest("a") == Searcher.FINISHED


@pytest.mark.parametrize(
    ("step", "reason", "error", "state"),
    [
        (10, None, False, "complete"),
        (9, None, False, "pruned"),
        (0, None, False, "pruned"),
        (9, "ValueError: x", False, "failed"),
        (9, "ValueError: x", True, "failed"),
        (10, None, True, "failed"),
    ],
)
def test_how_a_trial_ended_is_written_down(
    tmp_path: Path, step: int, reason: str | None, error: bool, state: str
) -> None:
    store = TrialStore(tmp_path, "trials")
    record = store.add({}, 10)
    (store.trial_folder(0) / "checkpoints").mkdir()
    searcher = ResumableSearcher(store, None, trials=1, steps=10)
    searcher.suggest("a")
    record.step, record.reason = step, reason
    searcher.on_trial_complete("a", {}, error)
    searcher.on_trial_complete("a", {}, True)
    (known,) = TrialStore(tmp_path, "trials").records
    assert known.state == state
    assert known.reason == (reason or ("its process died: killed, or out of memory" if state == "failed" else None))
    assert not (store.trial_folder(0) / "checkpoints").exists()


def fail(searcher: ResumableSearcher, trial_id: str, reason: str | None = None, own_fault: bool = False) -> None:
    """As Tune and the progress tell it: a process that dies reports no reason."""
    record = searcher.running[trial_id]
    record.reason, record.own_fault = reason, own_fault
    searcher.on_trial_complete(trial_id, error=reason is None)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searcher_module, "PAUSES", (0.0,))


@pytest.mark.usefixtures("at_once")
def test_a_trial_that_fails_by_no_fault_of_its_own_goes_on_from_its_checkpoint_until_no_retry_is_left(
    tmp_path: Path,
) -> None:
    store, sampler = TrialStore(tmp_path, "trials"), build_sampler()
    searcher = ResumableSearcher(store, sampler, trials=1, steps=10, retries=2)
    checkpoints = store.trial_folder(0) / "checkpoints"
    for name, reason in (("a", None), ("b", "OSError: disk full")):
        assert searcher.suggest(name) == {NUMBER: 0}
        checkpoints.mkdir(exist_ok=True)
        fail(searcher, name, reason)
        (known,) = TrialStore(tmp_path, "trials").records
        assert (known.state, known.reason) == ("waiting", None)
        assert checkpoints.is_dir()
        assert [trial.state.name for trial in sampler.study.trials] == ["RUNNING"], "asked once, not told yet"
    assert searcher.suggest("c") == {NUMBER: 0}
    fail(searcher, "c")
    (known,) = TrialStore(tmp_path, "trials").records
    assert (known.state, known.own_fault, known.lost) == ("failed", False, True)
    assert known.failures == [DIED, "OSError: disk full", DIED]
    assert known.reason == f"1. {DIED} (2 times); 2. OSError: disk full"
    assert not checkpoints.exists()
    assert [trial.state.name for trial in sampler.study.trials] == ["FAIL"]
    assert searcher.suggest("d") == Searcher.FINISHED


@pytest.mark.usefixtures("at_once")
def test_a_trial_that_fails_by_its_own_fault_is_not_tried_again(tmp_path: Path) -> None:
    store = TrialStore(tmp_path, "trials")
    searcher = ResumableSearcher(store, build_sampler(), trials=1, steps=10, retries=3)
    searcher.suggest("a")
    fail(searcher, "a")
    searcher.suggest("b")
    fail(searcher, "b", "TrainingError: the loss is nan", own_fault=True)
    (known,) = TrialStore(tmp_path, "trials").records
    assert (known.state, known.lost) == ("failed", False)
    assert known.reason == f"1. {DIED}; 2. TrainingError: the loss is nan"
    assert searcher.suggest("c") == Searcher.FINISHED


def test_before_it_is_tried_again_a_trial_waits_longer_each_time_and_others_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(searcher_module.time, "monotonic", lambda: now)
    store = TrialStore(tmp_path, "trials")
    searcher = ResumableSearcher(store, build_sampler(), trials=2, steps=10, retries=4)
    assert searcher.suggest("0") == {NUMBER: 0}
    fail(searcher, "0")
    assert searcher.suggest("other") == {NUMBER: 1}
    searcher.on_trial_complete("other")
    for name, pause in zip("1234", (2, 10, 30, 30), strict=True):
        now += pause - 0.5
        assert searcher.suggest(name) is None, "not yet"
        now += 1
        assert searcher.suggest(name) == {NUMBER: 0}
        fail(searcher, name)
    assert store.records[0].state == "failed"


@pytest.mark.usefixtures("at_once")
def test_after_the_budget_no_trial_is_tried_again(tmp_path: Path) -> None:
    store = TrialStore(tmp_path, "trials")
    searcher = ResumableSearcher(store, build_sampler(), trials=1, steps=10, retries=3)
    searcher.suggest("a")
    fail(searcher, "a")
    searcher.limits = Spent()
    assert searcher.suggest("b") == Searcher.FINISHED
    assert store.records[0].state == "waiting"


def test_a_resumed_study_counts_the_tries_of_earlier_commands(tmp_path: Path) -> None:
    first = ResumableSearcher(TrialStore(tmp_path, "trials"), build_sampler(), trials=1, steps=10, retries=1)
    first.suggest("a")
    fail(first, "a")
    store = TrialStore(tmp_path, "trials")
    second = ResumableSearcher(store, build_sampler(records=store.records), trials=1, steps=10, retries=1)
    assert second.suggest("a") == {NUMBER: 0}, "without a pause"
    fail(second, "a")
    assert store.records[0].reason == f"{DIED} (2 times)"
