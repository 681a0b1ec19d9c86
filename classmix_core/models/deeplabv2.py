"""DeepLab-v2 over ResNet-101 (Chen et al., 2018), the network of ClassMix: one scale, output stride 8.

Shapes: B batch, K classes, H W image, h w an eighth of it.
"""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from classmix_core.config import ASPP_DILATIONS
from classmix_core.models.normalise import Normalise


class DeepLabV2(nn.Module):
    """ResNet-101 and the sum of dilated 3 x 3 convolutions over its last layer, resized to the input.

    Args:
        num_classes: K.
        aspp_branches: how many of the four branches count, from the smallest dilation. ClassMix's authors run two: a
            misplaced `return` leaves the loop early. The others stay in the network, as in theirs, without gradients.
    """

    def __init__(self, num_classes: int, aspp_branches: int = len(ASPP_DILATIONS)) -> None:
        super().__init__()
        self.normalise = Normalise()
        self.backbone = dilated_resnet101()
        branches = [nn.Conv2d(2048, num_classes, 3, padding=dilation, dilation=dilation) for dilation in ASPP_DILATIONS]
        for branch in branches:
            nn.init.normal_(branch.weight, std=0.01)
        self.classifier = nn.ModuleList(branches)
        self.aspp_branches = aspp_branches
        # DistributedDataParallel waits for the gradient of every parameter but those named here
        unused = tuple(f"classifier.{index}." for index in range(aspp_branches, len(ASPP_DILATIONS)))
        self._ddp_params_and_buffers_to_ignore = [
            name for name, _ in self.named_parameters() if name.startswith(unused)
        ]

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Float RGB images 0..1 (B, 3, H, W) to float logits (B, K, H, W)."""
        features = self.backbone(self.normalise(image_BCHW))
        logits_BKhw = self.classifier[0](features)
        for branch in self.classifier[1 : self.aspp_branches]:
            logits_BKhw = logits_BKhw + branch(features)
        return F.interpolate(logits_BKhw, image_BCHW.shape[-2:], mode="bilinear", align_corners=True)


def dilated_resnet101() -> nn.Sequential:
    """torchvision's ResNet-101 without pooling and classifier, with the geometry of DeepLab's Caffe network.

    The three differences, all as in the authors' code: the stride of layer2 is in its first 1 x 1 convolution
    (torchvision has it in the 3 x 3 one, 737.2 in place of 735.6 GFLOP at 512 x 1024); all blocks of layer3 and layer4
    are dilated by 2 and 4 (torchvision's first ones by 1 and 2); max pooling rounds up. Parameters and their names
    remain those of torchvision, so its weights fit.
    """
    from torchvision.models import resnet101  # a second, which no other network needs

    resnet = resnet101(replace_stride_with_dilation=[False, True, True])
    resnet.maxpool.ceil_mode = True
    strided = resnet.layer2[0]
    strided.conv1.stride, strided.conv2.stride = (2, 2), (1, 1)
    for layer, dilation in ((resnet.layer3, 2), (resnet.layer4, 4)):
        layer[0].conv2.dilation = layer[0].conv2.padding = (dilation, dilation)
    kept = OrderedDict((name, child) for name, child in resnet.named_children() if name not in ("avgpool", "fc"))
    return nn.Sequential(kept)
