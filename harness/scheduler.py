"""Tune's ASHA, with a memory: Tune's snapshot leaves the scheduler out, so a resumed search would have empty rungs."""

import json
import os
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler

from harness.space import EarlyStopping, SearchConfig

STEP = "step"


class RememberingASHA(AsyncHyperBandScheduler):
    """Asynchronous successive halving (Li et al., 2020) by optimiser steps; its rungs are kept in a file.

    Args:
        path: of the file; read before the first trial if it is there.
    """

    def __init__(self, path: Path, stopping: EarlyStopping, steps: int) -> None:
        super().__init__(
            time_attr=STEP,
            max_t=steps + 1,  # the last step itself must not look like an early stop
            grace_period=min(stopping.grace_steps, steps),
            reduction_factor=stopping.reduction_factor,
        )
        self.path, self.recalled = path, False

    def on_trial_add(self, controller: Any, trial: Trial) -> None:
        if not self.recalled:
            self.recall()
        super().on_trial_add(controller, trial)

    def on_trial_result(self, controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        decision = super().on_trial_result(controller, trial, result)
        rungs = [[milestone, recorded] for milestone, recorded in self.bracket._rungs]
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(rungs))
        os.replace(part, self.path)
        return decision

    @property
    def bracket(self) -> Any:
        """There is one (brackets=1, Tune's default)."""
        return self._brackets[0]

    def recall(self) -> None:
        self.recalled = True
        if self.path.exists():
            known = dict(json.loads(self.path.read_text()))
            for milestone, recorded in self.bracket._rungs:
                recorded.update(known.get(milestone, {}))


def build_scheduler(search: SearchConfig, folder: Path, steps: int) -> RememberingASHA | None:
    """ASHA, or None where trials run to their end."""
    if search.early_stopping is None:
        return None
    return RememberingASHA(folder / "rungs.json", search.early_stopping, steps)
