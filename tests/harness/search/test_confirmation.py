"""Which configurations race after a search, what is chosen by val and what is said of test."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.io import write_png

from classmix_core.config import DataConfig
from harness.config.search import Confirm, SearchConfig, draws_splits
from harness.config.train import TrainConfig
from harness.errors import UserError
from harness.search.confirmation import Answer, Candidate, Confirmation, candidates
from harness.search.trial_store import TrialStore
from tests.commands import run
from tests.conftest import random_image, random_label
from tests.studies import BASE, ONE_AT_A_TIME, mlflow_runs, records, write_space

LR: dict[str, dict[str, Any]] = {"optim.lr": {"low": 0.001, "high": 1.0}}
START = [{"optim.lr": 0.1}]


def search(
    top: int = 2,
    seeds: int | tuple[int, int] = 3,
    mode: str = "max",
    start: list[dict[str, Any]] = START,
    splits: bool | None = None,
) -> SearchConfig:
    confirm = Confirm(top=top, seeds=seeds, splits=splits)
    return SearchConfig(space=LR, start=start, mode=mode, confirm=confirm)  # type: ignore[arg-type]


def filled(store: TrialStore, *ends: tuple[float, str, float | None]) -> TrialStore:
    """With trials by learning rate, state and value."""
    for lr, state, value in ends:
        record = store.add({"optim.lr": lr}, 10, state)  # type: ignore[arg-type]
        record.intermediate_values = [] if value is None else [(10, value)]
    return store


def trials(folder: Path, *ends: tuple[float, str, float | None]) -> TrialStore:
    return filled(TrialStore(folder, "trials"), *ends)


def names(config: SearchConfig, store: TrialStore, baseline: TrialStore | None = None) -> list[str]:
    return [one.name for one in candidates(config, store, baseline or TrialStore(store.folder, "baseline"))]


@pytest.mark.parametrize(
    ("top", "mode", "picked"),
    [(1, "max", [2, 0]), (2, "max", [2, 3, 0]), (3, "max", [2, 3, 0]), (9, "max", [2, 3, 0]), (1, "min", [0])],
)
def test_the_best_complete_trials_and_the_start_points_race(
    tmp_path: Path, top: int, mode: str, picked: list[int]
) -> None:
    store = trials(
        tmp_path,
        (0.1, "complete", 0.3),
        (0.2, "pruned", 0.9),
        (0.3, "complete", 0.7),
        (0.4, "complete", 0.5),
        (0.3, "complete", 0.6),
        (0.5, "failed", 0.8),
    )
    assert names(search(top, mode=mode), store) == [f"trials/{number:03d}" for number in picked]


def test_where_none_ran_to_its_end_the_best_of_the_others_race(tmp_path: Path) -> None:
    store = trials(tmp_path, (0.2, "pruned", 0.3), (0.3, "pruned", 0.4), (0.4, "failed", None))
    assert names(search(1, start=[]), store) == ["trials/001"]


def test_a_start_point_that_failed_races_all_the_same(tmp_path: Path) -> None:
    store = trials(tmp_path, (0.1, "failed", None), (0.3, "complete", 0.4))
    assert names(search(1), store) == ["trials/001", "trials/000"]


def test_start_points_are_known_by_their_place_and_also_those_that_were_not_tried(tmp_path: Path) -> None:
    drawn = 1 - (1 - 0.3)  # what a log_complement axis makes of 0.3
    assert drawn != 0.3
    store = trials(tmp_path, (drawn, "complete", 0.3))
    both = search(1, start=[{"optim.lr": 0.3}, {"optim.lr": 0.7}])
    found = candidates(both, store, TrialStore(tmp_path, "baseline"))
    assert [(one.name, one.values["optim.lr"], one.start) for one in found] == [
        ("trials/000", drawn, True),
        ("start/1", 0.7, True),
    ]


def test_a_trial_with_the_values_of_a_start_point_is_one(tmp_path: Path) -> None:
    store = trials(tmp_path, (0.1, "failed", None), (0.3, "complete", 0.4), (0.1, "complete", 0.5))
    both = search(2, start=[{"optim.lr": 0.1}])
    found = candidates(both, store, TrialStore(tmp_path, "baseline"))
    assert [(one.name, one.start) for one in found] == [("trials/002", True), ("trials/001", False)]


def test_the_best_of_the_baseline_races(tmp_path: Path) -> None:
    store = trials(tmp_path, (0.1, "complete", 0.3))
    baseline = filled(TrialStore(tmp_path, "baseline"), (0.1, "complete", 0.2), (0.5, "complete", 0.25))
    found = candidates(search(1), store, baseline)
    assert [(one.name, one.baseline, one.searched) for one in found] == [
        ("trials/000", False, 0.3),
        ("baseline/001", True, 0.25),
    ]


@pytest.mark.parametrize(
    ("data", "possible"),
    [
        (DataConfig(), True),
        (DataConfig(name="camvid", root="x", labelled=30), True),
        (DataConfig(name="camvid", root="x"), False),
        (DataConfig(name="folder", root="x", labelled=10), False),
        (DataConfig(name="voc", root="x", labelled=0.1, split_file="names.txt"), False),
    ],
)
def test_seeds_draw_labelled_images_of_their_own_where_test_stays_what_it_is(data: DataConfig, possible: bool) -> None:
    assert draws_splits(search(), data) is possible
    assert draws_splits(search(splits=False), data) is False
    if possible:
        assert draws_splits(search(splits=True), data)
        return
    with pytest.raises(UserError, match=rf"confirm\.splits: .* {data.name}"):
        draws_splits(search(splits=True), data)


class Played:
    """A race whose runs end with given scores (candidate, seed) on val and on test."""

    def __init__(self, folder: Path, config: SearchConfig, val: np.ndarray, test: np.ndarray | None = None) -> None:
        self.val, self.test = val, val if test is None else test
        roles = [{"start": True}, {"baseline": True}]
        field = [Candidate(f"trials/{place:03d}", {"optim.lr": 0.1 * (place + 1)}) for place in range(len(val) - 2)]
        field += [Candidate(f"other/{place}", {"optim.lr": 0.9}, **role) for place, role in enumerate(roles)]
        self.field = field
        self.race = Confirmation(config, TrainConfig(seed=5, steps=10), field, TrialStore(folder, "confirm"), False)

    def play(self) -> Answer:
        while entered := self.race.enter():
            for record in entered:
                place = next(number for number, one in enumerate(self.field) if one.name == record.of)
                at = place, record.values["seed"] - 6
                record.metrics = {"val/miou": float(self.val[at]), "test/miou": float(self.test[at])}
                record.step = 10
                self.race.store.end(record, "complete")
        answer = self.race.answer()
        assert answer is not None
        return answer


def luck(seed: int, means: list[float], seeds: int = 8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array(means)[:, None] + rng.normal(0, 0.05, seeds) + rng.normal(0, 0.01, (len(means), seeds))


MEANS = [0.61, 0.60, 0.50, 0.45, 0.52, 0.40]
"""Four of the search, the start point, the baseline."""


def test_each_round_is_entered_at_once_with_its_candidate_and_its_seed(tmp_path: Path) -> None:
    played = Played(tmp_path, search(seeds=(2, 4)), luck(0, MEANS, 4))
    first = played.race.enter()
    assert [(one.of, one.values["seed"], one.steps, one.state) for one in first] == [
        (one.name, seed, 10, "waiting") for seed in (6, 7) for one in played.field
    ]
    assert played.race.enter() == [], "they have not ended yet"
    assert [one.of for one in TrialStore(tmp_path, "confirm").records] == [one.of for one in first]
    assert played.race.most_runs == 24


def test_while_the_last_runs_of_a_round_are_at_work_the_first_gets_its_next_seed(tmp_path: Path) -> None:
    played = Played(tmp_path, search(seeds=(2, 4)), luck(0, MEANS, 4))
    for record in played.race.enter():
        if record.of in ("trials/000", "trials/003"):
            score = {"trials/000": 0.6, "trials/003": 0.4}[record.of]
            record.metrics, record.step = {"val/miou": score, "test/miou": score}, 10
            played.race.store.end(record, "complete")
    entered = [[(one.of, one.values["seed"]) for one in played.race.enter()] for _ in range(3)]
    assert entered == [[("trials/000", 8)], [("trials/003", 8)], []], "one for each process that is free"


def test_the_race_goes_on_from_its_store_as_if_it_had_not_been_interrupted(tmp_path: Path) -> None:
    val = luck(1, MEANS)
    whole = Played(tmp_path / "whole", search(seeds=(3, 8)), val)
    answer = whole.play()
    cut = Played(tmp_path / "cut", search(seeds=(3, 8)), val)
    for record in cut.race.enter()[:7]:
        place = next(number for number, one in enumerate(cut.field) if one.name == record.of)
        score = float(val[place, record.values["seed"] - 6])
        record.metrics, record.step = {"val/miou": score, "test/miou": score}, 10
        cut.race.store.end(record, "complete")
    again = Played(tmp_path / "cut", search(seeds=(3, 8)), val)
    waiting = [one for one in again.race.store.records if not one.ended]
    assert len(waiting) == 18 - 7
    again.race.enter = lambda enter=again.race.enter: waiting or enter()  # type: ignore[method-assign]
    for record in list(waiting):
        place = next(number for number, one in enumerate(again.field) if one.name == record.of)
        score = float(val[place, record.values["seed"] - 6])
        record.metrics, record.step = {"val/miou": score, "test/miou": score}, 10
        again.race.store.end(record, "complete")
    waiting.clear()
    assert again.play() == answer
    assert [one.of for one in again.race.store.records] == [one.of for one in whole.race.store.records]


def test_permuted_test_labels_change_nothing_but_what_is_reported(tmp_path: Path) -> None:
    val = luck(2, MEANS)
    chosen = Played(tmp_path / "a", search(), val, val).play()
    upside_down = Played(tmp_path / "b", search(), val, val[::-1]).play()
    assert chosen.chosen == upside_down.chosen
    assert [one.name for one in chosen.ranked] == [one.name for one in upside_down.ranked]
    assert chosen.compared != upside_down.compared


def test_the_answer_names_the_chosen_one_and_its_gain_on_test(tmp_path: Path) -> None:
    val = luck(3, MEANS)
    answer = Played(tmp_path, search(), val, val + 0.1).play()
    assert answer.chosen.name in ("trials/000", "trials/001")
    assert answer.beaten
    start, baseline = answer.compared
    assert (start.other.start, start.by.verdict) == (True, "better")
    assert (baseline.other.baseline, baseline.by.verdict) == (True, "better")
    assert start.by.mean == pytest.approx(0.09, abs=0.02)
    assert baseline.by.mean == pytest.approx(0.21, abs=0.02)


def test_where_nothing_beats_the_start_point_it_is_chosen(tmp_path: Path) -> None:
    means = [0.5002, 0.5, 0.5, 0.5, 0.5, 0.4]
    val = luck(4, means) - luck(4, [0.0] * 6)[:, :] + luck(5, [0.0] * 6)
    answer = Played(tmp_path, search(), val).play()
    assert answer.chosen.start
    assert not answer.beaten or answer.ranked[0] is answer.chosen


def test_less_is_better_where_the_search_says_so(tmp_path: Path) -> None:
    answer = Played(tmp_path, search(mode="min"), 1 - luck(3, MEANS)).play()
    assert answer.chosen.name in ("trials/000", "trials/001")
    assert answer.compared[0].by.mean > 0


def test_one_that_fails_by_its_own_fault_leaves_the_race_and_a_lost_seed_is_a_gap(tmp_path: Path) -> None:
    played = Played(tmp_path, search(seeds=(2, 2)), luck(6, MEANS, 2))
    first, second, *others = played.race.enter()
    first.own_fault = True
    played.race.store.end(first, "failed", "the loss is nan")
    played.race.store.end(second, "failed", "its process died")
    for record in others:
        record.metrics, record.step = {"val/miou": 0.1, "test/miou": 0.1}, 10
        played.race.store.end(record, "complete")
    runners = played.race.runners()
    assert runners[0].failed
    assert not runners[1].failed
    assert runners[1].scores == {6: None, 7: 0.1}
    answer = played.race.answer()
    assert answer is not None
    assert answer.ranked[-1].name == "trials/000"


def write_part(root: Path, part: str, count: int) -> None:
    for kind in ("images", "labels"):
        (root / kind / part).mkdir(parents=True)
    for index in range(count):
        write_png(random_image(index, 16, 24), str(root / f"images/{part}/{index}.png"))
        write_png(random_label(index, 16, 24, 12), str(root / f"labels/{part}/{index}.png"))


@pytest.mark.slow
def test_neither_search_nor_baseline_reads_test(tmp_path: Path) -> None:
    """The test images do not exist until both are over."""
    root = tmp_path / "camvid"
    write_part(root, "train", 8)
    write_part(root, "val", 2)
    data = "  data: {name: camvid, root: camvid, labelled: 4, batch_labelled: 2, batch_unlabelled: 2}"
    text = "\n".join(data if line.startswith("  data:") else line for line in BASE.replace("24", "4").splitlines())
    study = "trials: 2\nsampler: random\nconfirm: {top: 1, seeds: 1}\nspace: {ssl.tau: {low: 0.1, high: 0.9}}"
    first = run("harness.tune", write_space(tmp_path, f"{text}\n{study}\n{ONE_AT_A_TIME}"), "--name=s", cwd=tmp_path)
    assert first.code == 1, first
    assert "warning" in first.err
    assert first.err.count(str(root / "images/test")) == 2, "warned of before the search, refused after it"
    assert "best of the search" in first.out
    assert "--resume --name=s" in first.err
    assert {one["state"] for phase in ("trials", "baseline") for one in records(tmp_path, phase)} == {"complete"}
    parent, _ = mlflow_runs(tmp_path)
    assert parent.info.status == "FAILED"

    write_part(root, "test", 3)
    second = run("harness.tune", "--resume", "--name=s", cwd=tmp_path)
    assert second.code == 0, second
    assert "confirmed: test/miou" in second.out
    parent, children = mlflow_runs(tmp_path)
    assert {item.info.status for item in (parent, *children)} == {"FINISHED"}
    assert len(children) == 5
