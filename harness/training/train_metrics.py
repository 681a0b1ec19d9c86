"""Means of the losses and images per second since they were last logged, over all workers."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from classmix_core.classmix import StepResult


class TrainMetrics:
    """Means of the training curves over some steps, summed on the device and read at once."""

    def __init__(self, device: torch.device, images_per_step: int) -> None:
        self.sums = torch.zeros(4, device=device)
        self.count, self.images_per_step = 0, images_per_step
        self.start = time.monotonic()

    def add(self, result: StepResult) -> None:
        self.sums += torch.stack(tuple(result))
        self.count += 1

    def read(self, mean_over_workers: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The means since the last reading, over all workers, so that all see a loss that is not finite."""
        loss, labelled, unlabelled, lambda_ = mean_over_workers(self.sums / self.count).tolist()
        rate = self.count * self.images_per_step / (time.monotonic() - self.start)
        self.sums.zero_()
        self.count = 0
        self.restart_clock()
        return {
            "train/loss": loss,
            "train/loss_labelled": labelled,
            "train/loss_unlabelled": unlabelled,
            "train/lambda": lambda_,
            "train/images_per_second": rate,
        }

    def restart_clock(self) -> None:
        """Leave out what was no training step."""
        self.start = time.monotonic()
