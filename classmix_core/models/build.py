"""From a name to a network."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classmix_core.augment import MEAN, STD
from classmix_core.errors import InvalidValue, require
from classmix_core.models.deeplabv2 import DILATIONS, DeepLabV2
from classmix_core.models.frozen_norm import BatchNormMode, freeze_batch_norm_
from classmix_core.models.unet import UNet

OWN = ("unet", "deeplabv2")
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
    """The network."""

    name: str = "unet"
    """unet (small, for CPUs), deeplabv2 (over ResNet-101, the paper's), one of torchvision's (deeplabv3_resnet50,
    fcn_resnet50, lraspp_mobilenet_v3_large, ...), or smp/DECODER/ENCODER of segmentation_models_pytorch (the extra
    `smp`) over an encoder of its own or of timm, such as smp/DeepLabV3Plus/tf_efficientnet_lite0."""
    weights: str | None = None
    """Where training starts: a file of weights (safetensors, or what torch.save wrote) of this network or of its
    encoder alone, or a download such as torchvision:ResNet101_Weights.IMAGENET1K_V2 or timm:tf_efficientnet_lite0.
    Unset: from scratch."""
    width: int = 16
    """unet: channels at half resolution, a multiple of 4."""
    depth: int = 3
    """unet: how often half resolution is halved again, at least 1."""
    norm: Literal["batch", "group"] = "batch"
    """unet: batch norm, or group norm, which does not see the rest of the batch."""
    aspp_branches: int = len(DILATIONS)
    """deeplabv2: branches of its pyramid that count, 1 to 4 (dilations 6, 12, 18, 24); the authors' code runs 2."""
    batch_norm: BatchNormMode = "trained"
    """deeplabv2 and torchvision's, batch norms of the backbone: trained; frozen_affine, weight and bias frozen and the
    batch's statistics used (the authors' code); frozen, all as in `weights`."""

    def __post_init__(self) -> None:
        known = self.name in OWN + TORCHVISION or (self.name.startswith("smp/") and self.name.count("/") == 2)
        require(known, "name", f"name in ({', '.join(OWN + TORCHVISION)}, smp/DECODER/ENCODER)", self.name)
        require(self.weights != "", "weights", "weights names a file or a download", self.weights)
        require(self.width > 0 and self.width % 4 == 0, "width", "width is a positive multiple of 4", self.width)
        require(self.depth >= 1, "depth", "depth >= 1", self.depth)
        branches, modes = len(DILATIONS), get_args(BatchNormMode)
        rule = f"1 <= aspp_branches <= {branches}"
        require(1 <= self.aspp_branches <= branches, "aspp_branches", rule, self.aspp_branches)
        rule = f"aspp_branches == {branches} unless name == deeplabv2 (here {self.name})"
        require(self.aspp_branches == branches or self.name == "deeplabv2", "aspp_branches", rule, self.aspp_branches)
        require(self.batch_norm in modes, "batch_norm", f"batch_norm in ({', '.join(modes)})", self.batch_norm)
        freezable = self.name in ("deeplabv2", *TORCHVISION)
        rule = f"batch_norm == trained unless name is deeplabv2 or one of torchvision's (here {self.name})"
        require(self.batch_norm == "trained" or freezable, "batch_norm", rule, self.batch_norm)
        rule = "batch_norm != frozen unless weights are given: fresh statistics normalise nothing"
        require(self.batch_norm != "frozen" or self.weights is not None, "batch_norm", rule, self.batch_norm)


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
