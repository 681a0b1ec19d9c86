"""A Ray TorchTrainer over several workers, for a training (`elastic`) and for a trial of a search."""

import logging
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, wait
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
)
from ray.train.torch import TorchTrainer

from harness.background import in_background
from harness.config.search import Resources
from harness.distributed.connection import ray_storage
from harness.distributed.contexts import RayTrainContext, RayTrialContext, start_progress_actor
from harness.distributed.failures import final_reason, found_no_room, innermost, is_loss_of_worker
from harness.errors import Interrupted, RunFailed, TrainingError, TrialPruned
from harness.storage import remove_folder
from harness.training.trainer import TrainJob, train

RAY_FILES = "ray"
"""In a run's folder while it trains: what Ray Train keeps for itself."""


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
    except (TrialPruned, Interrupted):  # told so by the driver, and all workers alike
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
            **ray_storage(job.folder / RAY_FILES),
            failure_config=FailureConfig(  # type: ignore[call-arg]
                max_failures=0, max_preemption_failures=0, controller_failure_limit=startup_retries
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            logging_config=LoggingConfig("INFO" if verbose else "ERROR"),
        ),
    )


def train_trial_on_workers(job: TrainJob, resources: Resources, tell: Callable[[dict[str, float]], bool]) -> None:
    """Run the trial of a search on several workers, from inside of its Tune actor.

    The group always ends by itself, told so through the actor: if its trainer is killed, its resources may stay taken.

    Raises:
        RunFailed: the training cannot go on.
        TrialPruned: `tell` said so.
    """
    while True:
        progress_actor = start_progress_actor()
        trainer = build_trainer(
            job,
            progress_actor,
            RayTrialContext,
            workers=resources.workers_per_trial,
            use_gpu=resources.gpus > 0,
            cpus=resources.cpus,
        )
        fitting = in_background(trainer.fit)
        try:
            stopped = pass_reports_on(progress_actor, fitting, tell)
        finally:
            ray.get(progress_actor.close.remote())
            wait([fitting])
            remove_folder(job.folder / RAY_FILES, ignore_errors=True)
        error = fitting.exception()
        if error is None or not found_no_room(error):  # which others have, and are waited for
            break
    if error is not None:
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
