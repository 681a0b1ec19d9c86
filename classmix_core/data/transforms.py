"""Resizing, zooming and cropping of an image, uint8 (3, H, W), and its label, uint8 (H, W)."""

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from classmix_core.config import Size
from classmix_core.constants import IGNORE_INDEX


def resize_image(image: Tensor, size: Size | None) -> Tensor:
    """Bilinear, with antialiasing; None leaves the image as it is."""
    if size is None:
        return image
    from torchvision.transforms.v2 import functional  # a second, which images of the right size do not need

    return functional.resize_image(image, list(size), antialias=True)


def resize_label(label: Tensor, size: Size | None) -> Tensor:
    """The nearest pixel of the label, which so gains no value; None leaves the label as it is."""
    if size is None:
        return label
    return F.interpolate(label[None, None], list(size), mode="nearest-exact")[0, 0]


def zoom(image: Tensor, label: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """Image and label resized by a factor above 0, each side to at least 1 pixel."""
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[2] * factor)))
    return resize_image(image, size), resize_label(label, size)


def random_crop(image: Tensor, label: Tensor, size: Size, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Cut `size` from a random place; what is too small is padded right and below with 0 and label IGNORE_INDEX."""
    height, width = size
    top = int(rng.integers(0, max(image.shape[1] - height, 0) + 1))
    left = int(rng.integers(0, max(image.shape[2] - width, 0) + 1))
    window = (slice(top, top + height), slice(left, left + width))
    image, label = image[:, window[0], window[1]], label[window]
    padding = (0, width - label.shape[1], 0, height - label.shape[0])
    return F.pad(image, padding), F.pad(label, padding, value=IGNORE_INDEX)
