"""torchvision's segmentation networks."""

from torch import Tensor, nn

from classmix_core.config import BatchNormMode
from classmix_core.models.frozen_norm import freeze_batch_norm_
from classmix_core.models.normalise import Normalise


class TorchvisionNetwork(nn.Module):
    """Gives the one tensor of logits out of the dictionary that torchvision's networks return."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.normalise = Normalise()
        self.network = network

    def forward(self, image_BCHW: Tensor) -> Tensor:
        # torchvision resizes with align_corners=False: the same place to within a fraction of an output cell
        return self.network(self.normalise(image_BCHW))["out"]


def build_torchvision(name: str, num_classes: int, batch_norm: BatchNormMode) -> TorchvisionNetwork:
    """Build the network that torchvision calls `name`; `batch_norm` is that of its backbone."""
    from torchvision.models import segmentation  # takes a second, which our own networks do not need

    network = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=num_classes)
    freeze_batch_norm_(network.backbone, batch_norm)
    return TorchvisionNetwork(network)
