"""What the teacher says about unlabelled images."""

import torch
from torch import Tensor, nn

from classmix_core.argmax import argmax


@torch.no_grad()
def pseudo_label(teacher: nn.Module, image_UCHW: Tensor) -> tuple[Tensor, Tensor]:
    """The teacher's label (uint8, the first of equals) and its probability (float32), both (U, H, W), of float images
    in 0..1."""
    label_UHW, below_UKHW = argmax(teacher(image_UCHW))
    return label_UHW, below_UKHW.exp_().sum(1).reciprocal_()
