"""Ray: one driver's connection, and a TorchTrainer over several workers."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray

from harness import RAY_ENVIRONMENT
from harness.console import Refused
from harness.session import Progress, TrainSession
from harness.worker import Job, TrainingError, train

OBJECT_STORE_BYTES = 100 * 1024 * 1024  # nothing large goes through it


def quiet() -> None:
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def connected(address: str | None, verbose: bool, **options: Any) -> Iterator[None]:
    """A Ray of our own for as long as the block lasts, or a cluster's.

    Raises:
        Refused: no cluster answers at the address.
    """
    if not verbose:
        quiet()
    local: dict[str, Any] = {}
    if address is None:
        local = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES, **options}
        os.environ.pop("RAY_ADDRESS", None)
    try:
        ray.init(
            address=address or "local",
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
            runtime_env={"env_vars": RAY_ENVIRONMENT},
            **local,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        if address is None:
            raise
        reason = str(error).splitlines()[0]
        raise Refused(f"--address: a Ray cluster must answer there, but got {address}: {reason}") from error
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
class Board:
    """The last progress and the result of rank 0, which the driver polls."""

    def __init__(self) -> None:
        self.progress: list[tuple[Any, ...]] = []
        self.result: dict[str, float] | None = None
        self.error: str | None = None

    def put(self, progress: tuple[Any, ...]) -> None:
        self.progress.append(progress)

    def take(self) -> list[tuple[Any, ...]]:
        taken, self.progress = self.progress, []
        return taken

    def end(self, result: dict[str, float] | None, error: str | None) -> None:
        self.result, self.error = result, error

    def outcome(self) -> tuple[dict[str, float] | None, str | None]:
        return self.result, self.error


def work(settings: dict[str, Any]) -> None:
    """What each worker of the TorchTrainer runs."""
    import ray.train.v2._internal.execution.context as context

    logging.getLogger(context.__file__).setLevel(logging.WARNING)  # its "Reporting training result" has no other switch
    job, board = settings["job"], settings["board"]
    session = TrainSession(board)
    try:
        result = train(job, session)
    except TrainingError as error:  # the same again if it were tried again: no failure to Ray
        ray.get(board.end.remote(None, str(error)))
        return
    if session.rank == 0:
        ray.get(board.end.remote(result, None))


def train_on_workers(
    job: Job, workers: int, gpus: int, address: str | None, verbose: bool, show: Callable[[Progress], None]
) -> dict[str, float]:
    """Run a job data parallel; a worker that dies is replaced and the group goes on from the newest checkpoint.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        TrainingError: the training cannot go on.
    """
    from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    # CPU workers are counted by us: Ray counts one core each, and two workers must run on one core as well
    options = {} if gpus else {"num_cpus": max(workers, os.cpu_count() or 1) + 1}
    with connected(address, verbose, **options):
        board: Any = Board.remote()  # type: ignore[attr-defined]
        with polling(board, show):
            trainer = TorchTrainer(
                work,
                train_loop_config={"job": job, "board": board},
                scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus > 0),
                run_config=RunConfig(  # type: ignore[call-arg]
                    name=f"{job.folder.name}-{os.getpid()}",  # a name used before would be taken for finished
                    storage_path=str(job.folder / "ray"),
                    failure_config=FailureConfig(max_failures=2, controller_failure_limit=3),  # type: ignore[call-arg]
                    checkpoint_config=CheckpointConfig(num_to_keep=1),
                    logging_config=LoggingConfig("INFO" if verbose else "ERROR"),
                ),
            )
            try:
                trainer.fit()
            except SystemExit as stop:  # how Ray Train passes a Ctrl-C on
                raise KeyboardInterrupt from stop
        result, reason = ray.get(board.outcome.remote())
        if reason is not None:
            raise TrainingError(reason)
        assert result is not None
        return result


@contextmanager
def polling(board: Any, show: Callable[[Progress], None]) -> Iterator[None]:
    """Show what comes onto the board, from a thread, while the block lasts."""
    done = threading.Event()

    def poll() -> None:
        while not done.wait(0.5):
            try:
                for progress in ray.get(board.take.remote()):
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
