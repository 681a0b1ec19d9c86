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
from statistics import fmean, stdev
from typing import Literal, NamedTuple

import numpy as np
from scipy.stats import t

BEATEN = 0.95
"""How sure it must be, one-sided, that a start point is beaten, for something else to be chosen."""
RISK = 0.02
"""A candidate is out when it would win at the last seed with a smaller probability, taken times most / n after n of the
most seeds: Student's t over few runs is wide, so that what it calls 5% early is less (docs/protocol.md)."""
CONFIDENCE = 0.95
"""Of intervals."""
Role = Literal["candidate", "start", "baseline"]
Verdict = Literal["better", "worse", "not decided"]


@dataclass(frozen=True)
class Runner:
    """One that takes part.

    Args:
        scores: by seed, more is better; None of a run that was lost to a fault of the machine.
        role: of a start point, others must show that they are better; the baseline wins nothing, but what it is worse
            by is asked.
        failed: by its own fault, from some seed: it is out.
    """

    scores: Mapping[int, float | None] = field(default_factory=dict)
    role: Role = "candidate"
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

    def reach(self, seeds: int, below: float = (1 + CONFIDENCE) / 2) -> float:
        """Half the width of the interval of a mean difference over so many seeds.

        Args:
            below: the probability of all up to its upper end.
        """
        if not seeds or not self.freedom:
            return inf
        return float(t.ppf(below, self.freedom)) * self.std * sqrt(2 / seeds)


def noise(runners: Sequence[Runner]) -> Noise:
    """Of all runs but the baseline's, by least squares: candidates that left early count as far as they got. Training
    without unlabelled images is another thing, with noise of its own."""
    runners = [one for one in runners if one.role != "baseline"]
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
    """How much better `one` is than `other`. Its interval is the wider of two: by the noise of all, and by the pairs
    alone, for two that answer to a seed in different ways, as training with and without unlabelled images does."""
    mine, its = one.known(), other.known()
    pairs = [mine[seed] - its[seed] for seed in mine if seed in its]
    if not pairs:
        return Difference(nan, inf, 0)
    reaches = [of.reach(len(pairs))] if of.freedom else []
    if len(pairs) > 1:
        reaches.append(Noise(stdev(pairs) / sqrt(2), len(pairs) - 1).reach(len(pairs)))
    return Difference(fmean(pairs), max(reaches, default=inf), len(pairs))


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

    Were the race to go on to its last seed, a mean difference there would lie around that of today, with a spread of
    noise * sqrt(2) * sqrt((most - n) / (most * n)) after n seeds (Student's t). From that follow the probabilities of
    what the last seed would show. Below `RISK` it is not waited for: a candidate goes home that would not become the
    first, or would not beat the start points; a start point that would be beaten. The baseline is not in the way of
    anybody; it stays until its difference from the first is no longer open.
    """
    so_far = [Runner(one.known(seeds), one.role) for one in runners]
    of, risk = noise(so_far), RISK * most / len(seeds)

    def lead(one: int, other: int) -> Difference:
        return difference(so_far[one], so_far[other], of)

    def likely(by: Difference, wanted: float) -> bool:
        """Whether the last seed may well show a mean difference above the wanted one."""
        if not by.seeds or not of.freedom:
            return True
        spread = of.std * sqrt(2 * (most - by.seeds) / (most * by.seeds)) if by.seeds < most else 0.0
        return float(t.sf((wanted - by.mean) / spread, of.freedom)) >= risk if spread else by.mean >= wanted

    racing = [place for place in inside if runners[place].role != "baseline"]
    if not racing:
        return list(inside)
    racing.sort(key=lambda place: (-so_far[place].mean if so_far[place].known() else inf, place))
    starts = [place for place in racing if runners[place].role == "start"]
    needed = of.reach(most, BEATEN)
    able = [place for place in racing if place in starts or all(likely(lead(place, one), needed) for one in starts)]
    first = able[0]
    beside = [place for place in able[1:] if likely(lead(place, first), -needed if place in starts else 0.0)]
    baseline = [place for place in inside if place not in racing and lead(first, place).verdict == "not decided"]
    return [first, *beside, *baseline]


def choose(runners: Sequence[Runner], inside: Sequence[int]) -> int:
    """The place of the runner to train with: the first, if no start point is left that it does not beat (with the
    probability `BEATEN`); else the best of these.

    Args:
        inside: who is still in at the end, best first. A start point that is not was beaten when it left.
    """
    of = noise(runners)
    racing = [place for place in inside if runners[place].role != "baseline"] or list(inside)

    def beats(place: int) -> bool:
        by = difference(runners[racing[0]], runners[place], of)
        return by.mean > of.reach(by.seeds, BEATEN)

    unbeaten = [place for place in racing if runners[place].role == "start" and not beats(place)]
    return unbeaten[0] if unbeaten else racing[0]
