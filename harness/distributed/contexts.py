"""The training loop's context in a Ray Train worker, and the actor that carries rank 0's progress and reports to the
driver, and the answers back."""

import threading
import time
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor, nn

from classmix_core.workers import Awaited, from_next_worker, mean_later, mean_over_workers
from harness.errors import RunFailed, TrialPruned
from harness.training.context import Progress, Workers

Outcome = tuple[dict[str, float] | None, RunFailed | None, str | None]
"""Of a training: its last metrics, or why it cannot go on, or the traceback of what else went wrong."""


@ray.remote(num_cpus=0)
class ProgressActor:
    """What rank 0 shows and reports, and its result; the driver polls it, and answers reports."""

    def __init__(self) -> None:
        self.progress: list[Progress] = []
        self.result: dict[str, float] | None = None
        self.failure: RunFailed | None = None
        self.reports: list[dict[str, float]] = []
        self.answers: dict[int, bool] = {}
        self.closed = False
        self.traceback: str | None = None
        self.nodes: set[str] = set()
        self.shall_stop = False

    def join(self, node: str) -> None:
        """A worker has begun, on this node."""
        self.nodes.add(node)

    def joined(self) -> set[str]:
        """The nodes of the workers, by id."""
        return self.nodes

    def stop(self) -> None:
        """The training shall be saved after the step that it is in, and end."""
        self.shall_stop = True

    def stops(self) -> bool:
        return self.shall_stop

    def note_traceback(self, text: str) -> None:
        """Of an error that is a bug or a fault of the machine."""
        self.traceback = text

    def put(self, progress: Progress) -> None:
        self.progress.append(progress)

    def take(self) -> list[Progress]:
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

    def end(self, result: dict[str, float] | None, failure: RunFailed | None) -> None:
        self.result, self.failure = result, failure

    def outcome(self) -> Outcome:
        return self.result, self.failure, self.traceback


def start_progress_actor() -> Any:
    """On the node of this process, if it can be: on another it would die with that one, and the training for it."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ProgressActor.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]


class StopSignal:
    """Tells all workers in the same step that they shall stop.

    Rank 0 hears of it in a thread. In each step all workers begin to exchange whether it has, on a group of their own
    that the device knows nothing of, and read the answer of the step before: it has come by then, so that no worker
    waits, neither for the others nor for its device.
    """

    EVERY = 0.25
    """Seconds between two questions of rank 0."""

    def __init__(self, rank: int, world_size: int, progress_actor: ActorHandle) -> None:
        self.rank, self.world_size, self.progress_actor = rank, world_size, progress_actor
        self.heard = threading.Event()
        self.begun = False
        self.group: Any = None
        self.exchange: tuple[Tensor, Any] | None = None

    def begin(self) -> None:
        self.begun = True
        if self.rank == 0:
            threading.Thread(target=self.listen, daemon=True).start()
        if self.world_size > 1:
            self.group = dist.new_group(backend="gloo")

    def listen(self) -> None:
        while not self.heard.wait(self.EVERY):
            try:
                if ray.get(self.progress_actor.stops.remote()):
                    self.heard.set()
            except ray.exceptions.RayError:
                return  # the driver is gone, and this worker goes with it

    def seen(self) -> bool:
        """Called by all workers equally often; the same answer for all of them."""
        if not self.begun:
            self.begin()
        if self.group is None:
            return self.heard.is_set()
        flag, before = torch.tensor(float(self.heard.is_set())), self.exchange
        self.exchange = flag, dist.all_reduce(flag, dist.ReduceOp.MAX, self.group, async_op=True)
        if before is None:
            return False
        answer, work = before
        work.wait()
        return answer.item() > 0


class GroupOfOwn:
    """The workers in a group of their own, on the CPU: for a thread beside the one that trains."""

    device = torch.device("cpu")

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self.group: Any = dist.new_group(backend="gloo") if world_size > 1 else None

    def mean(self, value: Tensor) -> Tensor:
        if self.group is None:
            return value
        value = value.clone()
        dist.all_reduce(value, group=self.group)
        return value / self.world_size


class RayTrainContext:
    """One of several workers of a Ray TorchTrainer.

    Args:
        progress_actor: handle of the actor that rank 0 tells its progress.
    """

    gpu_share = 1.0

    def __init__(self, progress_actor: ActorHandle) -> None:
        ray_context = ray.train.get_context()
        self.rank, self.world_size = ray_context.get_world_rank(), ray_context.get_world_size()
        self.device = ray.train.torch.get_device()
        self.progress_actor = progress_actor
        self.stop = StopSignal(self.rank, self.world_size, progress_actor)
        progress_actor.join.remote(ray.get_runtime_context().get_node_id())

    def aside(self) -> Workers:
        return GroupOfOwn(self.rank, self.world_size)

    def wrap(self, model: nn.Module) -> nn.Module:
        # each worker keeps running statistics of its own, and the trainer averages them: rank 0's would count alone
        return ray.train.torch.prepare_model(model, parallel_strategy_kwargs={"broadcast_buffers": False})

    def mean(self, value: Tensor) -> Tensor:
        return mean_over_workers(value)

    def mean_later(self, value: Tensor) -> Awaited:
        return mean_later(value)

    def from_next_worker(self, value: Tensor) -> Awaited:
        return from_next_worker(value)

    def show(self, progress: Progress) -> None:
        self.progress_actor.put.remote(progress)

    def report(self, metrics: dict[str, float]) -> None:
        pass  # nobody asks Ray for it, and it would wait for Ray's next look at its workers

    def stopping(self) -> bool:
        return self.stop.seen()


class RayTrialContext(RayTrainContext):
    """One of several workers that are a trial of a search together."""

    def stopping(self) -> bool:
        return False

    def show(self, progress: Progress) -> None:
        pass

    def report(self, metrics: dict[str, float]) -> None:
        """Rank 0 tells the trial's process through the actor and waits for its answer, all others for rank 0."""
        stop = torch.zeros(1, device=self.device)
        if self.rank == 0:
            number: int = ray.get(self.progress_actor.report.remote(metrics))  # type: ignore[assignment]
            while (answer := ray.get(self.progress_actor.answer.remote(number))) is None:
                time.sleep(0.02)
            stop += not answer
        if self.mean(stop).item() > 0:
            raise TrialPruned
