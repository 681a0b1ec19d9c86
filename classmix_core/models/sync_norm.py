"""Batch norm over the images of all workers. (torch's own SyncBatchNorm runs on GPUs alone, timm's layers apart.)"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from classmix_core.models.frozen_norm import FrozenBatchNorm

Mean = Callable[[Tensor], Tensor]


def synchronise_batch_norm_(network: nn.Module, mean_over_workers: Mean, world_size: int) -> None:
    """Let each batch norm of `network`, which is changed in place, use the statistics of all workers while it trains.

    Those that never use statistics of a batch stay as they are.

    Args:
        mean_over_workers: averages a float tensor over the workers, which call it in the same order.
        world_size: the number of workers; 1 gives every worker its own statistics back.
    """
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            frozen = isinstance(child, FrozenBatchNorm)
            if isinstance(child, nn.BatchNorm2d) and child.affine and child.track_running_stats and not frozen:
                setattr(parent, name, SyncBatchNorm(child, mean_over_workers, world_size))


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch norm whose statistics, where it trains, are those of the images of all workers, of which each has as many.

    Args:
        norm: whose weights and running statistics it takes over, and, if it is timm's, what follows the norm there.
    """

    def __init__(self, norm: nn.BatchNorm2d, mean_over_workers: Mean, world_size: int) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.weight, self.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            setattr(self, name, buffer)
        self.drop, self.act = (getattr(norm, name, nn.Identity()) for name in ("drop", "act"))
        self.mean_over_workers, self.world_size = mean_over_workers, world_size
        self.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) of any float dtype to the same; computed in float32."""
        return self.act(self.drop(self.normalised(input) if self.training else super().forward(input)))

    def normalised(self, input: Tensor) -> Tensor:
        value = input.float()
        mean_C = WorkerMean.apply(value.mean((0, 2, 3)), self.mean_over_workers)
        centred = value - mean_C.view(-1, 1, 1)
        variance_C = WorkerMean.apply(centred.square().mean((0, 2, 3)), self.mean_over_workers)
        self.update_running_statistics(mean_C, variance_C, self.world_size * input.numel() // input.shape[1])
        scale_C = self.weight * (variance_C + self.eps).rsqrt()
        return (centred * scale_C.view(-1, 1, 1) + self.bias.view(-1, 1, 1)).to(input.dtype)

    @torch.no_grad()
    def update_running_statistics(self, mean_C: Tensor, variance_C: Tensor, pixels: int) -> None:
        """Move them as torch does: the variance is that of a sample."""
        assert self.running_mean is not None and self.running_var is not None  # noqa: PT018
        assert self.num_batches_tracked is not None and self.momentum is not None  # noqa: PT018
        self.running_mean.lerp_(mean_C, self.momentum)
        self.running_var.lerp_(variance_C * (pixels / max(pixels - 1, 1)), self.momentum)
        self.num_batches_tracked += 1


class WorkerMean(torch.autograd.Function):
    """The mean over all workers, and through it the gradient: the mean of theirs, since the gradients of the weights
    are averaged over the workers afterwards."""

    @staticmethod
    def forward(context: Any, value: Tensor, mean_over_workers: Mean) -> Tensor:
        context.mean_over_workers = mean_over_workers
        return mean_over_workers(value)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return context.mean_over_workers(gradients[0]), None
