"""Means of the losses, images per second and the wait for data since they were last logged, over all workers."""

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from classmix_core.classmix import Batch, StepResult


class TrainMetrics:
    """Means of the training curves over some steps, summed on the device and read at once."""

    def __init__(self, device: torch.device, images_per_step: int) -> None:
        self.sums = torch.zeros(4, device=device)
        self.count, self.images_per_step = 0, images_per_step
        self.restart_clock()

    def next_of(self, batches: Iterator[Batch]) -> Batch:
        """The next batch, and how long it was waited for."""
        began = time.monotonic()
        batch = next(batches)
        self.waited += time.monotonic() - began
        return batch

    def add(self, result: StepResult) -> None:
        self.sums += torch.stack(tuple(result))
        self.count += 1

    def read(self, mean_over_workers: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The means since the last reading, over all workers, so that all see a loss that is not finite."""
        seconds = time.monotonic() - self.start
        own = torch.cat((self.sums / self.count, self.sums.new_tensor([self.waited / seconds])))
        loss, labelled, unlabelled, lambda_, data_wait = mean_over_workers(own).tolist()
        rate = self.count * self.images_per_step / seconds
        self.sums.zero_()
        self.count = 0
        self.restart_clock()
        return {
            "train/loss": loss,
            "train/loss_labelled": labelled,
            "train/loss_unlabelled": unlabelled,
            "train/lambda": lambda_,
            "train/images_per_second": rate,
            "train/data_wait": data_wait,
        }

    def restart_clock(self) -> None:
        """Leave out what was no training step."""
        self.start, self.waited = time.monotonic(), 0.0
