"""A Ray TorchTrainer over several workers: for a training of its own, and for a trial of a search."""

import logging
import os
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.actor import ActorHandle
from ray.train import (
    CheckpointConfig,
    FailureConfig,
    LoggingConfig,
    Result,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
)
from ray.train.torch import TorchTrainer

from harness.config.search import Resources
from harness.distributed.connection import cluster_name, connected
from harness.distributed.contexts import Outcome, RayTrainContext, RayTrialContext, start_progress_actor
from harness.distributed.failures import final_reason, found_no_room, innermost, is_loss_of_worker
from harness.distributed.waiting import hearing_signals, training_bundles, wait_for_room
from harness.errors import RunFailed, TrainingError, TrialPruned, last_line
from harness.training import checkpoint
from harness.training.context import Progress
from harness.training.trainer import TrainJob, train

RAY_FILES = "ray"
"""In a run's folder while it trains: what Ray Train keeps for itself."""
TRIES = 3
"""How often in a row workers start from one checkpoint."""
STARTUP = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"


def work(settings: dict[str, Any]) -> None:
    """What each worker of the TorchTrainer runs."""
    # "Reporting training result" has no other switch: Ray names that logger after the file
    noisy = Path(ray.train.__file__).parent / "v2/_internal/execution/context.py"
    logging.getLogger(str(noisy)).setLevel(logging.WARNING)
    job, progress_actor = settings["job"], settings["progress_actor"]
    context = settings["context"](progress_actor)
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    try:
        result = train(job, context)
    except TrialPruned:
        return
    except TrainingError as error:  # on all workers alike, so that none waits for another
        ray.get(progress_actor.end.remote(None, error))
        return
    except Exception as error:
        if (reason := final_reason(error)) is not None:
            ray.get(progress_actor.end.remote(None, RunFailed(reason)))
        elif not is_loss_of_worker(error):
            ray.get(progress_actor.note_traceback.remote(traceback.format_exc()))
        raise  # so that the workers that wait for this one end as well
    if context.rank == 0:
        ray.get(progress_actor.end.remote(result, None))


def build_trainer(
    job: TrainJob,
    progress_actor: ActorHandle,
    context: type[RayTrainContext],
    *,
    workers: int,
    use_gpu: bool,
    cpus: int | None = None,
    verbose: bool = False,
    startup_retries: int = 3,
) -> TorchTrainer:
    """A TorchTrainer.

    Args:
        cpus: that each worker reserves and computes with; None: Ray's defaults.
        startup_retries: how often it waits for room again.
    """
    reserved = None if cpus is None else {"CPU": cpus} | ({"GPU": 1} if use_gpu else {})
    return TorchTrainer(
        work,
        train_loop_config={"job": job, "progress_actor": progress_actor, "context": context, "threads": cpus},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu, resources_per_worker=reserved),
        run_config=RunConfig(  # type: ignore[call-arg]
            name=f"{job.folder.name}-{time.time_ns()}",  # one used before would be taken for finished
            storage_path=str(job.folder / RAY_FILES),
            failure_config=FailureConfig(  # type: ignore[call-arg]
                max_failures=0, controller_failure_limit=startup_retries
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            logging_config=LoggingConfig("INFO" if verbose else "ERROR"),
        ),
    )


def train_on_workers(
    job: TrainJob,
    workers: int,
    gpus: int,
    address: str | None,
    verbose: bool,
    show: Callable[[Progress], None],
    say: Callable[[str], None],
) -> dict[str, float]:
    """Run a job data parallel; a worker that dies is replaced and the group goes on from the newest checkpoint.

    Args:
        say: tells the user on which cluster it runs, and what it waits for there.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        RunFailed: the training cannot go on.
    """
    # CPU workers are counted by us: Ray counts one core each, and two workers must run on one core as well
    num_cpus = None if gpus else max(workers, os.cpu_count() or 1) + 1
    with connected(address, verbose, num_cpus=num_cpus):
        tries, began = 0, newest_step(job.folder)
        if address is not None:
            say(f"on {cluster_name()}")
            os.environ.setdefault(STARTUP, "5")  # Ray waits in silence
        while True:
            if address is not None:
                wait_for_room(training_bundles(workers, gpus), say)
            progress_actor = start_progress_actor()
            trainer = build_trainer(
                job,
                progress_actor,
                RayTrainContext,
                workers=workers,
                use_gpu=gpus > 0,
                verbose=verbose,
                startup_retries=0 if address else 3,
            )
            with polling(progress_actor, show):
                error = fit(trainer)
            shutil.rmtree(job.folder / RAY_FILES, ignore_errors=True)
            outcome: Outcome = ray.get(progress_actor.outcome.remote())
            result, failure, bug = outcome
            if failure is not None:
                raise failure
            if error is None:
                assert result is not None
                return result
            if address is not None and found_no_room(error):
                say("another job has taken the room; waiting again")
                continue
            step = newest_step(job.folder)
            tries, began = tries + 1 if step == began else 1, step
            if tries == TRIES and bug is not None:
                raise RuntimeError(f"in a worker:\n{bug}") from error
            if tries == TRIES:
                reason = "killed, or out of memory" if is_loss_of_worker(error) else last_line(error)
                raise RunFailed(f"a worker has died {TRIES} times in a row after step {step}: {reason}.")
            show(Progress(step, job.config.steps, message=f"a worker has died; going on from step {step}"))


def newest_step(folder: Path) -> int:
    newest = checkpoint.newest(folder)
    return 0 if newest is None else checkpoint.step_of(newest)


def start_fit(trainer: TorchTrainer) -> Future[Result]:
    """Train in a thread of its own: there Ray leaves signals alone, of which its handler loses some."""
    fitting: Future[Result] = Future()

    def fit() -> None:
        try:
            fitting.set_result(trainer.fit())
        except BaseException as error:
            fitting.set_exception(error)

    threading.Thread(target=fit, daemon=True).start()  # none waits for it where Ray is shut down
    return fitting


def fit(trainer: TorchTrainer) -> BaseException | None:
    """Train; what went wrong in a worker.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM. What still runs ends with the connection to Ray.
    """
    with hearing_signals():
        try:
            start_fit(trainer).result()
        except TrainingFailedError as error:
            return innermost(error)
    return None


def train_trial_on_workers(job: TrainJob, resources: Resources, tell: Callable[[dict[str, float]], bool]) -> None:
    """Run the trial of a search on several workers, from inside of its Tune actor.

    The group always ends by itself, told so through the actor: if its trainer is killed, its resources may stay taken.

    Raises:
        RunFailed: the training cannot go on.
        TrialPruned: `tell` said so.
    """
    progress_actor = start_progress_actor()
    trainer = build_trainer(
        job,
        progress_actor,
        RayTrialContext,
        workers=resources.workers_per_trial,
        use_gpu=resources.gpus > 0,
        cpus=resources.cpus,
    )
    fitting = start_fit(trainer)
    try:
        stopped = pass_reports_on(progress_actor, fitting, tell)
    finally:
        ray.get(progress_actor.close.remote())
        wait([fitting])
        shutil.rmtree(job.folder / RAY_FILES, ignore_errors=True)
    if error := fitting.exception():
        raise innermost(error) from error
    _, failure, _ = ray.get(progress_actor.outcome.remote())
    if failure is not None:
        raise failure
    if stopped:
        raise TrialPruned


def pass_reports_on(
    progress_actor: ActorHandle, fitting: Future[Result], tell: Callable[[dict[str, float]], bool]
) -> bool:
    """Pass what rank 0 reports to the search, and the answers back, until the group ends; whether it was stopped."""
    stopped, answered = False, 0
    while True:
        ended = fitting.done()
        reports: list[dict[str, float]] = ray.get(progress_actor.reported.remote(answered))
        for metrics in reports:
            go_on = tell(metrics)
            stopped = stopped or not go_on
            ray.get(progress_actor.reply.remote(answered, go_on))
            answered += 1
        if ended:
            return stopped
        time.sleep(0.05)


@contextmanager
def polling(progress_actor: ActorHandle, show: Callable[[Progress], None]) -> Iterator[None]:
    """Show the progress that the actor hears of, from a thread, while the block lasts."""
    done = threading.Event()

    def poll() -> None:
        while not done.wait(0.5):
            try:
                shown: list[Progress] = ray.get(progress_actor.take.remote())
            except ray.exceptions.RayError:
                return  # Ray is going down; the main thread says why
            for progress in shown:
                show(progress)

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=2)
