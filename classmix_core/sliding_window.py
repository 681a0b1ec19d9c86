"""Logits of an image of any size, averaged over passes: by windows, mirrored, at several scales.

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
    """Logits (B, K, H, W) of float RGB images 0..1, averaged over the passes that `inference` asks for.

    They are float32; those of a single pass without windows keep the dtype of the network.
    """
    if len(inference.scales) == 1:
        return logits_at_scale(network, image_BCHW, inference.scales[0], inference)
    total = logits_at_scale(network, image_BCHW, inference.scales[0], inference).float()
    for scale in inference.scales[1:]:
        total += logits_at_scale(network, image_BCHW, scale, inference)
    return total.div_(len(inference.scales))


def logits_at_scale(network: nn.Module, image_BCHW: Tensor, scale: float, inference: InferenceConfig) -> Tensor:
    """Logits of the images resized by a factor; the logits are resized back to (B, K, H, W)."""
    size = (image_BCHW.shape[-2], image_BCHW.shape[-1])
    scaled = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    if scaled == size:
        return whole_or_windows(network, image_BCHW, inference)
    resized = F.interpolate(image_BCHW, scaled, mode="bilinear", antialias=True)
    return F.interpolate(whole_or_windows(network, resized, inference), size, mode="bilinear")


def whole_or_windows(network: nn.Module, image_BCHW: Tensor, inference: InferenceConfig) -> Tensor:
    """Logits of the images as large as they are: in one piece, or by windows."""
    if inference.window is None:
        return forward(network, image_BCHW, inference.flip)
    stride = inference.stride or (round(2 * inference.window[0] / 3), round(2 * inference.window[1] / 3))
    return slide(network, image_BCHW, inference.window, stride, inference.batch, inference.flip)


def forward(network: nn.Module, image_BCHW: Tensor, flip: bool) -> Tensor:
    """One pass, or with `flip` the float32 mean of it and of one over the mirrored images."""
    logits = network(image_BCHW)
    return (logits.float() + network(image_BCHW.flip(-1)).flip(-1)) / 2 if flip else logits


def slide(network: nn.Module, image_BCHW: Tensor, window: Size, stride: Size, batch: int, flip: bool) -> Tensor:
    """At each pixel the mean of the logits over the windows that cover it: float32 (B, K, H, W).

    Args:
        batch: how many windows of each image are in one forward pass.
    """
    images, (height, width) = len(image_BCHW), image_BCHW.shape[-2:]
    high, wide = min(window[0], height), min(window[1], width)
    tops, lefts = window_starts(height, high, stride[0]), window_starts(width, wide, stride[1])
    places = [(slice(top, top + high), slice(left, left + wide)) for top, left in product(tops, lefts)]
    total: Tensor | None = None
    for first in range(0, len(places), batch):
        some = places[first : first + batch]
        windows_NCHW = torch.cat([image_BCHW[..., rows, columns] for rows, columns in some])
        logits_NKHW = forward(network, windows_NCHW, flip)
        if total is None:
            total = torch.zeros(images, logits_NKHW.shape[1], height, width, device=logits_NKHW.device)
        for (rows, columns), logits_BKHW in zip(some, logits_NKHW.split(images), strict=True):
            total[..., rows, columns] += logits_BKHW
    assert total is not None
    count_H = windows_per_pixel(tops, high, height, total.device)
    count_W = windows_per_pixel(lefts, wide, width, total.device)
    return total.div_(count_H[:, None] * count_W)


def window_starts(length: int, window: int, step: int) -> list[int]:
    """Where windows start along one side: every `step` pixels, and the last one where it ends at the border."""
    return [*range(0, length - window, step), length - window]


def windows_per_pixel(starts: list[int], window: int, length: int, device: torch.device) -> Tensor:
    """How many windows cover each pixel along one side: float32 (length,)."""
    count = torch.zeros(length, device=device)
    for start in starts:
        count[start : start + window] += 1
    return count
