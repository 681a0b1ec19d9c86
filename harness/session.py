"""Where the training loop runs: this process, a Ray Train worker, or a Ray Tune trial. The loop knows none of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn


class Progress(NamedTuple):
    """What a running training shows."""

    step: int
    steps: int
    loss: float | None = None
    lambda_: float | None = None
    val_miou: float | None = None
    best: float | None = None


class Session(Protocol):
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
        """Called by every worker after each evaluation; a search may end the trial here by raising SystemExit."""
        ...

    def stopping(self) -> bool:
        """Whether to save and stop after this step."""
        ...


@dataclass
class LocalSession:
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
class TrialSession(LocalSession):
    """One worker that is a trial of a search."""

    def report(self, metrics: dict[str, float]) -> None:
        from ray import tune

        tune.report(metrics)


class TrainSession:
    """One of several workers of a Ray TorchTrainer.

    Args:
        board: handle of the actor that rank 0 tells its progress.
    """

    def __init__(self, board: Any) -> None:
        import ray.train
        import ray.train.torch

        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        self.board = board

    def wrap(self, model: nn.Module) -> nn.Module:
        import ray.train.torch

        return ray.train.torch.prepare_model(model)

    def mean(self, value: Tensor) -> Tensor:
        value = value.clone()
        torch.distributed.all_reduce(value)
        return value / self.world_size

    def show(self, progress: Progress) -> None:
        self.board.put.remote(tuple(progress))

    def report(self, metrics: dict[str, float]) -> None:
        import ray.train

        ray.train.report(metrics)

    def stopping(self) -> bool:
        return False
