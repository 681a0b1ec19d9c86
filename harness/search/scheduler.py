"""Which trials end early. Tune asks after each report; the verdict goes into the store, and the trial ends by itself.

(Tune would end a trial inside its report: workers that it has started are then left behind with their resources.)
"""

import time
from types import SimpleNamespace
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from harness.config.search import EarlyStopping, SearchConfig
from harness.search.searcher import NUMBER
from harness.search.trial_store import TrialRecord, TrialStore

STEP = "step"


class ASHA(AsyncHyperBandScheduler):
    """Asynchronous successive halving (Li et al., 2020) by optimiser steps, whose rungs come from the store.

    A resumed search stops trials as the first one would have. It uses private attributes of ray 2.60's, to which
    pyproject pins it; a test runs it through the real Tune.

    Args:
        steps: of the longest trial.
    """

    def __init__(self, search: SearchConfig, stopping: EarlyStopping, store: TrialStore, steps: int) -> None:
        super().__init__(
            time_attr=STEP,
            metric=search.metric,
            mode=search.mode,
            max_t=steps + 1,  # the last step itself must not look like an early stop
            grace_period=min(stopping.grace_steps, steps),
            reduction_factor=stopping.reduction_factor,
            stop_last_trials=False,  # else a rung that no evaluation hits is entered, and judged, by a later report
        )
        self.store, self.sign = store, search.sign
        for record in store.records:
            if record.ended:
                self.recall(record, f"ended {record.number}")

    def on_trial_add(self, controller: Any, trial: Trial) -> None:
        super().on_trial_add(controller, trial)
        self.recall(self.store.records[trial.config[NUMBER]], trial.trial_id)

    def recall(self, record: TrialRecord, name: str) -> None:
        """Enter what a trial reported before, under the name that it has now."""
        (bracket,) = self._brackets
        for step, value in record.intermediate_values:  # the very rungs that its reports entered
            bracket.on_result(SimpleNamespace(trial_id=name), step, self.sign * value)  # type: ignore[arg-type]


class StopAtReport(FIFOScheduler):
    """Enters the verdicts of another scheduler, and of the clock, into the store.

    They are saved together with the report that they are on (`search.progress`): a resumed search has both or neither.

    Args:
        inner: None: all trials run to their end.
        deadline: by time.monotonic(); each trial ends at its first report after it.
    """

    def __init__(self, store: TrialStore, inner: ASHA | None, deadline: float = float("inf")) -> None:
        super().__init__()
        self.store, self.inner, self.deadline = store, inner, deadline

    def on_trial_add(self, controller: Any, trial: Trial) -> None:
        if self.inner:
            self.inner.on_trial_add(controller, trial)

    def on_trial_result(self, controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        verdict = self.inner.on_trial_result(controller, trial, result) if self.inner else TrialScheduler.CONTINUE
        if verdict == TrialScheduler.STOP or time.monotonic() > self.deadline:
            self.store.records[trial.config[NUMBER]].stop = True
        return TrialScheduler.CONTINUE


def build_scheduler(search: SearchConfig, store: TrialStore, steps: int, deadline: float) -> StopAtReport:
    """For the trials of a search; `steps` of the longest."""
    stopping = search.early_stopping
    asha = ASHA(search, stopping, store, steps) if stopping else None
    return StopAtReport(store, asha, deadline)
