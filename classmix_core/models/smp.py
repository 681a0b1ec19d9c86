"""Networks of segmentation_models_pytorch, an optional extra."""

from contextlib import suppress

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classmix_core.augment import MEAN, STD
from classmix_core.errors import InvalidValue


class SmpNetwork(nn.Module):
    """Images normalised and padded as the encoder asks for them; the logits are cut back to the size of the input.

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


def build_smp(name: str, num_classes: int) -> SmpNetwork:
    """Build the network called smp/DECODER/ENCODER.

    Raises:
        InvalidValue: an unknown decoder or encoder, or segmentation_models_pytorch is not installed.
    """
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
    return SmpNetwork(network, mean, std)
