"""From a configuration to a network."""

from torch import nn

from classmix_core.config import ModelConfig
from classmix_core.models.deeplabv2 import DeepLabV2
from classmix_core.models.frozen_norm import freeze_batch_norm_
from classmix_core.models.smp import build_smp
from classmix_core.models.torchvision import build_torchvision
from classmix_core.models.unet import UNet


def build_model(config: ModelConfig, num_classes: int) -> nn.Module:
    """Build the network with fresh weights drawn from torch's global generator; `config.weights` is not read.

    Raises:
        InvalidValue: an unknown decoder or encoder, or segmentation_models_pytorch is not installed.
    """
    if config.name == "unet":
        return UNet(num_classes, config.width, config.depth, config.norm)
    if config.name.startswith("smp/"):
        return build_smp(config.name, num_classes)
    if config.name != "deeplabv2":
        return build_torchvision(config.name, num_classes, config.batch_norm)
    network = DeepLabV2(num_classes, config.aspp_branches)
    freeze_batch_norm_(network.backbone, config.batch_norm)
    return network


def head_prefixes(name: str) -> tuple[str, ...]:
    """Prefixes of the names of the parameters in the head of the network called `name`."""
    if name == "unet":
        return ("head.",)
    if name == "deeplabv2":
        return ("classifier.",)
    inner = ("decoder.", "segmentation_head.") if name.startswith("smp/") else ("classifier.",)
    return tuple(f"network.{prefix}" for prefix in inner)
