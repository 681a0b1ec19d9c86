"""Ray Tune over the trials of one phase of a study. It keeps nothing that we need: the store does."""

import shutil
from collections.abc import Sequence

from ray import tune
from ray.tune.experiment import Trial

from harness.cli.signals import Interrupts
from harness.search.progress import SearchProgress
from harness.search.scheduler import PruneAtReport
from harness.search.searcher import NUMBER, ResumableSearcher
from harness.search.trial import TrialSetup, run_trial

FOLDER = "tune"


def run_trials(
    setup: TrialSetup,
    searcher: ResumableSearcher,
    scheduler: PruneAtReport,
    progress: SearchProgress,
    interrupts: Interrupts,
    max_concurrent_trials: int,
) -> None:
    """Run all trials of the searcher that have not ended.

    Raises:
        KeyboardInterrupt: at the next turn of Tune's loop, if one was noted.
    """
    needed: dict[str, float] = {"cpu": setup.resources.cpus, "gpu": setup.resources.gpus}
    if setup.resources.workers_per_trial > 1:  # the trainer inside reserves for its workers, the trial for nobody
        needed = {"node:__internal_head__": 0.001}
    home = setup.folder / FOLDER
    shutil.rmtree(home, ignore_errors=True)
    ProgressCallback.shown, ProgressCallback.interrupts = progress, interrupts
    tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, setup=setup), needed),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,  # the searcher says when it is over: a trial may be tried again
            max_concurrent_trials=max_concurrent_trials,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=FOLDER,
            storage_path=str(setup.folder),
            verbose=0,
            callbacks=[ProgressCallback()],
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    ).fit()
    progress.settle()
    shutil.rmtree(home, ignore_errors=True)


class ProgressCallback(tune.Callback):
    """Passes on what Tune tells. Tune pickles it with the experiment, so all that it knows belongs to the class."""

    shown: SearchProgress
    interrupts: Interrupts

    def on_step_begin(self, iteration: int, trials: Sequence[Trial], **info: object) -> None:
        self.interrupts.check()
        self.shown.settle()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        self.shown.started(trial.config[NUMBER])

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, float], **info: object
    ) -> None:
        self.shown.reported(trial.config[NUMBER], result)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        self.shown.ended(trial.config[NUMBER])

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        self.shown.ended(trial.config[NUMBER])
