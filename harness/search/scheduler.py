"""Which trials end early: asynchronous successive halving (ASHA, Li et al., 2020) by optimiser steps.

Tune calls `PruneAtReport` after each report. It never answers STOP: Tune would then end the trial inside its report,
and Ray Train workers that the trial has started would keep their resources. It sets `prune` in the trial's record, and
the trial ends by itself.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from harness.config.search import EarlyStopping, SearchConfig
from harness.search.searcher import NUMBER
from harness.search.trial_store import TrialRecord, TrialStore

STEP = "step"
Curve = Sequence[tuple[int, float]]
"""(step, value) of a trial's reports, in their order."""


def falls_behind(value: float, step: int, own: Curve, others: Iterable[Curve], stopping: EarlyStopping) -> bool:
    """Whether ASHA ends a trial at a report, given what all trials have reported so far.

    The rungs are `grace_steps * reduction_factor ** k`. A trial is judged once at each, by its first report between
    it and the next: the trial goes on if it is among the best 1 / reduction_factor of those that were there before.

    Args:
        value: reported at `step`; more is better.
        own: the earlier reports of the trial.
        others: the reports of the other trials.
    """
    if step < stopping.grace_steps:
        return False
    rung = stopping.grace_steps
    while rung * stopping.reduction_factor <= step:
        rung *= stopping.reduction_factor
    end = rung * stopping.reduction_factor

    def at_rung(curve: Curve) -> float | None:
        return next((reported for at, reported in curve if rung <= at < end), None)

    there = [reported for curve in others if (reported := at_rung(curve)) is not None]
    if at_rung(own) is not None or not there:
        return False
    return bool(value < np.percentile(there, (1 - 1 / stopping.reduction_factor) * 100))


class PruneAtReport(FIFOScheduler):
    """Decides at each report, from the store alone, so that a resumed search decides as the first one would have.

    The decision is saved together with the report that it is on (`search.progress`): both are known later, or neither.

    Args:
        search: None: trials end early by the budget alone.
        spent: whether the budget is; each trial ends at its first report after that.
    """

    def __init__(
        self, store: TrialStore, search: SearchConfig | None, spent: Callable[[], bool] = lambda: False
    ) -> None:
        super().__init__()
        self.store, self.search, self.spent = store, search, spent

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, float]) -> str:
        self.decide(self.store.records[trial.config[NUMBER]], result)
        return TrialScheduler.CONTINUE

    def decide(self, record: TrialRecord, result: dict[str, float]) -> None:
        """Whether the trial shall end with this report."""
        if self.spent() or (self.search and self.falls_behind(self.search, record, result)):
            record.prune = True

    def falls_behind(self, search: SearchConfig, record: TrialRecord, result: dict[str, float]) -> bool:
        if search.early_stopping is None or STEP not in result or search.metric not in result:
            return False

        def curve(one: TrialRecord) -> Curve:
            return [(step, search.sign * value) for step, value in one.intermediate_values]

        others = [curve(one) for one in self.store.records if one is not record]
        value, step = search.sign * result[search.metric], int(result[STEP])
        return falls_behind(value, step, curve(record), others, search.early_stopping)
