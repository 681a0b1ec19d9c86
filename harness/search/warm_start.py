"""Warm start: what the trials of other studies tell a new one (`harness.tune --warm-start`).

Scores on two data sets have no common scale. So those of a study are put to mean 0 and standard deviation 1, and later
onto the scale of the new study by the places that both know. While the two agree on what is better, the known trials
are the sampler's as well, and the best of them are tried first; where they do not, they are left alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from optuna.distributions import CategoricalDistribution
from scipy.stats import rankdata

from harness.config.search import SearchConfig, read_space
from harness.config.train import Values, flatten, load_config, override
from harness.errors import UserError
from harness.run_dir import display_path
from harness.search.search_space import SearchParameter, check_start
from harness.search.trial_store import TrialRecord, TrialStore

SCORE = "score"
"""Under which a known trial has it, beside its values (`SearchConfig.known`)."""
FIRST = 6
"""How many of the best known trials are tried after the start points; then the known ones are in view at every other
draw, so that the new data set has its say."""
NEARNESS = 0.15
"""Standard deviation of the kernel that smooths known scores, in shares of a range."""
EARLY, AGREEMENT = 6, 0.3
"""Before so many trials any positive rank correlation counts as agreement, then one above this."""
Array = np.ndarray


class Known(NamedTuple):
    """Trials of other studies over the axes of this one, best first."""

    values: Sequence[Values]
    scores: Array
    """float (N,): in standard deviations of their study, more is better."""
    places: Array
    """float (N, A): see `places`."""


def known_trials(search: SearchConfig, axes: Sequence[SearchParameter]) -> Known | None:
    """Those of a search; None: it has none."""
    if not search.known:
        return None
    best_first = sorted(search.known, key=lambda one: -one[SCORE])
    values = [{axis.key: one[axis.key] for axis in axes} for one in best_first]
    return Known(values, np.array([one[SCORE] for one in best_first], dtype=float), places(axes, values))


def places(axes: Sequence[SearchParameter], values: Sequence[Mapping[str, Any]]) -> Array:
    """Points of a space as float (N, A): shares of ranges, and of a list a column for each value."""
    columns = []
    for axis in axes:
        if isinstance(axis.distribution, CategoricalDistribution):
            columns += [[float(one[axis.key] == choice) for one in values] for choice in axis.distribution.choices]
        else:
            columns.append([axis.share_of(one[axis.key]) for one in values])
    return np.array(columns, dtype=float).reshape(len(columns), len(values)).T


def levelled(records: Sequence[TrialRecord], sign: int) -> tuple[list[TrialRecord], Array]:
    """Trials that have a value, and what each reached, more being better; one that was stopped early gets the mean of
    those that ran to their end, and what it was ahead of them where it stopped. Nothing where none got to its end."""
    complete = [record for record in records if record.state == "complete" and record.metric is not None]
    if not complete:
        return [], np.empty(0)
    at: dict[int, list[float]] = {}
    for record in complete:
        for step, value in record.intermediate_values:
            at.setdefault(step, []).append(value)
    mean = fmean(record.metric for record in complete if record.metric is not None)
    found, scores = [], []
    for record in records:
        if record.state == "complete" and record.metric is not None:
            found.append(record)
            scores.append(sign * record.metric)
        elif record.state == "pruned" and record.metric is not None and record.step in at:
            found.append(record)
            scores.append(sign * (mean + record.metric - fmean(at[record.step])))
    return found, np.array(scores)


def predicted(known: Known, at: Array) -> Array:
    """What the known trials say of other places (M, A): float (M,), the mean of their scores weighted by nearness."""
    distance = ((at[:, None] - known.places[None]) ** 2).sum(-1)
    weight = np.exp(-distance / (2 * NEARNESS**2)) + 1e-12
    return np.asarray(weight @ known.scores / weight.sum(1))


class Advice(NamedTuple):
    """Of known trials, given what has been tried."""

    agrees: bool
    scores: Array | None
    """The known ones on the scale of the new trials; None: nothing is known of that scale yet."""


def advice(known: Known, axes: Sequence[SearchParameter], records: Sequence[TrialRecord], sign: int) -> Advice:
    """Whether the known trials agree with those that have ended, by rank correlation (Spearman)."""
    tried, own = levelled(records, sign)
    if len(tried) < 2:
        return Advice(True, None)
    expected = predicted(known, places(axes, [record.values for record in tried]))
    spread, own_spread = float(expected.std()), float(own.std())
    if not spread or not own_spread:
        return Advice(True, None)
    correlation = float(np.corrcoef(rankdata(expected), rankdata(own))[0, 1])
    agrees = correlation > (0.0 if len(tried) < EARLY else AGREEMENT)
    scale = own_spread / max(spread, 0.5)
    return Advice(agrees, own.mean() + scale * (known.scores - expected.mean()))


def warm_started(
    search: SearchConfig, axes: Sequence[SearchParameter], source: Path, studies: str | None, storage: Path
) -> SearchConfig:
    """A search with the trials of other studies in it.

    Args:
        source: of the search.
        studies: names below `storage`, or folders, with commas between; None: those that it knows already.

    Raises:
        UserError: no study of that name, none of its trials can be used, or a known trial is not of the space.
    """
    for number, one in enumerate(search.known):
        where, score = f"{source}: known[{number}]", one.get(SCORE)
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise UserError(f"{where}.{SCORE}: must be a finite number, but got {score!r}.")
        check_start({key: value for key, value in one.items() if key != SCORE}, axes, where)
    if search.sampler != "tpe":
        raise UserError(f"--warm-start: needs sampler: tpe, but {source} has sampler: {search.sampler}.")
    known = list(search.known)
    for name in studies.split(",") if studies is not None else ():
        folder = next((path for path in (storage / name, Path(name)) if name and (path / "space.yaml").is_file()), None)
        if folder is None:
            raise UserError(
                f"--warm-start: must name studies in {display_path(storage)}, or folders, but got {name!r}."
            )
        known += read_known(folder, axes, search)
    return replace(search, known=known)


def read_known(folder: Path, axes: Sequence[SearchParameter], search: SearchConfig) -> list[Values]:
    """Trials of another study, for `SearchConfig.known`.

    A key that it did not search over has the value that all of its trials had.

    Raises:
        UserError: it sought another metric, or none of its trials lies in the space.
    """
    other, shared = read_space(folder / "space.yaml"), load_config(folder / "config.yaml")
    if (other.metric, other.mode) != (search.metric, search.mode):
        rule = f"a study must have sought {search.metric} ({search.mode}) as well"
        raise UserError(f"--warm-start: {rule}, but {folder.name} sought {other.metric} ({other.mode}).")
    records, scores = levelled(TrialStore(folder, "trials").records, search.sign)
    mean, spread = (float(scores.mean()), float(scores.std()) or 1.0) if records else (0.0, 1.0)
    found, reason = [], f"none of {len(records)} has a result."
    for record, score in zip(records, scores.tolist(), strict=True):
        all_values = flatten(override(shared, record.values))
        values = {axis.key: all_values[axis.key] for axis in axes}
        try:
            check_start(values, axes, f"trial {record.number}")
        except UserError as error:
            reason = str(error)
        else:
            found.append({**values, SCORE: round((score - mean) / spread, 4)})
    if not found:
        raise UserError(f"--warm-start: a trial of {folder.name} must lie in the space, but none does: {reason}")
    return found
