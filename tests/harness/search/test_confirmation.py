"""Which configurations a search confirms, and what they score."""

from pathlib import Path
from typing import Any

import pytest
from torchvision.io import write_png

from harness.config.search import Confirm, SearchConfig
from harness.search.confirmation import Candidate, by_mean, by_seed, chosen, plan, scored
from harness.search.trial_store import TrialStore
from tests.commands import run
from tests.conftest import random_image, random_label
from tests.studies import BASE, ONE_AT_A_TIME, mlflow_runs, records, write_space

LR: dict[str, dict[str, Any]] = {"optim.lr": {"low": 0.001, "high": 1.0}}
START = [{"optim.lr": 0.1}]


def search(top: int = 2, seeds: int = 3, mode: str = "max", start: list[dict[str, Any]] = START) -> SearchConfig:
    return SearchConfig(space=LR, start=start, mode=mode, confirm=Confirm(top=top, seeds=seeds))  # type: ignore[arg-type]


def trials(folder: Path, *ends: tuple[float, str, float | None]) -> TrialStore:
    """Trials by learning rate, state and value."""
    store = TrialStore(folder, "trials")
    for lr, state, value in ends:
        record = store.add({"optim.lr": lr}, 10, state)  # type: ignore[arg-type]
        record.intermediate_values = [] if value is None else [(10, value)]
    return store


@pytest.mark.parametrize(
    ("top", "mode", "picked"),
    [(1, "max", [2, 0]), (2, "max", [2, 3, 0]), (3, "max", [2, 3, 0]), (9, "max", [2, 3, 0]), (1, "min", [0])],
)
def test_the_best_complete_trials_and_the_start_points_are_chosen(
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
    assert [record.number for record in chosen(search(top, mode=mode), store)] == picked


def test_where_none_ran_to_its_end_the_best_of_the_others_are_chosen(tmp_path: Path) -> None:
    store = trials(tmp_path, (0.2, "pruned", 0.3), (0.3, "pruned", 0.4), (0.4, "failed", None))
    assert [record.number for record in chosen(search(1, start=[]), store)] == [1]


def test_a_start_point_that_failed_is_confirmed_all_the_same(tmp_path: Path) -> None:
    store = trials(tmp_path, (0.1, "failed", None), (0.3, "complete", 0.4))
    assert [record.number for record in chosen(search(1), store)] == [1, 0]


def test_each_candidate_runs_from_each_new_seed_once_also_if_the_plan_was_cut_short(tmp_path: Path) -> None:
    store = trials(tmp_path, (0.1, "complete", 0.3), (0.2, "complete", 0.4))
    reruns = TrialStore(tmp_path, "confirm")
    plan(reruns, search(1, 2), store, seed=5, steps=10)
    whole = [(one.values, one.steps, one.state) for one in reruns.records]
    assert whole == [({"optim.lr": lr, "seed": seed}, 10, "waiting") for seed in (6, 7) for lr in (0.2, 0.1)]
    for path in (tmp_path / "confirm/003/trial.json", tmp_path / "confirm/002/trial.json"):
        path.unlink()
    again = TrialStore(tmp_path, "confirm")
    plan(again, search(1, 2), store, seed=5, steps=10)
    assert [(one.values, one.steps, one.state) for one in again.records] == whole


def test_scores_are_ranked_by_their_mean_and_failed_runs_left_out(tmp_path: Path) -> None:
    store = trials(tmp_path, (0.1, "complete", 0.3), (0.2, "complete", 0.4))
    reruns = TrialStore(tmp_path, "confirm")
    plan(reruns, search(2, 2), store, seed=0, steps=10)
    for record, value in zip(reruns.records, (0.2, 0.6, None, 0.4), strict=True):
        record.state = "failed" if value is None else "complete"
        record.intermediate_values = [] if value is None else [(10, value)]
    first, second = scored(search(2, 2), store, reruns)
    assert (first.trial, first.start, first.scores, first.searched) == (0, True, [0.6, 0.4], 0.3)
    assert first.text == "0.500 +- 0.141"
    assert (second.trial, second.start, second.text) == (1, False, "0.200")


@pytest.mark.parametrize("own_fault", [True, False])
def test_a_seed_that_diverged_counts_against_its_configuration_and_one_that_was_lost_does_not(
    tmp_path: Path, own_fault: bool
) -> None:
    store = trials(tmp_path, (0.1, "complete", 0.3), (0.2, "complete", 0.4))
    reruns = TrialStore(tmp_path, "confirm")
    plan(reruns, search(2, 2), store, seed=0, steps=10)
    for record, value in zip(reruns.records, (0.6, 0.4, None, 0.4), strict=True):
        record.state = "failed" if value is None else "complete"
        record.own_fault = value is None and own_fault
        record.intermediate_values = [] if value is None else [(10, value)]
    order = [(one.mean, len(one.scores)) for one in scored(search(2, 2), store, reruns)]
    assert order == ([(0.4, 2), (0.6, 1)] if own_fault else [(0.6, 1), (0.4, 2)])


def test_one_without_any_score_comes_last() -> None:
    lost, diverged, best = Candidate({}, ()), Candidate({}, [0.9], failed=True), Candidate({}, [0.1])
    assert by_mean(search(), [lost, diverged, best]) == [best, diverged, lost]


@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_best_mean_comes_first(mode: str) -> None:
    high, low = Candidate({}, [0.9, 0.7]), Candidate({}, [0.4, 0.5])
    assert by_mean(search(mode=mode), [low, high]) == ([high, low] if mode == "max" else [low, high])


def test_start_points_are_known_by_their_place_and_also_those_that_were_not_tried(tmp_path: Path) -> None:
    drawn = 1 - (1 - 0.3)  # what a log_complement axis makes of 0.3
    assert drawn != 0.3
    store = trials(tmp_path, (drawn, "complete", 0.3))
    both = search(1, start=[{"optim.lr": 0.3}, {"optim.lr": 0.7}])
    assert [(record.number, record.values["optim.lr"]) for record in chosen(both, store)] == [(0, drawn), (-1, 0.7)]
    reruns = TrialStore(tmp_path, "confirm")
    plan(reruns, both, store, seed=0, steps=10)
    assert [one.start for one in scored(both, store, reruns)] == [True, True]


def test_a_candidate_without_scores_has_failed() -> None:
    assert Candidate({}, ()).text == "failed"


def test_a_search_over_seeds_is_grouped_by_its_other_axes(tmp_path: Path) -> None:
    store = TrialStore(tmp_path, "trials")
    for mix, seed, value in (("cut", 0, 0.1), ("class", 0, 0.5), ("cut", 1, 0.3), ("class", 1, None)):
        record = store.add({"ssl.mix": mix, "seed": seed}, 10, "failed" if value is None else "complete")
        record.intermediate_values = [] if value is None else [(10, value)]
        record.own_fault = value is None
    space: dict[str, Any] = {"ssl.mix": {"values": ["cut", "class"]}, "seed": {"values": [0, 1]}}
    first, second = by_seed(
        SearchConfig(space=space, sampler="grid", early_stopping=None, confirm=Confirm(top=0)), store.records
    )
    assert (first.values, first.text) == ({"ssl.mix": "cut"}, "0.200 +- 0.141")
    assert (second.values, second.scores) == ({"ssl.mix": "class"}, [0.5])


def write_part(root: Path, part: str, count: int) -> None:
    for kind in ("images", "labels"):
        (root / kind / part).mkdir(parents=True)
    for index in range(count):
        write_png(random_image(index, 16, 24), str(root / f"images/{part}/{index}.png"))
        write_png(random_label(index, 16, 24, 12), str(root / f"labels/{part}/{index}.png"))


@pytest.mark.slow
def test_the_search_never_reads_test_and_the_confirmation_never_val(tmp_path: Path) -> None:
    """The test images do not exist until the search is over, and those of val are gone by then."""
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
    assert {one["state"] for one in records(tmp_path)} == {"complete"}
    parent, _ = mlflow_runs(tmp_path)
    assert parent.info.status == "FAILED"

    for kind in ("images", "labels"):
        (root / kind / "val").rename(tmp_path / f"{kind}_of_val")
    write_part(root, "test", 3)
    second = run("harness.tune", "--resume", "--name=s", cwd=tmp_path)
    assert second.code == 0, second
    assert "confirmed: test/miou" in second.out
    parent, children = mlflow_runs(tmp_path)
    assert {item.info.status for item in (parent, *children)} == {"FINISHED"}
    assert len(children) == 3
