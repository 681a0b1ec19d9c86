"""From a name to a network."""

from contextlib import suppress

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classmix_core.augment import MEAN, STD
from classmix_core.config import ModelConfig
from classmix_core.errors import InvalidValue
from classmix_core.models.deeplabv2 import DeepLabV2
from classmix_core.models.frozen_norm import freeze_batch_norm_
from classmix_core.models.unet import UNet


class FullSize(nn.Module):
    """torchvision's dictionary of outputs to logits of the input's size."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        # torchvision resizes with align_corners=False: the same place to within a fraction of an output cell
        return self.network(x)["out"]


class EncoderInput(nn.Module):
    """Images normalised and padded as an encoder asks for them; the logits are cut back.

    Args:
        mean, std: of the images that the encoder's weights were trained on, by channel, on the scale 0..1.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        # from the normalisation of all our networks to this one; not saved: it belongs to the name of the encoder
        self.rescaled = (mean, std) != (MEAN, STD)
        if self.rescaled:
            our_mean, our_std, its_mean, its_std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD, mean, std))
            self.register_buffer("scale", our_std / its_std, persistent=False)
            self.register_buffer("shift", (our_mean - its_mean) / its_std, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if self.rescaled:
            x = x * self.scale + self.shift
        padded = F.pad(x, (0, -width % 32, 0, -height % 32), mode="replicate")  # these encoders halve five times
        return self.network(padded)[..., :height, :width]


def build_model(config: ModelConfig, num_classes: int) -> nn.Module:
    """Build the network with fresh weights drawn from torch's global generator; `config.weights` is not read.

    Raises:
        InvalidValue: an unknown decoder or encoder, or segmentation_models_pytorch is not installed.
    """
    if config.name == "unet":
        return UNet(num_classes, config.width, config.depth, config.norm)
    if config.name == "deeplabv2":
        network = DeepLabV2(num_classes, config.aspp_branches)
        freeze_batch_norm_(network.backbone, config.batch_norm)
        return network
    if config.name.startswith("smp/"):
        return build_smp(config.name, num_classes)
    from torchvision.models import segmentation  # a second, which our own networks do not need

    build = getattr(segmentation, config.name)
    inner = build(weights=None, weights_backbone=None, num_classes=num_classes)
    freeze_batch_norm_(inner.backbone, config.batch_norm)
    return FullSize(inner)


def build_smp(name: str, num_classes: int) -> nn.Module:
    try:
        import segmentation_models_pytorch as smp
    except ImportError:
        raise InvalidValue("name", "segmentation_models_pytorch is installed (pip install '.[smp]')", name) from None
    _, decoder, encoder = name.split("/")
    in_timm = encoder.removeprefix("tu-").removeprefix("timm-")
    old_copy = encoder.startswith("timm-") and smp.encoders.timm.is_model(in_timm)
    if old_copy or encoder not in smp.encoders.get_encoder_names():
        encoder = f"tu-{in_timm}"  # the prefix by which timm's own networks are reached
    try:
        network = smp.create_model(decoder, encoder, encoder_weights=None, classes=num_classes)
    except (KeyError, RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:150]
        rule = f"segmentation_models_pytorch knows such a network (it says: {reason})"
        raise InvalidValue("name", rule, name) from error
    mean, std = MEAN, STD
    if encoder.startswith("tu-"):
        with suppress(ValueError):  # an encoder that nobody has trained yet
            expected = smp.encoders.get_preprocessing_params(encoder)
            mean, std = tuple(expected["mean"]), tuple(expected["std"])
    return EncoderInput(network, mean, std)


def head_prefixes(name: str) -> tuple[str, ...]:
    """Names of the parameters, of the network called `name`, that count as its head."""
    if name == "unet":
        return ("head.",)
    if name == "deeplabv2":
        return ("classifier.",)
    inner = ("decoder.", "segmentation_head.") if name.startswith("smp/") else ("classifier.",)
    return tuple(f"network.{prefix}" for prefix in inner)
