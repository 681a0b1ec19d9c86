"""The first layer of every network: images as the network's weights expect them."""

import torch
from torch import Tensor, nn

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet's images, by channel, on the scale 0..1."""


class Normalise(nn.Module):
    """Float RGB images 0..1 (B, 3, H, W) to float32 of zero mean and unit variance by channel.

    Mean and std follow the network from device to device, but are not saved: checkpoints hold what is learnt.

    Args:
        mean, std: by channel, on the scale 0..1, of the images that the weights were trained on.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return (image_BCHW - self.mean) / self.std
