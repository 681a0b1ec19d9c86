"""Augmentation of whole batches on their device: weak (geometry, images with labels) and strong (colour, images alone).

Random values come from the given generator, one set an image; no loop over images, no host sync.

Shapes: B batch, C = 3 channels, H W image. Images are float RGB in 0..1.
"""

import math
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from classmix_core.batch_generator import BatchGenerator
from classmix_core.mixing import paste

LUMA = (0.299, 0.587, 0.114)
RGB_TO_YIQ = (LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def colour_parts() -> tuple[tuple[float, ...], ...]:
    """Three matrices, RGB to RGB, each as 9 numbers: what keeps the luma Y alone, what keeps I and Q alone, and what
    turns I and Q by a quarter. A turn by any angle with a change of saturation is a sum of them."""
    to_yiq_33 = torch.tensor(RGB_TO_YIQ, dtype=torch.float64)
    luma, chroma = ((1, 0, 0), (0, 0, 0), (0, 0, 0)), ((0, 0, 0), (0, 1, 0), (0, 0, 1))
    quarter = ((0, 0, 0), (0, 0, -1), (0, 1, 0))
    parts_333 = to_yiq_33.inverse() @ torch.tensor((luma, chroma, quarter), dtype=torch.float64) @ to_yiq_33
    return tuple(map(tuple, parts_333.view(3, 9).tolist()))


COLOUR = colour_parts()

BLUR_RADIUS_MIN = 4
"""Pixels each side of the narrowest kernel, of 9 taps."""
BLUR_SIGMAS = 3.4
"""Standard deviations of the widest blur that a kernel covers at least on each side: all but 0.07% of its weight."""
BLUR_SIGMA_MIN = 0.15


@lru_cache
def constant(values: tuple[Any, ...], device: torch.device) -> Tensor:
    """float32 numbers, copied to a device once: each copy from the host waits for the device."""
    return torch.tensor(values, device=device)


def to_float(image_BCHW: Tensor) -> Tensor:
    """uint8 0..255 to float32 0..1."""
    return image_BCHW.float().div_(255)


def flip(image_BCHW: Tensor, label_BHW: Tensor, generator: BatchGenerator) -> tuple[Tensor, Tensor]:
    """Mirror each image and its labels left to right with probability 1/2."""
    flip_B = generator.rand(len(image_BCHW)) < 0.5
    return paste(image_BCHW.flip(-1), image_BCHW, flip_B), paste(label_BHW.flip(-1), label_BHW, flip_B)


def color_jitter(image_BCHW: Tensor, strength: float, probability: float, generator: BatchGenerator) -> Tensor:
    """Change brightness, contrast, saturation and hue of each image, in this order.

    The factors are U(1 - strength, 1 + strength), the hue turns by U(-strength, strength) of a full circle in the IQ
    plane. All four are affine in RGB, so they are one 3 x 4 matrix an image and one pass over memory; values are cut to
    0..1 once, at the end.
    """
    batch = len(image_BCHW)
    factor_B = 1 + strength * (2 * generator.rand(4, batch, batch_dim=1) - 1)
    apply_B = generator.rand(batch) < probability
    factor_B = torch.where(apply_B, factor_B, 1.0)
    matrix_B33, offset_B31 = jitter_matrix(image_BCHW.mean((2, 3)), *factor_B.unbind())
    jittered_B3N = torch.baddbmm(offset_B31, matrix_B33, image_BCHW.flatten(2))
    return jittered_B3N.clamp_(0, 1).view(image_BCHW.shape)


def jitter_matrix(
    mean_BC: Tensor, brightness_B: Tensor, contrast_B: Tensor, saturation_B: Tensor, hue_B: Tensor
) -> tuple[Tensor, Tensor]:
    """The matrix (B, 3, 3) and offset (B, 3, 1) of a colour jitter.

    Args:
        mean_BC: mean colour of each image; contrast pulls towards its luma.
        brightness_B, contrast_B, saturation_B: factors, 1 leaves as is.
        hue_B: 1 plus the turn in full circles.
    """
    luma_3, mixture_39 = (constant(values, mean_BC.device) for values in (LUMA, COLOUR))
    angle_B = 2 * torch.pi * (hue_B - 1)
    parts_B3 = torch.stack((torch.ones_like(hue_B), saturation_B * angle_B.cos(), saturation_B * angle_B.sin()), 1)
    scale_B11 = (contrast_B * brightness_B).view(-1, 1, 1)
    offset_B = (1 - contrast_B) * brightness_B * (mean_BC @ luma_3)  # grey, which saturation and hue leave as it is
    return (parts_B3 @ mixture_39).view(-1, 3, 3) * scale_B11, offset_B.view(-1, 1, 1).expand(-1, 3, 1)


def gaussian_blur(image_BCHW: Tensor, sigma_max: float, probability: float, generator: BatchGenerator) -> Tensor:
    """Blur each image with its own sigma, U(0.15, sigma_max) pixels: two passes, edges mirrored; of any size."""
    draw_B, coin_B = generator.rand(2, len(image_BCHW), 1, batch_dim=1)
    sigma_B1 = BLUR_SIGMA_MIN + (sigma_max - BLUR_SIGMA_MIN) * draw_B
    radius = max(BLUR_RADIUS_MIN, math.ceil(BLUR_SIGMAS * sigma_max))
    taps_T = torch.arange(-radius, radius + 1, device=image_BCHW.device)
    kernel_BT = torch.exp(-(taps_T**2) / (2 * sigma_B1**2))
    kernel_BT = torch.where(coin_B < probability, kernel_BT, (taps_T == 0).float())
    kernel_BT = kernel_BT / kernel_BT.sum(1, keepdim=True)
    return correlate(correlate(image_BCHW, kernel_BT, 3), kernel_BT, 2)


def correlate(image_BCHW: Tensor, kernel_BT: Tensor, dim: int) -> Tensor:
    """Each image with its own kernel of T taps, an odd number, along H (2) or W (3); edges mirrored.

    One addition a tap: on a CPU 2 to 6 times as fast as a grouped convolution, which computes the same.
    """
    length, taps = image_BCHW.shape[dim], kernel_BT.shape[1]
    padded = pad_mirrored(image_BCHW, dim, taps // 2)
    first, *others = kernel_BT.view(-1, taps, 1, 1, 1).unbind(1)
    total = padded.narrow(dim, 0, length) * first
    for place, weight in enumerate(others, 1):
        total.addcmul_(padded.narrow(dim, place, length), weight)
    return total


def pad_mirrored(image_BCHW: Tensor, dim: int, pad: int) -> Tensor:
    """Images with `pad` more pixels at both ends of H (2) or W (3), mirrored there as often as it takes."""
    length = image_BCHW.shape[dim]
    if length > pad:  # the same, twice as fast
        return F.pad(image_BCHW, (pad, pad, 0, 0) if dim == 3 else (0, 0, pad, pad), mode="reflect")
    period = max(2 * (length - 1), 1)
    place = torch.arange(-pad, length + pad, device=image_BCHW.device) % period
    return image_BCHW.index_select(dim, torch.minimum(place, period - place))
