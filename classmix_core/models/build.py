"""From a name to a network."""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import segmentation

from classmix_core.errors import InvalidValue, require
from classmix_core.models.unet import UNet

TORCHVISION = (
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "deeplabv3_mobilenet_v3_large",
    "fcn_resnet50",
    "fcn_resnet101",
    "lraspp_mobilenet_v3_large",
)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network, trained from scratch."""

    name: str = "unet"
    """unet (small, for CPUs), one of torchvision's (deeplabv3_resnet50, fcn_resnet50, lraspp_mobilenet_v3_large, ...),
    or smp/DECODER/ENCODER of segmentation_models_pytorch (the extra `smp`), such as smp/DeepLabV3Plus/resnet50."""
    width: int = 16
    """unet: channels at half resolution, a multiple of 4."""
    depth: int = 3
    """unet: how often half resolution is halved again, at least 1."""
    norm: Literal["batch", "group"] = "batch"
    """unet: batch norm, or group norm, which does not see the rest of the batch."""

    def __post_init__(self) -> None:
        known = self.name in ("unet", *TORCHVISION) or (self.name.startswith("smp/") and self.name.count("/") == 2)
        require(known, "name", f"name in (unet, {', '.join(TORCHVISION)}, smp/DECODER/ENCODER)", self.name)
        require(self.width > 0 and self.width % 4 == 0, "width", "width is a positive multiple of 4", self.width)
        require(self.depth >= 1, "depth", "depth >= 1", self.depth)


class FullSize(nn.Module):
    """torchvision's dictionary of outputs to logits of the input's size."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        # torchvision resizes with align_corners=False: the same place to within a fraction of an output cell
        return self.network(x)["out"]


class SizeMultiple(nn.Module):
    """Pads to the multiple of 32 that these encoders ask for, and cuts the logits back."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        padded = F.pad(x, (0, -width % 32, 0, -height % 32), mode="replicate")
        return self.network(padded)[..., :height, :width]


def build_model(config: ModelConfig, num_classes: int) -> nn.Module:
    """Build the network with fresh weights drawn from torch's global generator.

    Raises:
        InvalidValue: an unknown decoder or encoder, or segmentation_models_pytorch is not installed.
    """
    if config.name == "unet":
        return UNet(num_classes, config.width, config.depth, config.norm)
    if config.name.startswith("smp/"):
        return SizeMultiple(build_smp(config.name, num_classes))
    build = getattr(segmentation, config.name)
    return FullSize(build(weights=None, weights_backbone=None, num_classes=num_classes))


def build_smp(name: str, num_classes: int) -> nn.Module:
    try:
        import segmentation_models_pytorch as smp
    except ImportError:
        raise InvalidValue("name", "segmentation_models_pytorch is installed (pip install '.[smp]')", name) from None
    _, decoder, encoder = name.split("/")
    if encoder not in smp.encoders.get_encoder_names():
        encoder = f"tu-{encoder}"  # the prefix by which timm's own networks are reached
    try:
        return smp.create_model(decoder, encoder, encoder_weights=None, classes=num_classes)
    except (KeyError, RuntimeError) as error:
        rule = "segmentation_models_pytorch knows the decoder and it or timm the encoder"
        raise InvalidValue("name", rule, name) from error


def head_prefixes(name: str) -> tuple[str, ...]:
    """Names of the parameters, of the network called `name`, that count as its head."""
    if name == "unet":
        return ("head.",)
    inner = ("decoder.", "segmentation_head.") if name.startswith("smp/") else ("classifier.",)
    return tuple(f"network.{prefix}" for prefix in inner)
