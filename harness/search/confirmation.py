"""The confirmation of a search: its best and its start points at full length, from new seeds, scored on test."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from harness.config.search import SearchConfig
from harness.search.trial_store import Entry, Ledger


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


def ranked(search: SearchConfig, entries: Sequence[Entry]) -> list[Entry]:
    """Trials that have a value, best first; those that ran to their end before those that were stopped."""
    known = [entry for entry in entries if entry.metric is not None and entry.state != "failed"]
    return sorted(known, key=lambda one: (one.state != "complete", -search.sign * (one.metric or 0.0), one.number))


def chosen(search: SearchConfig, trials: Ledger) -> list[Entry]:
    """The trials to confirm: the best that ran to their end, then the start points that are not among them."""
    best = ranked(search, trials.entries)
    complete = [entry for entry in best if entry.state == "complete"] or best
    picked: list[Entry] = []
    for entry in complete:
        if len(picked) < search.confirm.top and all(entry.values != other.values for other in picked):
            picked.append(entry)
    for entry in start_points(search, trials):
        if all(entry.values != other.values for other in picked):
            picked.append(entry)
    return picked


def start_points(search: SearchConfig, trials: Ledger) -> list[Entry]:
    """The first trials; those that the search did not get to have the number -1."""
    tried = trials.entries[: len(search.start)]
    rest = [{key: values[key] for key in search.space} for values in search.start[len(tried) :]]
    return tried + [Entry(-1, values, 0, "waiting") for values in rest]


def plan(ledger: Ledger, search: SearchConfig, trials: Ledger, seed: int, steps: int) -> None:
    """Enter every rerun, seed by seed, so that an early look compares like with like."""
    picked = chosen(search, trials)
    for number in range(len(ledger.entries), len(picked) * search.confirm.seeds):
        entry = picked[number % len(picked)]
        values = {**entry.values, "seed": seed + 1 + number // len(picked)}
        ledger.add(values, int(values.get("steps", steps)), "waiting")


def scored(search: SearchConfig, trials: Ledger, ledger: Ledger) -> list[Candidate]:
    """The candidates with their scores so far, best first."""
    picked, starts = chosen(search, trials), [entry.values for entry in start_points(search, trials)]
    candidates = []
    for place, entry in enumerate(picked):
        reruns = ledger.entries[place :: len(picked)]
        scores = [rerun.metric for rerun in reruns if rerun.state == "complete" and rerun.metric is not None]
        candidates.append(Candidate(entry.values, scores, entry.number, entry.metric, entry.values in starts))
    return by_mean(search, candidates)


def by_seed(search: SearchConfig, entries: Sequence[Entry]) -> list[Candidate]:
    """The points of a search over `seed` among others, each with the scores of its seeds, best first."""
    points: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in entries:
        key = tuple(value for name, value in entry.values.items() if name != "seed")
        points.setdefault(key, []).append(entry)
    names = [name for name in search.space if name != "seed"]
    candidates = []
    for key, members in points.items():
        scores = [one.metric for one in members if one.state == "complete" and one.metric is not None]
        candidates.append(Candidate(dict(zip(names, key, strict=True)), scores))
    return by_mean(search, candidates)


def by_mean(search: SearchConfig, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Best first; those whose runs failed from some seeds after those that are sound from all."""
    return sorted(candidates, key=lambda one: (-len(one.scores), -search.sign * one.mean if one.scores else 0.0))


def write_candidates(path: Path, candidates: Sequence[Candidate]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "start", *candidates[0].values, "val", "mean", "std", "seeds"])
        for one in candidates:
            row = [one.trial, one.start, *one.values.values(), one.searched, one.mean, one.std, len(one.scores)]
            writer.writerow(row)
