"""What the teacher says about unlabelled images."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def pseudo_label(teacher: nn.Module, image_UCHW: Tensor) -> tuple[Tensor, Tensor]:
    """The teacher's label (uint8, the first of equals) and its probability (float32), both (U, H, W), of float images
    in 0..1. Its logits are overwritten, since at 512 x 1024 a second map of all classes takes a third of the time."""
    below_UKHW = teacher(image_UCHW).float()
    below_UKHW.sub_(below_UKHW.amax(1, keepdim=True))
    label_UHW = first_zero(below_UKHW)
    return label_UHW, below_UKHW.exp_().sum(1).reciprocal_()


def first_zero(below_UKHW: Tensor) -> Tensor:
    """uint8 (U, H, W), the first class whose value is 0 where all others are negative; K - 1 where none is.

    As integers, the bits of 0 are 0 and those of negative numbers are far below: with K - k added the largest tells k.
    On a CPU that is 5 times as fast as a comparison and 40 times as fast as argmax.
    """
    bits_UKHW, classes = below_UKHW.view(torch.int32), below_UKHW.shape[1]
    countdown_K11 = torch.arange(classes, 0, -1, dtype=torch.int32, device=below_UKHW.device).view(-1, 1, 1)
    largest_UHW = bits_UKHW.add_(countdown_K11).amax(1)
    bits_UKHW.sub_(countdown_K11)
    return (classes - largest_UHW.clamp_(1, classes)).to(torch.uint8)
