"""What ends a search before its last trial."""

from pathlib import Path

import pytest
import yaml

from harness import tune
from harness.config.search import Budget, Confirm, Resources, SearchConfig, Stop
from harness.search.limits import Limits, waited_in_vain
from harness.search.trial_store import TrialRecord, TrialStore
from tests.commands import call
from tests.studies import ended
from tests.tables import build_table

AXIS = {"ssl.tau": {"low": 0.3, "high": 0.95}, "optim.lr": {"low": 0.001, "high": 0.3, "scale": "log"}}


def trial(number: int, value: float, state: str = "complete") -> TrialRecord:
    return TrialRecord(number, {}, 10, state, 10, [(10, value)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("last", "over"),
    [
        ([trial(3, 0.5), trial(4, 0.5)], True),
        ([trial(3, 0.5), trial(4, 0.7)], False),
        ([trial(3, 0.5), trial(4, 0.9, "pruned")], True),  # it was ahead, but not at the end
        ([trial(3, 0.5), trial(4, 0.0, "running")], False),
        ([trial(3, 0.5)], False),
        ([trial(3, 0.5), trial(4, 0.0, "failed")], False),  # by no fault of its own
    ],
)
def test_a_search_has_settled_after_so_many_trials_without_a_new_best(last: list[TrialRecord], over: bool) -> None:
    search = SearchConfig(space=AXIS, stop=Stop(patience=2))
    assert waited_in_vain(search, [trial(0, 0.4), trial(1, 0.2), trial(2, 0.6), *last]) is over
    assert not waited_in_vain(SearchConfig(space=AXIS), [trial(0, 0.9), *(trial(n, 0.1) for n in range(1, 50))])
    assert not waited_in_vain(search, [trial(n, 0.1, "failed") for n in range(9)]), "there is no best yet"


@pytest.mark.parametrize(
    ("budget", "spent"),
    [
        (Budget(core_hours=1.9), True),
        (Budget(core_hours=2.1), False),
        (Budget(gpu_hours=0.9), True),
        (Budget(gpu_hours=1.1), False),
        (Budget(minutes=0.5), True),
        (Budget(minutes=2), False),
        (Budget(), False),
    ],
)
def test_a_budget_counts_what_trials_keep_from_others(tmp_path: Path, budget: Budget, spent: bool) -> None:
    store = TrialStore(tmp_path, "trials")
    for _ in range(2):
        store.add({}, 10).seconds = 1800
    (tmp_path / "searched_seconds").write_text("60")
    search = SearchConfig(space=AXIS, resources=Resources(cpus=2, gpus=1), budget=budget)
    limits = Limits(search, store, tmp_path)
    assert limits.spent() is spent
    limits.note()
    assert 60 <= Limits(search, store, tmp_path).before < 70
    limits.begin_anew()
    assert limits.seconds < 10
    assert not limits.spent(), "nothing came of what was spent"
    assert not Limits(search, store, tmp_path).spent()


def test_patience_is_refused_where_each_point_has_many_seeds(tmp_path: Path) -> None:
    space = {"ssl.mix": {"values": ["class", "cut"]}, "seed": {"values": [0, 1]}}
    with pytest.raises(ValueError, match="stop"):
        SearchConfig(space=space, sampler="grid", early_stopping=None, confirm=Confirm(top=0), stop=Stop(patience=2))


def test_a_study_stops_where_no_gain_is_likely(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = build_table(here / "table.npz")
    space = {"trials": 60, "confirm": {"top": 0}, "early_stopping": {"grace_steps": 10}, "space": AXIS}
    space |= {"train": {"steps": 40, "eval_every": 10}, "stop": {"patience": 5}}
    (here / "space.yaml").write_text(yaml.safe_dump(space))
    result = call(tune.main, capsys, f"--space={here / 'space.yaml'}", f"--simulate={table}", "--name=s")
    assert result.code == 0, result
    count = len(ended(here))
    assert 6 <= count < 60
    assert f"no gain in 5 trials: the search ends after {count} of 60" in result.out
    assert "until 5 in a row bring no gain" in result.out
