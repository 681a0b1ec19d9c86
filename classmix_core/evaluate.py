"""Run a network over a set of labelled images."""

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classmix_core.augment import to_float
from classmix_core.config import InferenceConfig
from classmix_core.metrics import confusion_matrix
from classmix_core.sliding_window import WHOLE, mean_logits


@torch.no_grad()
def predict(
    network: nn.Module, image_BCHW: Tensor, size: tuple[int, int] | None = None, inference: InferenceConfig = WHOLE
) -> Tensor:
    """Label uint8 images.

    Args:
        size: H, W of the answer; logits are resized before the argmax. By default that of the images.
        inference: the passes over which the logits are averaged. With windows the images are taken one by one, so that
            no more than the class maps of one are held.

    Returns:
        int64 (B, H, W).
    """
    return torch.cat(
        [mean_logits_at(network, part, size, inference).argmax(1) for part in pieces(image_BCHW, inference)]
    )


def pieces(batch: Tensor, inference: InferenceConfig) -> tuple[Tensor, ...]:
    """The batch whole, or, where windows bound the memory, its images as batches of one."""
    return (batch,) if inference.window is None else batch.split(1)


def mean_logits_at(
    network: nn.Module, image_BCHW: Tensor, size: tuple[int, int] | None, inference: InferenceConfig
) -> Tensor:
    logits = mean_logits(network, to_float(image_BCHW), inference)
    if size is None or size == tuple(logits.shape[-2:]):
        return logits
    return F.interpolate(logits, size, mode="bilinear", align_corners=True)


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
        for image, label in zip(pieces(image_BCHW, inference), pieces(label_BHW, inference), strict=True):
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                prediction = predict(network, image, size, inference)
            matrix_KK += confusion_matrix(prediction, label, num_classes)
    return matrix_KK
