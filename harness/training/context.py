"""Where the training loop runs: this process, a Ray Train worker, or a Ray Tune trial. The loop knows none of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from classmix_core.workers import Awaited, already
from harness.errors import TrialPruned


class Progress(NamedTuple):
    """What a running training shows."""

    step: int
    steps: int
    loss: float | None = None
    lambda_: float | None = None
    val_miou: float | None = None
    best: float | None = None
    data_wait: float | None = None
    """Share of the time that was spent waiting for batches, 0..1."""
    message: str | None = None
    """What the user must be told, such as that a damaged checkpoint was passed over."""


class Workers(Protocol):
    """All workers, as one of them sees them."""

    rank: int
    world_size: int
    device: torch.device
    """Of the tensors that they exchange."""

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all workers."""
        ...


class TrainContext(Workers, Protocol):
    """What the loop needs of its surroundings."""

    gpu_share: float
    """Of the GPU that it computes on, if it does."""

    def aside(self) -> Workers:
        """The same workers, for another thread: what it exchanges does not meet what this one does."""
        ...

    def wrap(self, model: nn.Module) -> nn.Module:
        """The student made data parallel."""
        ...

    def mean_later(self, value: Tensor) -> Awaited:
        """Begin to average a tensor over all workers."""
        ...

    def from_next_worker(self, value: Tensor) -> Awaited:
        """Begin to fetch the tensor that the next worker passes; the last one gets that of the first."""
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


LONGEST = 1000
"""Bytes of a text that workers tell each other."""


def first_said(context: Workers, text: str) -> str:
    """The text of the first worker that has one, or none, for all of them. Returns when every worker has called it."""
    if context.world_size == 1:
        return text
    letters = text.encode()[:LONGEST]
    said = torch.zeros(context.world_size, LONGEST)
    said[context.rank, : len(letters)] = torch.tensor(list(letters), dtype=said.dtype)
    said = context.mean(said.to(context.device)) * context.world_size
    texts = (bytes(filter(None, row)).decode(errors="ignore") for row in said.round().int().tolist())
    return next(filter(None, texts), "")


@dataclass
class LocalContext:
    """One worker in this process."""

    device: torch.device
    show: Callable[[Progress], None]
    stopping: Callable[[], bool] = lambda: False
    rank: int = 0
    world_size: int = 1
    gpu_share: float = 1.0

    def aside(self) -> Workers:
        return self

    def wrap(self, model: nn.Module) -> nn.Module:
        return model

    def mean(self, value: Tensor) -> Tensor:
        return value

    def mean_later(self, value: Tensor) -> Awaited:
        return already(value)

    def from_next_worker(self, value: Tensor) -> Awaited:
        return already(value)

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
