"""A training over several workers, as many as there is room for, while machines come and go."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError
from ray.train import Result, TrainingFailedError

from harness.background import in_background
from harness.distributed import autoscaler, cluster, heartbeat
from harness.distributed.bundles import training_bundles
from harness.distributed.connection import cluster_name, connected
from harness.distributed.contexts import Outcome, RayTrainContext, start_progress_actor
from harness.distributed.failures import found_no_room, innermost, is_loss_of_worker
from harness.distributed.nodes import is_for_one_machine
from harness.distributed.torch_trainer import RAY_FILES, build_trainer
from harness.distributed.waiting import has_room, wait_for_room
from harness.errors import ClusterLost, Interrupted, RunFailed, last_line
from harness.storage import remove_folder
from harness.training import checkpoint
from harness.training.context import Progress
from harness.training.trainer import TrainJob

TRIES = 3
"""How often in a row workers start from one checkpoint."""
STARTUP = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
LOOK = 1.0
"""Seconds between two looks at the cluster."""
STEADY = 5.0
"""Seconds for which there must have been room for more workers."""
OWN_PATIENCE = 3.0
"""Seconds that a Ray of our own may take to answer once the command was interrupted."""
WORTH = float(os.environ["HARNESS_GROW_IF_LEFT"])
"""Seconds that a training must have left for more workers: they take some 20 s to start."""


def train_on_workers(
    job: TrainJob,
    numbers: Sequence[int],
    on_gpus: bool,
    address: str | None,
    verbose: bool,
    interrupted: Callable[[], bool],
    show: Callable[[Progress], None],
    say: Callable[[str], None],
) -> dict[str, float]:
    """Run a job data parallel, until it is done or interrupted.

    Workers that die, and those whose machine is about to go, are replaced, and the group goes on from the newest
    checkpoint. Where the number of workers may differ, so does it where there is room for more, or for fewer.

    Args:
        numbers: of workers that there may be, the fewest first.
        interrupted: whether the workers shall save and end.
        say: tells the user on which cluster it runs, and what it waits for there.

    Raises:
        Interrupted: the workers have saved and ended.
        KeyboardInterrupt: they had not begun, or have died meanwhile.
        RunFailed: the training cannot go on.
    """
    # CPU workers are counted by us: Ray counts one core each, and two workers must run on one core as well
    num_cpus = None if on_gpus else max(numbers[-1], os.cpu_count() or 1) + 1
    with connected(address, verbose, num_cpus=num_cpus):
        tries, began = 0, newest_step(job.folder)
        if address is not None:
            say(f"on {cluster_name()}")
            if len(numbers) > 1 and not is_for_one_machine(job.tracking_uri):
                in_background(lambda: autoscaler.can_add(training_bundles(numbers[-1], on_gpus)))
            os.environ.setdefault(STARTUP, "5")  # Ray waits in silence
        while True:
            if interrupted():
                raise KeyboardInterrupt
            workers = room_for(numbers, on_gpus, say, interrupted)
            if len(numbers) > 1:
                say(f"{workers} worker(s)")
            progress_actor = start_progress_actor()
            trainer = build_trainer(
                job,
                progress_actor,
                RayTrainContext,
                workers=workers,
                use_gpu=on_gpus,
                verbose=verbose,
                startup_retries=0 if address else 3,
            )
            watch = Watch(progress_actor, numbers, workers, on_gpus, interrupted, show)
            own = address is None
            with ending_with_ray(own, interrupted):
                error = watch.until_end(in_background(trainer.fit), own)
                result, failure, bug = outcome_of(progress_actor)
            remove_folder(job.folder / RAY_FILES, ignore_errors=True)
            if failure is not None:
                raise failure
            if result is not None:
                return result
            if error is None and interrupted():
                raise Interrupted
            step = newest_step(job.folder)
            if error is None:
                say(f"{watch.reason}; saved at step {step}")
                continue
            if interrupted():
                raise KeyboardInterrupt
            if address is not None and found_no_room(error):
                say("another job has taken the room; waiting again")
                continue
            tries, began = tries + 1 if step == began else 1, step
            if tries == TRIES and bug is not None:
                raise RuntimeError(f"in a worker:\n{bug}") from error
            if tries == TRIES:
                reason = "killed, or out of memory" if is_loss_of_worker(error) else last_line(error)
                raise RunFailed(f"a worker has died {TRIES} times in a row after step {step}: {reason}.")
            show(Progress(step, job.config.steps, message=f"a worker has died; going on from step {step}"))


def outcome_of(progress_actor: ActorHandle) -> Outcome:
    """What the workers have told of their end; nothing, where the actor has died."""
    try:
        outcome: Outcome = ray.get(progress_actor.outcome.remote())  # type: ignore[assignment]
    except RayActorError:
        return None, None, None
    return outcome


def newest_step(folder: Path) -> int:
    newest = checkpoint.newest(folder)
    return 0 if newest is None else checkpoint.step_of(newest)


def unit_of(on_gpus: bool) -> str:
    """What Ray counts for each worker."""
    return "GPU" if on_gpus else "CPU"


def room_for(numbers: Sequence[int], on_gpus: bool, say: Callable[[str], None], interrupted: Callable[[], bool]) -> int:
    """The largest number of workers that there is room for now; the smallest one is waited for.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM.
        ClusterLost: see `Heartbeat`.
    """
    there = cluster.total(unit_of(on_gpus))
    for workers in reversed(numbers):
        if workers <= there and has_room(training_bundles(workers, on_gpus)):
            return workers
    wait_for_room(training_bundles(numbers[0], on_gpus), say, interrupted)
    return numbers[0]


class Watch:
    """Looks, while workers train, for what must end them or lets more of them train.

    Args:
        numbers: of workers that there may be, the fewest first.
        workers: that there are.
    """

    def __init__(
        self,
        progress_actor: ActorHandle,
        numbers: Sequence[int],
        workers: int,
        on_gpus: bool,
        interrupted: Callable[[], bool],
        show: Callable[[Progress], None],
    ) -> None:
        self.progress_actor, self.workers, self.interrupted, self.tell = progress_actor, workers, interrupted, show
        self.more = [number for number in numbers if number > workers]
        self.on_gpus, self.unit, self.reason = on_gpus, unit_of(on_gpus), ""
        self.steady_since: float | None = None
        self.first: tuple[float, int] | None = None
        self.left = 0.0
        """Seconds that the training has left."""

    def until_end(self, fitting: Future[Result], own: bool) -> BaseException | None:
        """Look until the group has ended; what went wrong in a worker.

        Args:
            own: whether the cluster is this command's own.

        Raises:
            KeyboardInterrupt: see `look`. What still runs ends with the connection to Ray.
            ClusterLost: see `Heartbeat`.
        """
        beat = heartbeat.Heartbeat()
        with polling(self.progress_actor, self.show):
            while not wait([fitting], LOOK).done:
                if beat.beats(OWN_PATIENCE if own and self.interrupted() else heartbeat.PATIENCE):
                    self.look()
        try:
            fitting.result()
        except (TrainingFailedError, RayActorError) as failed:  # the latter: Ray Train's own controller has died
            return innermost(failed)
        return None

    def show(self, progress: Progress) -> None:
        self.tell(progress)
        if progress.message:
            return
        now = time.monotonic()
        if self.first is None:
            self.first = now, progress.step
        began, step = self.first
        if progress.step > step:
            self.left = (progress.steps - progress.step) * (now - began) / (progress.step - step)

    def look(self) -> None:
        """Let the workers save and end if they must.

        Raises:
            KeyboardInterrupt: they were interrupted before they had begun.
        """
        if self.reason:
            return
        nodes: set[str] = ray.get(self.progress_actor.joined.remote())  # type: ignore[assignment]
        if self.interrupted():
            if not nodes:
                raise KeyboardInterrupt
            self.stop("interrupted")
        elif going := nodes & cluster.leaving():
            self.stop(f"{len(going)} machine(s) with workers are about to go")
        elif workers := self.room_for_more():
            self.stop(f"there is room for {workers} workers")

    def stop(self, reason: str) -> None:
        self.reason = reason
        ray.get(self.progress_actor.stop.remote())

    def room_for_more(self) -> int | None:
        """The number of workers that there has been room for some time, where they are worth a restart."""
        if not self.more or self.left < WORTH:
            return None
        free = cluster.free(self.unit)
        found = [number for number in self.more if number - self.workers <= free]
        now = time.monotonic()
        if not found:
            self.steady_since = None
        elif self.steady_since is None:
            self.steady_since = now
        elif now - self.steady_since >= STEADY and has_room(training_bundles(found[-1] - self.workers, self.on_gpus)):
            return found[-1]
        return None


@contextmanager
def ending_with_ray(own: bool, interrupted: Callable[[], bool]) -> Iterator[None]:
    """A SIGTERM to all processes of a command (`timeout`, systemd) ends a Ray of its own as well: no failure.

    Raises:
        KeyboardInterrupt: that has happened in the block.
    """
    try:
        yield
    except (ClusterLost, RayError) as error:
        if not (own and interrupted()):
            raise
        heartbeat.lost = True
        raise KeyboardInterrupt from error


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
