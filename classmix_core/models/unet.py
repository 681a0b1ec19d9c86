"""A small U-Net (Ronneberger et al., 2015) that trains from scratch on a CPU."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def block(inputs: int, outputs: int, norm: Literal["batch", "group"]) -> nn.Sequential:
    """Two 3 x 3 convolutions with norm and ReLU."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers.append(nn.Conv2d(channels, outputs, 3, padding=1, bias=False))
        layers.append(nn.BatchNorm2d(outputs) if norm == "batch" else nn.GroupNorm(4, outputs))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Encoder and decoder over `depth` halvings, any input size.

    Args:
        num_classes: K.
        width: channels at full resolution, a multiple of 4; doubled at each halving up to four times as many.
        depth: halvings.
        norm: batch, or group for a network whose outputs do not depend on the rest of the batch.
    """

    def __init__(self, num_classes: int, width: int, depth: int, norm: Literal["batch", "group"]) -> None:
        super().__init__()
        widths = [width * min(2**level, 4) for level in range(depth + 1)]
        self.down = nn.ModuleList(
            block(inputs, outputs, norm) for inputs, outputs in zip([3, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(
            block(widths[level] + widths[level + 1], widths[level], norm) for level in reversed(range(depth))
        )
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level, stage in enumerate(self.down):
            x = stage(F.max_pool2d(x, 2, ceil_mode=True) if level else x)
            skips.append(x)
        skips.pop()
        for stage in self.up:
            skip = skips.pop()
            x = F.interpolate(x, skip.shape[-2:], mode="bilinear", align_corners=True)
            x = stage(torch.cat((x, skip), 1))
        return self.head(x)
