"""The race that decides a search: which configurations run from another seed, and how sure the answer is.

Candidates run from the same seeds, in rounds. Scores of one seed share its luck, its labelled images above all, so they
are compared seed by seed: a score is the mean of its candidate, plus an effect of its seed, plus noise. The noise is
taken from all candidates together (two-way analysis of variance), since two or three differences of one pair say next
to nothing about it: of 6 candidates with 3 seeds a 95% interval reaches 2.2 standard errors to each side, and of a pair
alone 4.3. Student's t, and not Wilcoxon's signed ranks, which cannot reach 5% (two-sided) with 5 seeds or fewer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, nan, sqrt
from statistics import fmean
from typing import Literal, NamedTuple

import numpy as np
from scipy.stats import t

RISK = 0.02
"""A candidate is out when the seeds that are left would make it the first with a smaller probability."""
CONFIDENCE = 0.95
"""Of intervals."""
Verdict = Literal["better", "worse", "not decided"]


@dataclass(frozen=True)
class Runner:
    """One that takes part.

    Args:
        scores: by seed, more is better; None of a run that was lost to a fault of the machine.
        reference: what others are measured by (a start point, the baseline): in until the interval of its difference
            from the first leaves out 0.
        failed: by its own fault, from some seed: it is out.
    """

    scores: Mapping[int, float | None] = field(default_factory=dict)
    reference: bool = False
    failed: bool = False

    def known(self, seeds: Sequence[int] | None = None) -> dict[int, float]:
        """The scores there are."""
        return {
            seed: score for seed, score in self.scores.items() if score is not None and (seeds is None or seed in seeds)
        }

    @property
    def mean(self) -> float:
        known = self.known()
        return fmean(known.values()) if known else nan


class Noise(NamedTuple):
    """Of one score, beside the effects of its candidate and its seed."""

    std: float
    """inf: there is nothing to tell it from."""
    freedom: int
    """Degrees of freedom of the estimate."""

    def reach(self, seeds: int) -> float:
        """Half the width of the interval of a mean difference over so many seeds."""
        if not seeds or not self.freedom:
            return inf
        return float(t.ppf((1 + CONFIDENCE) / 2, self.freedom)) * self.std * sqrt(2 / seeds)


def noise(runners: Sequence[Runner]) -> Noise:
    """Of all runs, by least squares: candidates that left early count as far as they got."""
    seeds = sorted({seed for one in runners for seed in one.known()})
    rows, scores = [], []
    for place, one in enumerate(runners):
        for seed, score in one.known().items():
            row = np.zeros(len(runners) + len(seeds))
            row[[place, len(runners) + seeds.index(seed)]] = 1
            rows.append(row)
            scores.append(score)
    if not rows:
        return Noise(inf, 0)
    design, observed = np.stack(rows), np.array(scores)
    effects, _, rank, _ = np.linalg.lstsq(design, observed)
    freedom = len(scores) - int(rank)
    if freedom < 1:
        return Noise(inf, 0)
    return Noise(sqrt(float(((observed - design @ effects) ** 2).sum()) / freedom), freedom)


class Difference(NamedTuple):
    """Of the mean scores of two runners, over the seeds that both have."""

    mean: float
    """NaN: there is no such seed."""
    reach: float
    """Half the width of its 95% interval."""
    seeds: int

    @property
    def verdict(self) -> Verdict:
        if not abs(self.mean) > self.reach:
            return "not decided"
        return "better" if self.mean > 0 else "worse"


def difference(one: Runner, other: Runner, of: Noise) -> Difference:
    """How much better `one` is than `other`."""
    mine, its = one.known(), other.known()
    pairs = [mine[seed] - its[seed] for seed in mine if seed in its]
    return Difference(fmean(pairs) if pairs else nan, of.reach(len(pairs)), len(pairs))


class Standing(NamedTuple):
    """Of a race, after the rounds that are over."""

    inside: list[int]
    """Places of the runners that are still in, best first."""
    seeds: int
    """How many seeds these shall have; those that they have not are to be run."""
    decided: bool
    """Whether the race is over."""


def standing(runners: Sequence[Runner], seeds: Sequence[int], fewest: int) -> Standing:
    """What the scores so far say, round by round: later ones never change what an earlier round has decided.

    Args:
        seeds: all that the race may use, in their order.
        fewest: seeds that every runner gets before any is sent home.
    """
    inside = [place for place, one in enumerate(runners) if not one.failed]
    count = min(fewest, len(seeds))
    if not inside:
        return Standing([], count, True)
    while True:
        if any(seed not in runners[place].scores for place in inside for seed in seeds[:count]):
            return Standing(inside, count, False)
        inside = stay(runners, inside, seeds[:count], len(seeds))
        if len(inside) < 2 or count == len(seeds):
            return Standing(inside, count, True)
        count += 1


def stay(runners: Sequence[Runner], inside: Sequence[int], seeds: Sequence[int], most: int) -> list[int]:
    """Who stays after a round, best first.

    Were the race to go on to its last seed, the mean difference there would lie around that of today, with a spread of
    noise * sqrt(2) * sqrt((most - n) / (most * n)) after n seeds. Who would overtake the first with a probability below
    `RISK` goes home: with few seeds left even a small lead decides.
    """
    so_far = [Runner(one.known(seeds), one.reference) for one in runners]
    ranked = sorted(inside, key=lambda place: (-so_far[place].mean if so_far[place].known() else inf, place))
    first, of = ranked[0], noise(so_far)
    staying = [first]
    for place in ranked[1:]:
        lead = difference(so_far[first], so_far[place], of)
        if not lead.seeds or not of.freedom:
            staying.append(place)
            continue
        spread = of.std * sqrt(2 * (most - lead.seeds) / (most * lead.seeds)) if lead.seeds < most else 0.0
        overtakes = float(t.sf(lead.mean / spread, of.freedom)) if spread else float(lead.mean == 0)
        open_question = runners[place].reference and lead.verdict != "better"
        if overtakes >= RISK or open_question:
            staying.append(place)
    return staying


def choose(runners: Sequence[Runner], inside: Sequence[int], starts: Sequence[int]) -> int:
    """The place of the runner to train with: the first, if no start point is left that it does not beat; else the best
    of these.

    Args:
        inside: who is still in at the end, best first. A start point that is not was beaten when it left.
        starts: places of the start points.
    """
    of, first = noise(runners), inside[0]
    unbeaten = [
        place
        for place in inside
        if place in starts and difference(runners[first], runners[place], of).verdict != "better"
    ]
    return unbeaten[0] if unbeaten else first
