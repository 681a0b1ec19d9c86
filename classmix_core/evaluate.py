"""Run a network over a set of labelled images."""

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classmix_core.augment import normalise, to_float
from classmix_core.metrics import confusion_matrix


@torch.no_grad()
def predict(network: nn.Module, image_BCHW: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Label whole uint8 images.

    Args:
        size: H, W of the answer; logits are resized before the argmax. By default that of the images.

    Returns:
        int64 (B, H, W).
    """
    logits = network(normalise(to_float(image_BCHW)))
    if size is not None and size != tuple(logits.shape[-2:]):
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=True)
    return logits.argmax(1)


def evaluate(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    device: torch.device,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> Tensor:
    """Count pixels by label and prediction with the network in evaluation mode, where it is left.

    Args:
        batches: uint8 images (B, 3, H, W) and uint8 labels (B, H', W'); predictions are made at the labels' size.

    Returns:
        int64 (K, K) on `device`: row label, column prediction.
    """
    network.eval()
    matrix_KK = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)
    for image_BCHW, label_BHW in batches:
        label_BHW = label_BHW.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            size = (label_BHW.shape[-2], label_BHW.shape[-1])
            prediction = predict(network, image_BCHW.to(device, non_blocking=True), size)
        matrix_KK += confusion_matrix(prediction, label_BHW, num_classes)
    return matrix_KK
