"""Label images with a network, and count how often it is right."""

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classmix_core.argmax import argmax
from classmix_core.augment import to_float
from classmix_core.config import InferenceConfig, Size
from classmix_core.metrics import confusion_matrix
from classmix_core.sliding_window import WHOLE, mean_logits


@torch.no_grad()
def predict(
    network: nn.Module, image_BCHW: Tensor, size: Size | None = None, inference: InferenceConfig = WHOLE
) -> Tensor:
    """Label uint8 images.

    Args:
        size: H, W of the answer; logits are resized before the argmax. By default that of the images.
        inference: the passes over which the logits are averaged. With windows the images are run one by one, so that
            the logits of one alone are in memory.

    Returns:
        uint8 (B, H, W).
    """
    parts = split_for_memory(image_BCHW, inference)
    return torch.cat([argmax(resized_logits(network, part, size, inference))[0] for part in parts])


def split_for_memory(batch: Tensor, inference: InferenceConfig) -> tuple[Tensor, ...]:
    """The whole batch, or with windows its images as batches of one."""
    return (batch,) if inference.window is None else batch.split(1)


def resized_logits(network: nn.Module, image_BCHW: Tensor, size: Size | None, inference: InferenceConfig) -> Tensor:
    """Mean logits of uint8 images, resized to `size`, by default that of the images: float (B, K, *size).

    Corners are not aligned: `resize_image` and the windows' scales take the centres of pixels for the same places too,
    and logits that were put back otherwise would lie up to half a pixel of the small image beside what they label.
    """
    logits = mean_logits(network, to_float(image_BCHW), inference)
    if size is None or size == tuple(logits.shape[-2:]):
        return logits
    return F.interpolate(logits, size, mode="bilinear")


def evaluate(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    device: torch.device,
    precision: Literal["fp32", "bf16"] = "fp32",
    *,
    inference: InferenceConfig = WHOLE,
) -> Tensor:
    """Count pixels by label and prediction with the network in evaluation mode, where it is left.

    Args:
        batches: uint8 images (B, 3, H, W) and uint8 labels (B, H', W'); predictions are made at the labels' size.
        inference: as for `predict`.

    Returns:
        int64 (K, K) on `device`: row label, column prediction.
    """
    network.eval()
    matrix_KK = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
    for image_BCHW, label_BHW in batches:
        label_BHW = label_BHW.to(device, non_blocking=True)
        image_BCHW = image_BCHW.to(device, non_blocking=True)
        size = (label_BHW.shape[-2], label_BHW.shape[-1])
        parts = (split_for_memory(batch, inference) for batch in (image_BCHW, label_BHW))
        for image, label in zip(*parts, strict=True):
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                prediction = predict(network, image, size, inference)
            matrix_KK += confusion_matrix(prediction, label, num_classes)
    return matrix_KK
