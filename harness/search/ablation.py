"""A search with `seed` as an axis: each point of the others by the mean and standard deviation over its seeds."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from harness.cli.display import format_value, last_key, make_table, out
from harness.config.search import SearchConfig
from harness.search.trial_store import TrialRecord


@dataclass(frozen=True)
class Point:
    """A configuration without its seed, and its scores."""

    values: Mapping[str, Any]
    scores: Sequence[float]
    """One a seed."""
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


def by_seed(search: SearchConfig, records: Sequence[TrialRecord]) -> list[Point]:
    """The points of a search over `seed` among others, best first."""
    members: dict[tuple[Any, ...], list[TrialRecord]] = {}
    for record in records:
        key = tuple(value for name, value in record.values.items() if name != "seed")
        members.setdefault(key, []).append(record)
    names = [name for name in search.space if name != "seed"]
    points = []
    for key, runs in members.items():
        scores = [one.metric for one in runs if one.state == "complete" and one.metric is not None]
        points.append(Point(dict(zip(names, key, strict=True)), scores, any(one.own_fault for one in runs)))
    return by_mean(search, points)


def by_mean(search: SearchConfig, points: Sequence[Point]) -> list[Point]:
    """Best first; one that failed by its own fault from some seed comes after the others, one without scores last.

    A run that was lost to a fault of the machine says nothing of its configuration, so the number of scores is no rank.
    """
    return sorted(points, key=lambda one: (not one.scores, one.failed, -search.sign * one.mean if one.scores else 0.0))


def write_points(path: Path, points: Sequence[Point], metric: str) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*points[0].values, f"{metric} mean", "std", "seeds"])
        for one in points:
            writer.writerow([*one.values.values(), one.mean, one.std, len(one.scores)])


def show_ablation(search: SearchConfig, points: Sequence[Point]) -> None:
    """Points by mean and standard deviation over their seeds; over two axes, one across and one down."""
    keys = [key for key in search.space if key != "seed"]
    best, most = points[0], max(len(one.scores) for one in points)
    title = f"{search.metric}, mean +- std over {most} seeds (where some failed, n = the others)"
    if len(keys) == 2 and all("values" in search.space[key] for key in keys):
        down, across = keys
        values = search.space[across]["values"]
        table = make_table(title, (f"{last_key(down)} / {last_key(across)}", *map(format_value, values)))
        at = {(one.values[down], one.values[across]): one for one in points}
        for row in search.space[down]["values"]:
            cells = [at.get((row, column)) for column in values]
            texts = ["-" if one is None else cell(one, best, most) for one in cells]
            table.add_row(format_value(row), *texts)
    else:
        table = make_table(title, (*map(last_key, keys), search.metric, "seeds"))
        for one in points:
            texts = [format_value(one.values[key]) for key in keys]
            style = "bold green" if one is best else None
            table.add_row(*texts, one.text, str(len(one.scores)), style=style)
    out.print(table)


def cell(one: Point, best: Point, most: int) -> str:
    """Its text, and how many seeds where some have failed."""
    text = one.text if len(one.scores) in (0, most) else f"{one.text} (n={len(one.scores)})"
    return f"[bold green]{text}[/]" if one is best else text
