"""Where the training loop runs: this process, a Ray Train worker, or a Ray Tune trial. The loop knows none of them."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from harness.errors import TrialPruned


class Progress(NamedTuple):
    """What a running training shows."""

    step: int
    steps: int
    loss: float | None = None
    lambda_: float | None = None
    val_miou: float | None = None
    best: float | None = None


class TrainContext(Protocol):
    """What the loop needs of its surroundings."""

    rank: int
    world_size: int
    device: torch.device

    def wrap(self, model: nn.Module) -> nn.Module:
        """The student made data parallel."""
        ...

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all workers; also their barrier."""
        ...

    def show(self, progress: Progress) -> None:
        """Tell the user; cheap, called by rank 0 every few steps."""
        ...

    def report(self, metrics: dict[str, float]) -> None:
        """Called by every worker after each evaluation.

        Raises:
            TrialPruned: the trial of a search shall end here.
        """
        ...

    def stopping(self) -> bool:
        """Whether to save and stop after this step."""
        ...


@dataclass
class LocalContext:
    """One worker in this process."""

    device: torch.device
    show: Callable[[Progress], None]
    stopping: Callable[[], bool] = lambda: False
    rank: int = 0
    world_size: int = 1

    def wrap(self, model: nn.Module) -> nn.Module:
        return model

    def mean(self, value: Tensor) -> Tensor:
        return value

    def report(self, metrics: dict[str, float]) -> None:
        pass


@dataclass
class TrialContext(LocalContext):
    """One worker that is a trial of a search.

    Args:
        tell: passes a report to the search; False ends the trial.
    """

    tell: Callable[[dict[str, float]], bool] = lambda metrics: True

    def report(self, metrics: dict[str, float]) -> None:
        if not self.tell(metrics):
            raise TrialPruned


class RayTrainContext:
    """One of several workers of a Ray TorchTrainer.

    Args:
        progress_actor: handle of the actor that rank 0 tells its progress.
    """

    def __init__(self, progress_actor: Any) -> None:
        import ray.train
        import ray.train.torch

        ray_context = ray.train.get_context()
        self.rank, self.world_size = ray_context.get_world_rank(), ray_context.get_world_size()
        self.device = ray.train.torch.get_device()
        self.progress_actor = progress_actor

    def wrap(self, model: nn.Module) -> nn.Module:
        import ray.train.torch

        return ray.train.torch.prepare_model(model)

    def mean(self, value: Tensor) -> Tensor:
        value = value.clone()
        torch.distributed.all_reduce(value)
        return value / self.world_size

    def show(self, progress: Progress) -> None:
        self.progress_actor.put.remote(tuple(progress))

    def report(self, metrics: dict[str, float]) -> None:
        import ray.train

        ray.train.report(metrics)

    def stopping(self) -> bool:
        return False


class RayTrialContext(RayTrainContext):
    """One of several workers that are a trial of a search together."""

    def show(self, progress: Progress) -> None:
        pass

    def report(self, metrics: dict[str, float]) -> None:
        """Rank 0 tells the trial's actor through the progress_actor and waits for its answer, all others for rank 0."""
        import ray

        stop = torch.zeros(1, device=self.device)
        if self.rank == 0:
            number = ray.get(self.progress_actor.report.remote(metrics))
            while (answer := ray.get(self.progress_actor.answer.remote(number))) is None:
                time.sleep(0.02)
            stop += not answer
        if self.mean(stop).item() > 0:
            raise TrialPruned
