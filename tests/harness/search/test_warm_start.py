"""Trials of other studies: what is taken from them, how far they are trusted."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from harness import tune
from harness.config.search import SearchConfig
from harness.config.train import TrainConfig, Values, to_yaml
from harness.search.search_space import SearchParameter, search_parameters
from harness.search.searcher import OptunaSampler
from harness.search.trial_store import TrialRecord, TrialStore
from harness.search.warm_start import FIRST, SCORE, advice, known_trials, levelled, places, read_known
from tests.commands import Result, call
from tests.tables import build_table

SPACE: dict[str, dict[str, Any]] = {
    "ssl.tau": {"low": 0.3, "high": 0.95},
    "optim.lr": {"low": 0.001, "high": 0.3, "scale": "log"},
}
SEARCH = SearchConfig(space=SPACE)
START: Values = {"ssl.tau": 0.94, "optim.lr": 0.002}


def axes(search: SearchConfig = SEARCH) -> list[SearchParameter]:
    return search_parameters(search, TrainConfig(), Path("space.yaml"))


def good(values: Values) -> float:
    return 0.7 - (values["ssl.tau"] - 0.6) ** 2


def tried(taus: Sequence[float], score: Callable[[Values], float] = good) -> list[TrialRecord]:
    records = []
    for number, tau in enumerate(taus):
        values = {"ssl.tau": tau, "optim.lr": 0.02}
        curve = [(5, score(values) - 0.1), (10, score(values))]
        records.append(TrialRecord(number, values, 10, "complete", 10, curve))
    return records


def told(records: Sequence[TrialRecord]) -> SearchConfig:
    _, scores = levelled(records, 1)
    scaled = (scores - scores.mean()) / scores.std()
    return replace(SEARCH, known=[{**one.values, SCORE: score} for one, score in zip(records, scaled, strict=True)])


GRID = np.linspace(0.35, 0.95, 13).tolist()


def test_a_trial_that_was_stopped_is_as_far_ahead_in_the_end_as_where_it_was_stopped() -> None:
    records = tried([0.5, 0.7])
    records.append(TrialRecord(2, {"ssl.tau": 0.9, "optim.lr": 0.02}, 10, "pruned", 5, [(5, 0.4)]))
    records.append(TrialRecord(3, {"ssl.tau": 0.4, "optim.lr": 0.02}, 10, "failed"))
    found, scores = levelled(records, 1)
    assert [one.number for one in found] == [0, 1, 2]
    assert scores[2] == pytest.approx(0.4 + 0.1)
    assert levelled(records[2:], 1)[0] == [], "nothing tells how far a whole trial gets"
    assert levelled(records, -1)[1].tolist() == pytest.approx((-scores).tolist())


def test_a_list_of_values_has_a_column_for_each() -> None:
    space = {"optim.lr": SPACE["optim.lr"], "ssl.mix": {"values": ["class", "cut"]}}
    some = axes(SearchConfig(space=space))
    found = places(some, [{"optim.lr": 0.001, "ssl.mix": "cut"}, {"optim.lr": 0.3, "ssl.mix": "class"}])
    assert found.tolist() == [[0, 0, 1], [1, 1, 0]]


def test_known_trials_are_followed_while_they_agree() -> None:
    known = known_trials(told(tried(GRID)), axes())
    assert known is not None
    assert known.values[0]["ssl.tau"] == pytest.approx(0.6)
    alike, opposed = tried([0.4, 0.6, 0.9]), tried([0.4, 0.6, 0.9], lambda values: -good(values))
    assert advice(known, axes(), [], 1) == (True, None)
    assert advice(known, axes(), alike, 1).agrees
    assert not advice(known, axes(), opposed, 1).agrees
    assert not advice(known, axes(), alike, -1).agrees, "less is better there"
    scores = advice(known, axes(), tried(GRID), 1).scores
    assert scores is not None
    assert scores.max() == pytest.approx(0.7, abs=0.03), "on the scale of the new trials"


def draw(sampler: OptunaSampler, records: list[TrialRecord], count: int, score: Callable[[Values], float]) -> None:
    while len(records) < count:
        values, drawn = sampler.ask()
        records.append(
            TrialRecord(len(records), values, 10, "complete", 10, [(10, score(values))], sampler_params=drawn)
        )
        sampler.tell(records[-1])


def build(search: SearchConfig, records: list[TrialRecord], points: Sequence[Values] = (START,)) -> OptunaSampler:
    given = {"sampler": "tpe", "seed": 0, "mode": "max", "trials": 12, "points": points, "records": records}
    return OptunaSampler(axes(), known=known_trials(search, axes()), **given)  # type: ignore[arg-type]


def test_the_best_known_are_tried_after_the_start_points_and_the_sampler_stays_near_them() -> None:
    records: list[TrialRecord] = []
    search = told(tried(np.linspace(0.35, 0.95, 61).tolist()))
    draw(build(search, records), records, 31, good)
    assert records[0].values == pytest.approx(START)
    known = known_trials(search, axes())
    assert known is not None
    for place in range(FIRST):
        assert records[1 + place].values == pytest.approx(known.values[place])
    off = [abs(one.values["ssl.tau"] - 0.6) for one in records[1 + FIRST :]]
    assert np.mean(off[::2]) < 0.7 * np.mean(off[1::2]), "every other draw has them in view"


def test_where_they_mislead_only_the_first_is_tried() -> None:
    records: list[TrialRecord] = []
    draw(build(told(tried(GRID)), records), records, 12, lambda values: -good(values))
    cold: list[TrialRecord] = []
    draw(build(SEARCH, cold, [START, records[1].values]), cold, 12, lambda values: -good(values))
    assert [one.values for one in records] == [one.values for one in cold]


def test_a_sampler_that_is_built_anew_draws_the_same() -> None:
    search, whole = told(tried(GRID)), []  # type: ignore[var-annotated]
    draw(build(search, whole), whole, 10, good)
    for count in (1, 2, 5):
        again = whole[:count]
        draw(build(search, again), again, 10, good)
        assert [one.values for one in again] == [one.values for one in whole]


def write_study(folder: Path, records: Sequence[TrialRecord], **space: object) -> Path:
    (folder / "trials").mkdir(parents=True)
    (folder / "space.yaml").write_text(yaml.safe_dump({"space": SPACE, **space}))
    (folder / "config.yaml").write_text(to_yaml(TrainConfig()))
    store = TrialStore(folder, "trials")
    for one in records:
        made = store.add(one.values, one.steps)
        made.step, made.intermediate_values = one.step, list(one.intermediate_values)
        store.end(made, one.state)
    return folder


def test_trials_of_another_space_give_what_lies_in_this_one(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "other", tried(GRID))
    narrow = SearchConfig(space={"ssl.tau": {"low": 0.5, "high": 0.9}, "ssl.ema_decay": {"low": 0.9, "high": 0.999}})
    found = read_known(folder, axes(narrow), narrow)
    assert [one["ssl.tau"] for one in found] == pytest.approx([tau for tau in GRID if 0.5 <= tau <= 0.9])
    assert {one["ssl.ema_decay"] for one in found} == {TrainConfig().ssl.ema_decay}, "what all of its trials had"


def warm(here: Path, capsys: pytest.CaptureFixture[str], *words: str) -> Result:
    table = here / "table.npz"
    if not table.exists():
        build_table(table)
    space = {"trials": 10, "confirm": {"top": 0}, "early_stopping": {"grace_steps": 10}, "space": SPACE}
    space |= {"train": {"steps": 40, "eval_every": 10}, "start": [START]}
    (here / "warm.yaml").write_text(yaml.safe_dump(space))
    return call(tune.main, capsys, f"--space={here / 'warm.yaml'}", f"--simulate={table}", *words)


def test_a_study_starts_from_another_and_knows_so_for_good(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert warm(here, capsys, "--name=first").code == 0
    result = warm(here, capsys, "--name=second", "--warm-start=first")
    assert result.code == 0, result
    known = yaml.safe_load((here / "runs/second/space.yaml").read_text())["known"]
    assert len(known) == 10
    best = max(known, key=lambda one: one[SCORE])
    second = TrialStore(here / "runs/second", "trials").records
    assert {key: best[key] for key in SPACE} in [one.values for one in second]
    again = call(
        tune.main,
        capsys,
        f"--space={here / 'runs/second/space.yaml'}",
        f"--train={here / 'runs/second/config.yaml'}",
        f"--simulate={here / 'table.npz'}",
        "--name=third",
    )
    assert again.code == 0, again
    stores = [TrialStore(here / "runs" / name, "trials") for name in ("second", "third")]
    assert stores[0].records == stores[1].records


@pytest.mark.parametrize(
    ("space", "studies", "words"),
    [
        ({}, "none", ("--warm-start", "'none'")),
        ({}, "other,", ("--warm-start", "''")),
        ({"metric": "val/accuracy"}, "other", ("must have sought val/miou", "val/accuracy")),
        ({"space": {"ssl.tau": {"low": 0.1, "high": 0.2}}}, "other", ("trial of other must lie in the space", "0.15")),
    ],
)
def test_what_cannot_help_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], space: dict[str, object], studies: str, words: tuple[str, ...]
) -> None:
    records = tried([0.15, 0.15] if "space" in space else GRID)
    write_study(here / "runs/other", records, **space)
    result = warm(here, capsys, "--name=s", f"--warm-start={studies}")
    assert_refused(result, *words)
    assert not (here / "runs/s").exists()


def assert_refused(result: Result, *words: str) -> None:
    assert result.code == 2, result
    assert result.err.count("\n") == 1, result.err
    assert all(word in result.err for word in words), result.err


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({**START}, ("known[0].score",)),
        ({**START, "score": "x"}, ("known[0].score", "'x'")),
        ({"score": 1}, ("known[0]",)),
    ],
)
def test_a_known_trial_that_is_none_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], known: dict[str, object], words: tuple[str, ...]
) -> None:
    (here / "space.yaml").write_text(yaml.safe_dump({"space": SPACE, "known": [known]}))
    assert_refused(call(tune.main, capsys, f"--space={here / 'space.yaml'}"), *words)
    assert not (here / "runs").exists()
