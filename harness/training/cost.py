"""What a training costs: wall time, over all its tries, by the cores and GPUs that it keeps from others."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch

from harness.tracking.names import COST
from harness.tracking.run import Run
from harness.training.context import TrainContext


def cost(seconds: float, cores: float, gpus: float) -> dict[str, float]:
    """Metrics of a run, in hours."""
    hours = seconds / 3600
    return {f"{COST}core_hours": hours * cores} | ({f"{COST}gpu_hours": hours * gpus} if gpus else {})


class Cost:
    """Of a training, from now on.

    Args:
        context: whose workers compute with as many threads each as this one.
    """

    def __init__(self, context: TrainContext) -> None:
        self.context, self.start, self.before = context, time.monotonic(), 0.0
        """`before` is what earlier tries, maybe of more or fewer workers, took until their last checkpoint."""

    @property
    def worker_seconds(self) -> float:
        """Over all workers."""
        return self.before + (time.monotonic() - self.start) * self.context.world_size

    def metrics(self) -> dict[str, float]:
        gpus = self.context.gpu_share if self.context.device.type == "cuda" else 0
        return cost(self.worker_seconds, torch.get_num_threads(), gpus)

    @contextmanager
    def logged(self, run: Run | None, step: Callable[[], int]) -> Iterator[None]:
        """Log it when the block ends, however it ends, at the step that was reached."""
        try:
            yield
        finally:
            if run:
                with suppress(Exception):  # of an earlier call, which is no reason to hide why the block ended
                    run.metrics(step(), self.metrics())
