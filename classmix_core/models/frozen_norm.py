"""Batch norm with frozen weights, or frozen weights and statistics, for small batches over pretrained weights."""

import torch.nn.functional as F
from torch import Tensor, nn

from classmix_core.config import BatchNormMode


class FrozenBatchNorm(nn.BatchNorm2d):
    """Normalises with its running statistics in both modes and never changes them.

    (torchvision's FrozenBatchNorm2d has buffers in place of parameters, and no counter: other names in checkpoints.)
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def freeze_batch_norm_(network: nn.Module, mode: BatchNormMode) -> None:
    """Freeze the batch norms of a network in place; the names of parameters and buffers remain.

    Args:
        mode: trained changes nothing; frozen_affine stops the gradient of weight and bias, and training still uses
            (and averages) the statistics of its batches, as ClassMix's authors do; frozen freezes the statistics too.
    """
    if mode == "trained":
        return
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if not isinstance(child, nn.BatchNorm2d):
                continue
            child.requires_grad_(False)
            if mode == "frozen":
                frozen = FrozenBatchNorm(child.num_features, child.eps, child.momentum).requires_grad_(False)
                frozen.load_state_dict(child.state_dict())
                setattr(parent, name, frozen)
