"""How long a study will still take, its baseline and its confirmation included."""

import time
from collections.abc import Callable, Iterable
from statistics import fmean
from typing import NamedTuple

from harness.search.trial_store import TrialStore

SHARE_OF_RACE = 0.4
"""Of the runs that a race may need beyond those that it needs in any case, it takes about so many."""
PRUNED_SHARE = 0.45
"""Of their full length that trials take on the mean under early stopping, until some have ended."""


class Expected(NamedTuple):
    """Of a phase."""

    store: TrialStore
    runs: float
    """In all."""
    steps: float
    """Of each, as long as none has ended."""


class TimeLeft:
    """By the steps that all trials have made since it was built.

    Args:
        phases: what is expected of each, as far as is known now.
    """

    def __init__(self, phases: Callable[[], Iterable[Expected]]) -> None:
        self.phases, self.before = phases, steps_done(phases())
        self.began: tuple[float, int] | None = None
        """When the first steps were heard of, and how many: what came before was the start of processes."""

    def seconds(self) -> float | None:
        """None: nothing tells yet."""
        phases, now = list(self.phases()), time.monotonic()
        done = steps_done(phases)
        if self.began is None and done > self.before:
            self.began = now, done
        if self.began is None or done <= self.began[1]:
            return None
        return (now - self.began[0]) / (done - self.began[1]) * sum(steps_left(phase) for phase in phases)


def steps_done(phases: Iterable[Expected]) -> int:
    return sum(record.step for phase in phases for record in phase.store.records)


def steps_left(phase: Expected) -> float:
    ended = [record.step for record in phase.store.records if record.ended]
    each = fmean(ended) if ended else phase.steps
    running = sum(min(record.step, each) for record in phase.store.records if not record.ended)
    return max(0.0, (phase.runs - len(ended)) * each - running)
