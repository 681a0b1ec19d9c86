"""Networks of segmentation_models_pytorch, an optional extra."""

from contextlib import suppress

import torch.nn.functional as F
from torch import Tensor, nn

from classmix_core.errors import InvalidValue
from classmix_core.models.normalise import MEAN, STD, Normalise


class SmpNetwork(nn.Module):
    """Images normalised and padded as the encoder asks for them; the logits are cut back to the size of the input.

    Args:
        mean, std: of the images that the encoder's weights were trained on, by channel, on the scale 0..1.
    """

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.normalise = Normalise(mean, std)
        self.network = network

    def forward(self, image_BCHW: Tensor) -> Tensor:
        height, width = image_BCHW.shape[-2:]
        image_BCHW = self.normalise(image_BCHW)
        # these encoders halve five times
        padded = F.pad(image_BCHW, (0, -width % 32, 0, -height % 32), mode="replicate")
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
