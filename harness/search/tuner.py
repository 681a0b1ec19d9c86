"""Ray Tune over the trials of a study, phase by phase. It keeps nothing that we need: the store does."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from typing import Any, NamedTuple

from ray import tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from harness.background import in_background
from harness.cli.signals import Interrupts
from harness.distributed.connection import ray_storage
from harness.distributed.heartbeat import Heartbeat
from harness.search.progress import SearchProgress
from harness.search.scheduler import PruneAtReport
from harness.search.searcher import NUMBER, ResumableSearcher
from harness.search.trial import PHASE, TrialSetup, run_trial
from harness.search.trial_store import Phase
from harness.storage import remove_folder

FOLDER = "tune"
LOOK = 1.0
"""Seconds between two looks at what else may end Tune."""
STUCK = 5.0
"""Seconds in which Tune hears of a Ctrl-C if it hears at all."""


class PhaseRun(NamedTuple):
    """The trials of a phase, while they run."""

    phase: Phase
    searcher: ResumableSearcher
    scheduler: PruneAtReport
    progress: SearchProgress


class Phases:
    """Goes through the phases: when one is over, the next begins, and with it whatever comes between the two."""

    def __init__(
        self, phases: Iterator[PhaseRun], interrupts: Interrupts, max_concurrent_trials: Callable[[], int]
    ) -> None:
        self.left, self.interrupts, self.max_concurrent_trials = phases, interrupts, max_concurrent_trials
        self.now = next(phases, None)

    def suggest(self, trial_id: str) -> Any:
        """The next trial; None: there is none yet. Tune lets errors out of here and of `turn` through as they are."""
        while self.now is not None:
            if len(self.now.searcher.running) >= self.max_concurrent_trials():
                return None
            found = self.now.searcher.suggest(trial_id)
            if found != Searcher.FINISHED:
                return None if found is None else {**found, PHASE: self.now.phase}
            if self.now.searcher.running:
                return None
            self.now.progress.settle()
            self.now = next(self.left, None)
        return Searcher.FINISHED

    def turn(self) -> None:
        """Once in each turn of Tune's loop."""
        self.interrupts.check()
        if self.now is not None:
            self.now.progress.settle()


def run_phases(
    setup: TrialSetup, phases: Iterator[PhaseRun], interrupts: Interrupts, max_concurrent_trials: Callable[[], int]
) -> None:
    """Run the trials of all phases that have not ended, in one run of Tune, so that a process which has imported torch,
    Ray and MLflow serves all of them.

    Args:
        max_concurrent_trials: how many fit at a time, which may change.

    Raises:
        ClusterLost: see `Heartbeat`.
        KeyboardInterrupt: at the next turn of Tune's loop, if one was noted.
    """
    ThroughPhases.phases = Phases(phases, interrupts, max_concurrent_trials)
    if ThroughPhases.phases.now is None:
        return
    needed: dict[str, float] = {"cpu": setup.resources.cpus, "gpu": setup.resources.gpus}
    if setup.resources.workers_per_trial > 1:  # the trainer inside reserves for its workers, the trial for nobody
        needed = {"node:__internal_head__": 0.001}
    home = setup.folder / FOLDER
    remove_folder(home, ignore_errors=True)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, setup=setup), needed),
        tune_config=tune.TuneConfig(
            search_alg=PhasedSearcher(),
            scheduler=PhasedScheduler(),
            num_samples=-1,  # the searcher says when it is over: a trial may be tried again
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=FOLDER,
            **ray_storage(setup.folder),
            verbose=0,
            callbacks=[ProgressCallback()],
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    fit(tuner, interrupts)
    remove_folder(home, ignore_errors=True)


def fit(tuner: tune.Tuner, interrupts: Interrupts) -> None:
    """Run Tune in a thread of its own: where Ray does not answer, this one still hears Ctrl-C, and of a lost cluster.

    Raises:
        ClusterLost: see `Heartbeat`.
        KeyboardInterrupt: at the next turn of Tune's loop, or when it does not turn.
    """
    fitting, heartbeat = in_background(tuner.fit), Heartbeat()
    interrupts.deferred = True
    while not wait([fitting], LOOK).done:
        heartbeat.beats()
        interrupts.check(STUCK)
    fitting.result()


class ThroughPhases:
    """Passes on to the phase that runs. Tune pickles searcher, scheduler and callback with the experiment, so all that
    they know belongs to this class."""

    phases: Phases

    @property
    def now(self) -> PhaseRun:
        assert self.phases.now is not None, "a trial runs"
        return self.phases.now


class PhasedSearcher(ThroughPhases, Searcher):
    def set_search_properties(self, *args: object, **options: object) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        return self.phases.suggest(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.now.searcher.on_trial_complete(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store is on disk."""


class PhasedScheduler(ThroughPhases, FIFOScheduler):
    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, float]) -> str:
        return self.now.scheduler.on_trial_result(tune_controller, trial, result)


class ProgressCallback(ThroughPhases, tune.Callback):
    def on_step_begin(self, iteration: int, trials: Sequence[Trial], **info: object) -> None:
        self.phases.turn()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        self.now.progress.started(trial.config[NUMBER])

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, float], **info: object
    ) -> None:
        self.now.progress.reported(trial.config[NUMBER], result)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        self.now.progress.ended(trial.config[NUMBER])

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        self.now.progress.ended(trial.config[NUMBER])
