"""The two losses, and lambda, the weight of the second.

Shapes: B batch, K classes, H W image. Labels equal to IGNORE_INDEX count nowhere, neither as loss nor in a mean.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from classmix_core.config import Weight
from classmix_core.constants import IGNORE_INDEX

SOME = 1e-6
"""Of a mean number of pixels; what is divided by it is 0 where there are none."""


def is_valid(label: Tensor) -> Tensor:
    """bool, where an integer label is not IGNORE_INDEX. (A CPU compares one by one, and does sums 10 times as fast.)"""
    return (IGNORE_INDEX - label).clamp_(max=1).to(torch.uint8).view(torch.bool)


class PixelCrossEntropy(torch.autograd.Function):
    """`pixel_loss` of float32 logits. Its one map of all classes, the odds against the likeliest, becomes the gradient
    in place, where torch's cross-entropy fills three: on a CPU that takes half of the time. Gradients differ by
    rounding, less than 3e-7 of the largest."""

    @staticmethod
    def forward(ctx: Any, logits_BKHW: Tensor, label_BHW: Tensor) -> Tensor:
        top_B1HW = logits_BKHW.amax(1, keepdim=True)
        odds_BKHW = (logits_BKHW - top_B1HW).exp_()
        total_B1HW = odds_BKHW.sum(1, keepdim=True)
        index_B1HW = label_BHW.unsqueeze(1).clamp(max=logits_BKHW.shape[1] - 1).long()
        valid_B1HW = is_valid(label_BHW.unsqueeze(1)).float()
        ctx.save_for_backward(odds_BKHW, index_B1HW, valid_B1HW, valid_B1HW / total_B1HW)
        return (top_B1HW.sub_(logits_BKHW.gather(1, index_B1HW)).add_(total_B1HW.log_()).mul_(valid_B1HW)).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BHW: Tensor) -> tuple[Tensor, None]:
        odds_BKHW, index_B1HW, valid_B1HW, valid_over_total_B1HW = ctx.saved_tensors
        gradient_B1HW = gradient_BHW.unsqueeze(1)
        gradient_BKHW = odds_BKHW.mul_(gradient_B1HW * valid_over_total_B1HW)
        return gradient_BKHW.scatter_add_(1, index_B1HW, -gradient_B1HW * valid_B1HW), None


def pixel_loss(logits_BKHW: Tensor, label_BHW: Tensor) -> Tensor:
    """Cross-entropy of every pixel, float32 (B, H, W), 0 where the label is IGNORE_INDEX. Its gradient can be had
    once."""
    loss: Tensor = PixelCrossEntropy.apply(logits_BKHW.float(), label_BHW)
    return loss


def labelled_loss(loss_BHW: Tensor, valid_pixels: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled pixels (ClassMix, equation 3, first term).

    Args:
        loss_BHW: of `pixel_loss`.
        valid_pixels: scalar, the number of pixels that are not IGNORE_INDEX; with several workers its mean over them,
            which makes the average of their gradients the gradient of the mean over all pixels.
    """
    return loss_BHW.sum() / valid_pixels.clamp(min=SOME)


def consistency_loss(loss_BHW: Tensor, weight: Tensor, valid_pixels: Tensor) -> Tensor:
    """Mean over the pixels of lambda times cross-entropy (ClassMix, equation 3, second term).

    Args:
        loss_BHW: of `pixel_loss`, of the mixed images.
        weight: lambda, broadcastable to (B, H, W), 0..1.
        valid_pixels: scalar, as in `labelled_loss`.
    """
    return (weight * loss_BHW).sum() / valid_pixels.clamp(min=SOME)


def consistency_weight(
    kind: Weight, confident_BHW: Tensor, valid_BHW: Tensor, confident_share: Tensor, ramp: float
) -> Tensor:
    """Lambda (ClassMix, section 3.2), broadcastable to (B, H, W) and never leaving the device.

    Args:
        kind: image: the share of confident pixels in each image (the paper); batch: the share over all images (the
            authors' code); pixel: 1 where the pixel is confident; ramp: `ramp`; constant: 1.
        confident_BHW: bool (B, H, W), valid and with a confidence of at least tau.
        valid_BHW: bool (B, H, W).
        confident_share: scalar, confident over valid pixels, of all images of all workers.
        ramp: 0..1, see `sigmoid_ramp`.
    """
    if kind == "image":
        return confident_BHW.sum((1, 2), keepdim=True) / valid_BHW.sum((1, 2), keepdim=True).clamp(min=1)
    if kind == "batch":
        return confident_share
    if kind == "pixel":
        return confident_BHW.float()
    return torch.full((), ramp if kind == "ramp" else 1.0, device=confident_BHW.device)


def sigmoid_ramp(progress: float) -> float:
    """exp(-5 (1 - progress)^2), progress cut to 0..1: from 0.0067 up to 1 (Laine & Aila, 2017)."""
    return math.exp(-5 * (1 - min(max(progress, 0.0), 1.0)) ** 2)
