"""Logits of an image of any size: by windows, mirrored, at several scales.

Logits are averaged, not probabilities, as mmsegmentation does over its windows: one pass is then the plain forward to
the last bit, and one map of K x H x W is all that is kept.

Shapes: B batch, C = 3 channels, K classes, H W image, N windows.
"""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classmix_core.config import InferenceConfig, Size

WHOLE = InferenceConfig()
"""One pass over the whole image."""


def mean_logits(network: nn.Module, image_BCHW: Tensor, inference: InferenceConfig) -> Tensor:
    """Logits (B, K, H, W) of float images, averaged over the inference: float32 where there are several."""
    if len(inference.scales) == 1:
        return at_scale(network, image_BCHW, inference.scales[0], inference)
    total = at_scale(network, image_BCHW, inference.scales[0], inference).float()
    for scale in inference.scales[1:]:
        total += at_scale(network, image_BCHW, scale, inference)
    return total.div_(len(inference.scales))


def at_scale(network: nn.Module, image_BCHW: Tensor, scale: float, inference: InferenceConfig) -> Tensor:
    """Logits (B, K, H, W) from the images resized by a factor, resized back."""
    size = (image_BCHW.shape[-2], image_BCHW.shape[-1])
    scaled = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    if scaled == size:
        return at_size(network, image_BCHW, inference)
    resized = F.interpolate(image_BCHW, scaled, mode="bilinear", antialias=True)
    return F.interpolate(at_size(network, resized, inference), size, mode="bilinear")


def at_size(network: nn.Module, image_BCHW: Tensor, inference: InferenceConfig) -> Tensor:
    if inference.window is None:
        return forward(network, image_BCHW, inference.flip)
    stride = inference.stride or (round(2 * inference.window[0] / 3), round(2 * inference.window[1] / 3))
    return slide(network, image_BCHW, inference.window, stride, inference.batch, inference.flip)


def forward(network: nn.Module, image_BCHW: Tensor, flip: bool) -> Tensor:
    logits = network(image_BCHW)
    return (logits.float() + network(image_BCHW.flip(-1)).flip(-1)) / 2 if flip else logits


def slide(network: nn.Module, image_BCHW: Tensor, window: Size, stride: Size, batch: int, flip: bool) -> Tensor:
    """At each pixel the mean of the logits over the windows that cover it: float32 (B, K, H, W).

    Args:
        batch: windows of each image a forward pass.
    """
    count, (height, width) = len(image_BCHW), image_BCHW.shape[-2:]
    high, wide = min(window[0], height), min(window[1], width)
    tops, lefts = starts(height, high, stride[0]), starts(width, wide, stride[1])
    places = [(slice(top, top + high), slice(left, left + wide)) for top, left in product(tops, lefts)]
    total: Tensor | None = None
    for first in range(0, len(places), batch):
        some = places[first : first + batch]
        windows_NCHW = torch.cat([image_BCHW[..., rows, columns] for rows, columns in some])
        logits_NKHW = forward(network, windows_NCHW, flip)
        if total is None:
            total = torch.zeros(count, logits_NKHW.shape[1], height, width, device=logits_NKHW.device)
        for (rows, columns), logits_BKHW in zip(some, logits_NKHW.split(count), strict=True):
            total[..., rows, columns] += logits_BKHW
    assert total is not None
    cover_H, cover_W = cover(tops, high, height, total.device), cover(lefts, wide, width, total.device)
    return total.div_(cover_H[:, None] * cover_W)


def starts(length: int, window: int, step: int) -> list[int]:
    """Where windows start along one side: every `step`, and the last one flush with the border."""
    return [*range(0, length - window, step), length - window]


def cover(begin: list[int], window: int, length: int, device: torch.device) -> Tensor:
    """How many windows cover each place along one side: float32 (length,)."""
    count = torch.zeros(length, device=device)
    for start in begin:
        count[start : start + window] += 1
    return count
