"""The two losses, and lambda, the weight of the second.

Shapes: B batch, K classes, H W image. Labels equal to IGNORE_INDEX count nowhere, neither as loss nor in a mean.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from classmix_core.config import Weight
from classmix_core.constants import IGNORE_INDEX

SOME = 1e-6
"""Of a mean number of pixels; what is divided by it is 0 where there are none."""


def pixel_loss(logits_BKHW: Tensor, label_BHW: Tensor) -> Tensor:
    """Cross-entropy of every pixel, float32 (B, H, W), 0 where the label is IGNORE_INDEX."""
    return F.cross_entropy(logits_BKHW.float(), label_BHW.long(), ignore_index=IGNORE_INDEX, reduction="none")


def labelled_loss(logits_BKHW: Tensor, label_BHW: Tensor, valid_pixels: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled pixels (ClassMix, equation 3, first term).

    Args:
        logits_BKHW: float (B, K, H, W).
        label_BHW: integer (B, H, W), 0..K-1 or IGNORE_INDEX.
        valid_pixels: scalar, the number of pixels that are not IGNORE_INDEX; with several workers its mean over them,
            which makes the average of their gradients the gradient of the mean over all pixels.
    """
    return pixel_loss(logits_BKHW, label_BHW).sum() / valid_pixels.clamp(min=SOME)


def consistency_loss(logits_BKHW: Tensor, pseudo_label_BHW: Tensor, weight: Tensor, valid_pixels: Tensor) -> Tensor:
    """Mean over the pixels of lambda times cross-entropy (ClassMix, equation 3, second term).

    Args:
        logits_BKHW: float (B, K, H, W), the student's, of the mixed images.
        pseudo_label_BHW: integer (B, H, W), 0..K-1 or IGNORE_INDEX.
        weight: lambda, broadcastable to (B, H, W), 0..1.
        valid_pixels: scalar, as in `labelled_loss`.
    """
    return (weight * pixel_loss(logits_BKHW, pseudo_label_BHW)).sum() / valid_pixels.clamp(min=SOME)


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
