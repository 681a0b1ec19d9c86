"""How a trained network looks at one image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from classmix_core.config import InferenceConfig, Size
from classmix_core.data.loader import resize_image
from classmix_core.evaluate import predict
from harness.inference.loaded_model import LoadedModel


@dataclass(frozen=True)
class Look:
    """The size that it is resized to, and the passes over it."""

    resize: Size | None
    inference: InferenceConfig


@torch.no_grad()
def label_image(trained: LoadedModel, image: Tensor, look: Look, device: torch.device) -> Tensor:
    """Label a uint8 image (3, H, W): uint8 (H, W) on the CPU."""
    size = (image.shape[-2], image.shape[-1])
    batch = resize_image(image, look.resize)[None].to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=trained.config.precision == "bf16"):
        return predict(trained.network, batch, size, look.inference)[0].byte().cpu()
