"""A Ray TorchTrainer over several workers: for a training of its own, and for a trial of a search."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.actor import ActorHandle
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from harness.config.search import Resources
from harness.distributed.connection import connected
from harness.distributed.contexts import ProgressActor, RayTrainContext, RayTrialContext
from harness.errors import RunFailed, TrialPruned, UserError
from harness.training.context import Progress
from harness.training.trainer import TrainJob, train


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
    except (RunFailed, UserError) as error:  # the same again if it were tried again: no failure to Ray
        ray.get(progress_actor.end.remote(None, str(error)))
        return
    except TrialPruned:
        return
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
    failures: int,
    verbose: bool = False,
) -> TorchTrainer:
    """A TorchTrainer.

    Args:
        cpus: that each worker reserves and computes with; None: Ray's defaults.
        failures: how many times a group that lost a worker starts again.
    """
    reserved = None if cpus is None else {"CPU": cpus} | ({"GPU": 1} if use_gpu else {})
    return TorchTrainer(
        work,
        train_loop_config={"job": job, "progress_actor": progress_actor, "context": context, "threads": cpus},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu, resources_per_worker=reserved),
        run_config=RunConfig(  # type: ignore[call-arg]
            name=f"{job.folder.name}-{time.time_ns()}",  # one used before would be taken for finished
            storage_path=str(job.folder / "ray"),
            failure_config=FailureConfig(max_failures=failures, controller_failure_limit=3),  # type: ignore[call-arg]
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            logging_config=LoggingConfig("INFO" if verbose else "ERROR"),
        ),
    )


def train_on_workers(
    job: TrainJob, workers: int, gpus: int, address: str | None, verbose: bool, show: Callable[[Progress], None]
) -> dict[str, float]:
    """Run a job data parallel; a worker that dies is replaced and the group goes on from the newest checkpoint.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        RunFailed: the training cannot go on.
    """
    # CPU workers are counted by us: Ray counts one core each, and two workers must run on one core as well
    num_cpus = None if gpus else max(workers, os.cpu_count() or 1) + 1
    with connected(address, verbose, num_cpus=num_cpus):
        progress_actor = ProgressActor.remote()  # type: ignore[attr-defined]
        trainer = build_trainer(
            job, progress_actor, RayTrainContext, workers=workers, use_gpu=gpus > 0, failures=2, verbose=verbose
        )
        with polling(progress_actor, show):
            try:
                trainer.fit()
            except SystemExit as stop:  # how Ray Train passes a Ctrl-C on
                raise KeyboardInterrupt from stop
        result, reason = ray.get(progress_actor.outcome.remote())
        if reason is not None:
            raise RunFailed(reason)
        assert result is not None
        return result


def train_trial_on_workers(job: TrainJob, resources: Resources, tell: Callable[[dict[str, float]], bool]) -> None:
    """Run the trial of a search on several workers, from inside of its Tune actor.

    The group always ends by itself, told so through the actor: if its trainer is killed, its resources may stay taken.

    Raises:
        RunFailed: the training cannot go on.
        TrialPruned: `tell` said so.
    """
    progress_actor = ProgressActor.remote()  # type: ignore[attr-defined]
    trainer = build_trainer(
        job,
        progress_actor,
        RayTrialContext,
        workers=resources.workers_per_trial,
        use_gpu=resources.gpus > 0,
        cpus=resources.cpus,
        failures=0,
    )
    with ThreadPoolExecutor(1) as pool:
        fitting = pool.submit(trainer.fit)
        try:
            stopped = pass_reports_on(progress_actor, fitting, tell)
        finally:
            ray.get(progress_actor.close.remote())
        try:
            fitting.result()
        except Exception as error:
            raise innermost(error) from error
    _, reason = ray.get(progress_actor.outcome.remote())
    if reason is not None:
        raise RunFailed(reason)
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


def innermost(error: Exception) -> Exception:
    """What went wrong in a worker, out of what Ray Train wraps it in."""
    failures = getattr(error, "worker_failures", None)
    found = next(iter(failures.values()), None) if failures else None
    while isinstance(found, ray.exceptions.RayTaskError) and isinstance(found.cause, Exception):
        found = found.cause
    return found if isinstance(found, Exception) else error


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
