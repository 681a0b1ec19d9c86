"""Runs a study over recorded trainings (`search.recorded`) in place of Ray Tune: same searcher, early stopping, race
and files, on a clock of its own, so that a study takes seconds."""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

from ray.tune.search import Searcher

from harness.cli.signals import Interrupts
from harness.config.search import UNLABELLED_WEIGHT
from harness.config.train import TrainConfig
from harness.search.recorded import MadeUpRun, Recorded
from harness.search.searcher import NUMBER
from harness.search.trial import TrialSetup
from harness.search.trial_store import TrialRecord
from harness.search.tuner import PhaseRun, Phases

SECONDS_A_STEP = 0.02
"""Of the made-up clock."""


@dataclass
class MadeUpTrial:
    """One that is at work."""

    trial_id: str
    record: TrialRecord
    reports: Iterator[dict[str, float]]


def reports(run: MadeUpRun, record: TrialRecord, with_test: bool) -> Iterator[dict[str, float]]:
    """What the trial would report, from where it stands."""
    for step, val in zip(run.steps.tolist(), run.val.tolist(), strict=True):
        if record.step < step <= record.steps:
            found = {"step": step, "val/miou": val, "time_total_s": SECONDS_A_STEP * step}
            last = step == run.steps[-1]
            yield found | ({"test/miou": run.test} if last and with_test else {})


def simulate_phases(
    recorded: Recorded,
    base: TrainConfig,
    setup: TrialSetup,
    phases: Iterator[PhaseRun],
    interrupts: Interrupts,
    max_concurrent_trials: Callable[[], int],
) -> None:
    """Run all trials of all phases, as `run_phases` does.

    Raises:
        KeyboardInterrupt: at the next report, if one was noted.
    """
    through, names, order = Phases(phases, interrupts, max_concurrent_trials), count(), count()
    clock, working = 0.0, []  # type: ignore[var-annotated]
    while True:
        through.turn()
        while isinstance(given := through.suggest(name := str(next(names))), dict):
            trial = start(recorded, base, through, name, given[NUMBER])
            heapq.heappush(working, (clock + SECONDS_A_STEP, next(order), trial, None))
        if not working:
            if given == Searcher.FINISHED:
                return
            continue
        clock, _, trial, report = heapq.heappop(working)
        if report is not None:
            tell(through, trial, report)
        following = None if trial.record.prune else next(trial.reports, None)
        if following is None:
            assert through.now is not None
            through.now.searcher.on_trial_complete(trial.trial_id)
            through.now.progress.ended(trial.record.number)
        else:
            ahead = SECONDS_A_STEP * (following["step"] - trial.record.step)
            heapq.heappush(working, (clock + ahead, next(order), trial, following))


def start(recorded: Recorded, base: TrainConfig, through: Phases, trial_id: str, number: int) -> MadeUpTrial:
    assert through.now is not None
    store = through.now.progress.store
    record = store.records[number]
    through.now.progress.started(number)
    seed = record.values.get("seed", base.seed)
    values = {UNLABELLED_WEIGHT: base.ssl.unlabelled_weight} | record.values
    run = recorded.run(values, seed)
    return MadeUpTrial(trial_id, record, reports(run, record, store.phase == "confirm"))


def tell(through: Phases, trial: MadeUpTrial, report: dict[str, float]) -> None:
    """As Tune does: first the scheduler decides, then the report is entered."""
    assert through.now is not None
    through.now.scheduler.decide(trial.record, report)
    through.now.progress.reported(trial.record.number, report)
