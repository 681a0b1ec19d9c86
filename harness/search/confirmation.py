"""The confirmation of a search: its best and its start points at full length, from new seeds, scored on test."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from classmix_core.config import DataConfig
from classmix_core.data import Data, check_data, load_data
from harness.cli.display import show_check
from harness.config.search import SearchConfig
from harness.errors import UserError
from harness.run_dir import SPLITS, read_splits, stored_roles, write_split
from harness.search.trial_store import TrialRecord, TrialStore
from harness.tracking import Run
from harness.training.dataloaders import load_data_once


@dataclass(frozen=True)
class Candidate:
    """A configuration and its scores."""

    values: Mapping[str, Any]
    scores: Sequence[float]
    """One a seed."""
    trial: int = -1
    """Of the search, if it comes from one."""
    searched: float | None = None
    """What it reached there, on val."""
    start: bool = False
    """Whether it is a start point."""
    failed: bool = False
    """Whether a run of it failed by its own fault, from some seed."""

    @property
    def mean(self) -> float:
        return fmean(self.scores) if self.scores else float("nan")

    @property
    def std(self) -> float | None:
        """Of a sample (n - 1); None for one seed."""
        return stdev(self.scores) if len(self.scores) > 1 else None

    @property
    def text(self) -> str:
        if not self.scores:
            return "failed"
        spread = "" if self.std is None else f" +- {self.std:.3f}"
        return f"{self.mean:.3f}{spread}"


def ranked(search: SearchConfig, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Trials that have a value, best first; those that ran to their end before those that were stopped."""
    known = [record for record in records if record.metric is not None and record.state != "failed"]
    return sorted(known, key=lambda one: (one.state != "complete", -search.sign * (one.metric or 0.0), one.number))


def chosen(search: SearchConfig, trials: TrialStore) -> list[TrialRecord]:
    """The trials to confirm: the best that ran to their end, then the start points that are not among them."""
    best = ranked(search, trials.records)
    complete = [record for record in best if record.state == "complete"] or best
    picked: list[TrialRecord] = []
    for record in complete:
        if len(picked) < search.confirm.top and all(record.values != other.values for other in picked):
            picked.append(record)
    for record in start_points(search, trials):
        if all(record.values != other.values for other in picked):
            picked.append(record)
    return picked


def start_points(search: SearchConfig, trials: TrialStore) -> list[TrialRecord]:
    """The first trials; those that the search did not get to have the number -1."""
    tried = trials.records[: len(search.start)]
    rest = [{key: values[key] for key in search.space} for values in search.start[len(tried) :]]
    return tried + [TrialRecord(-1, values, 0, "waiting") for values in rest]


def check_test(config: DataConfig, folder: Path) -> Data:
    """Read the images that a study is scored on; their names are stored now where test was not there when it began.

    Args:
        folder: of the study.

    Raises:
        UserError: the search has learnt from one of them, or chosen by it.
        DataError: one is missing or damaged.
    """
    splits = folder / SPLITS
    stored = read_splits(splits, stored_roles(splits))
    if "test" not in stored:
        names = load_data(config, ("test",)).roles()["test"].names
        used = {name: role for role, members in stored.items() for name in members}
        for name in names:
            if name in used:
                rule = "test must hold images that the search has not used"
                raise UserError(f"{config.root}: {rule}, but {name} was {used[name]}.")
        write_split(splits, "test", names)
    data = load_data_once(config, ("test",), splits)
    show_check(check_data(data, config, ("test",)))
    return data


def plan(store: TrialStore, search: SearchConfig, trials: TrialStore, seed: int, steps: int) -> None:
    """Enter every rerun, seed by seed, so that an early look compares like with like."""
    picked = chosen(search, trials)
    for number in range(len(store.records), len(picked) * search.confirm.seeds):
        record = picked[number % len(picked)]
        values = {**record.values, "seed": seed + 1 + number // len(picked)}
        store.add(values, int(values.get("steps", steps)), "waiting")


def scored(search: SearchConfig, trials: TrialStore, store: TrialStore) -> list[Candidate]:
    """The candidates with their scores so far, best first."""
    picked, starts = chosen(search, trials), [record.values for record in start_points(search, trials)]
    candidates = []
    for place, record in enumerate(picked):
        reruns = store.records[place :: len(picked)]
        scores = [rerun.metric for rerun in reruns if rerun.state == "complete" and rerun.metric is not None]
        start, failed = record.values in starts, any(rerun.own_fault for rerun in reruns)
        candidates.append(Candidate(record.values, scores, record.number, record.metric, start, failed))
    return by_mean(search, candidates)


def by_seed(search: SearchConfig, records: Sequence[TrialRecord]) -> list[Candidate]:
    """The points of a search over `seed` among others, each with the scores of its seeds, best first."""
    points: dict[tuple[Any, ...], list[TrialRecord]] = {}
    for record in records:
        key = tuple(value for name, value in record.values.items() if name != "seed")
        points.setdefault(key, []).append(record)
    names = [name for name in search.space if name != "seed"]
    candidates = []
    for key, members in points.items():
        scores = [one.metric for one in members if one.state == "complete" and one.metric is not None]
        failed = any(one.own_fault for one in members)
        candidates.append(Candidate(dict(zip(names, key, strict=True)), scores, failed=failed))
    return by_mean(search, candidates)


def by_mean(search: SearchConfig, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Best first; one that failed by its own fault from some seed comes after the others, one without scores last.

    A run that was lost to a fault of the machine says nothing of its configuration, so the number of scores is no rank.
    """
    return sorted(
        candidates, key=lambda one: (not one.scores, one.failed, -search.sign * one.mean if one.scores else 0.0)
    )


def write_candidates(path: Path, candidates: Sequence[Candidate]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "start", *candidates[0].values, "val", "mean", "std", "seeds"])
        for one in candidates:
            row = [one.trial, one.start, *one.values.values(), one.searched, one.mean, one.std, len(one.scores)]
            writer.writerow(row)


def log_candidates(parent: Run, path: Path, candidates: Sequence[Candidate], metric: str, store: TrialStore) -> None:
    """The table as CSV; the winner's and the start point's figures as metrics of the parent, once no run is lost."""
    write_candidates(path, candidates)
    parent.file(path)
    if not any(record.lost for record in store.records):
        parent.metrics(0, candidate_figures(candidates, metric))
        parent.flush()


def candidate_figures(candidates: Sequence[Candidate], metric: str) -> dict[str, float]:
    """Mean, deviation and number of seeds of the winner and the start point, as metrics by name."""
    figures = {}
    named = {"winner": candidates[0], "start": next((one for one in candidates if one.start), None)}
    for name, one in named.items():
        if one is not None and one.scores:
            figures[f"{name}/{metric}/mean"] = one.mean
            figures[f"{name}/{metric}/seeds"] = float(len(one.scores))
            figures |= {} if one.std is None else {f"{name}/{metric}/std": one.std}
    return figures
