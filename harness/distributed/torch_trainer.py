"""Ray: one driver's connection, and a TorchTrainer over several workers."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import ray
import torch

from harness import RAY_ENVIRONMENT
from harness.config.search import Resources
from harness.errors import RunFailed, TrialPruned, UserError
from harness.training.context import Progress, RayTrainContext, RayTrialContext
from harness.training.trainer import TrainJob, train

OBJECT_STORE_BYTES = 100 * 1024 * 1024  # nothing large goes through it


def quiet() -> None:
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def connected(address: str | None, verbose: bool, **options: Any) -> Iterator[None]:
    """A Ray of our own for as long as the block lasts, or a cluster's.

    Raises:
        UserError: no cluster answers at the address.
    """
    if not verbose:
        quiet()
    local: dict[str, Any] = {}
    if address is None:
        local = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES, **options}
        os.environ.pop("RAY_ADDRESS", None)
    else:  # a cluster does not inherit our environment; given to a Ray of our own, it would make it start afresh
        local = {"runtime_env": {"env_vars": RAY_ENVIRONMENT}}
    try:
        ray.init(
            address=address or "local",
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
            **local,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        if address is None:
            raise
        reason = str(error).splitlines()[0]
        if "RAY_AUTH_MODE" not in os.environ:  # Ray says no more than that it cannot connect
            reason += " (one with token authentication, Ray's default, needs RAY_AUTH_MODE=token, or --address auto)"
        raise UserError(f"--address: a Ray cluster must answer there, but got {address}: {reason}") from error
    if not verbose:
        quiet()
    try:
        yield
    finally:
        ray.shutdown()


def cluster_resources(address: str) -> dict[str, float]:
    """What a cluster has, such as CPU and GPU."""
    with connected(address, verbose=False):
        return ray.cluster_resources()


@ray.remote(num_cpus=0)
class ProgressActor:
    """What rank 0 shows and reports, and its result; the driver polls it, and answers reports."""

    def __init__(self) -> None:
        self.progress: list[tuple[Any, ...]] = []
        self.result: dict[str, float] | None = None
        self.error: str | None = None
        self.reports: list[dict[str, float]] = []
        self.answers: dict[int, bool] = {}
        self.closed = False

    def put(self, progress: tuple[Any, ...]) -> None:
        self.progress.append(progress)

    def take(self) -> list[tuple[Any, ...]]:
        taken, self.progress = self.progress, []
        return taken

    def report(self, metrics: dict[str, float]) -> int:
        """The number under which the answer can be asked for."""
        self.reports.append(metrics)
        return len(self.reports) - 1

    def reported(self, first: int) -> list[dict[str, float]]:
        """The reports from a number on."""
        return self.reports[first:]

    def reply(self, number: int, go_on: bool) -> None:
        self.answers[number] = go_on

    def close(self) -> None:
        """From now on every answer is no."""
        self.closed = True

    def answer(self, number: int) -> bool | None:
        return self.answers.get(number, False if self.closed else None)

    def end(self, result: dict[str, float] | None, error: str | None) -> None:
        self.result, self.error = result, error

    def outcome(self) -> tuple[dict[str, float] | None, str | None]:
        return self.result, self.error


def work(settings: dict[str, Any]) -> None:
    """What each worker of the TorchTrainer runs."""
    import ray.train.v2._internal.execution.context as ray_context

    logging.getLogger(ray_context.__file__).setLevel(
        logging.WARNING
    )  # its "Reporting training result" has no other switch
    job, progress_actor = settings["job"], settings["progress_actor"]
    context = settings["context"](progress_actor)
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    try:
        result = train(job, context)
    except RunFailed as error:  # the same again if it were tried again: no failure to Ray
        ray.get(progress_actor.end.remote(None, str(error)))
        return
    except TrialPruned:
        return
    if context.rank == 0:
        ray.get(progress_actor.end.remote(result, None))


def build_trainer(
    job: TrainJob,
    progress_actor: Any,
    context: type[RayTrainContext],
    *,
    workers: int,
    use_gpu: bool,
    cpus: int | None = None,
    failures: int,
    verbose: bool = False,
) -> Any:
    """A TorchTrainer.

    Args:
        cpus: that each worker reserves and computes with; None: Ray's defaults.
        failures: how many times a group that lost a worker starts again.
    """
    from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

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
    options: dict[str, Any] = {} if gpus else {"num_cpus": max(workers, os.cpu_count() or 1) + 1}
    with connected(address, verbose, **options):
        progress_actor: Any = ProgressActor.remote()  # type: ignore[attr-defined]
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


def train_in_group(job: TrainJob, resources: Resources, tell: Callable[[dict[str, float]], bool]) -> None:
    """Run the trial of a search on several workers, from inside of its Tune actor.

    The group always ends by itself, told so through the actor: if its trainer is killed, its resources may stay taken.

    Raises:
        RunFailed: the training cannot go on.
        TrialPruned: `tell` said so.
    """
    progress_actor: Any = ProgressActor.remote()  # type: ignore[attr-defined]
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


def pass_reports_on(progress_actor: Any, fitting: "Future[Any]", tell: Callable[[dict[str, float]], bool]) -> bool:
    """Pass what rank 0 reports to the search, and the answers back, until the group ends; whether it was stopped."""
    stopped, answered = False, 0
    while True:
        ended = fitting.done()
        for metrics in ray.get(progress_actor.reported.remote(answered)):
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


def state_api_answers() -> bool:
    """Whether Ray's State API can be reached; Ray Train needs it to free what a killed trial leaves behind."""
    from ray.util.state import list_actors

    try:
        list_actors(limit=1, timeout=10)
    except Exception:  # of many kinds: connection, aiohttp, its own
        return False
    return True


@contextmanager
def polling(progress_actor: Any, show: Callable[[Progress], None]) -> Iterator[None]:
    """Show what comes onto the progress_actor, from a thread, while the block lasts."""
    done = threading.Event()

    def poll() -> None:
        while not done.wait(0.5):
            try:
                for progress in ray.get(progress_actor.take.remote()):
                    show(Progress(*progress))
            except ray.exceptions.RayError:
                return  # Ray is going down; the main thread says why

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=2)
