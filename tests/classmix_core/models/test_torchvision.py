"""torchvision's networks answer at the size of the input."""

import pytest
import torch
from torch import nn

from classmix_core.config import TORCHVISION_NETWORKS, ModelConfig
from classmix_core.models import build_model

CLASSES = 5
SMALLEST = "lraspp_mobilenet_v3_large"


def build(**fields: object) -> nn.Module:
    torch.manual_seed(12)
    return build_model(ModelConfig(**fields), CLASSES)


# torchvision's deeplab pools to one pixel an image, which batch norm refuses at batch 1 while training
@pytest.mark.parametrize(
    "name",
    [SMALLEST, *(pytest.param(name, marks=pytest.mark.slow) for name in TORCHVISION_NETWORKS if name != SMALLEST)],
)
def test_torchvision_names_answer_at_the_size_of_the_input(name: str) -> None:
    network = build(name=name).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, 64, 72)).shape == (1, CLASSES, 64, 72)


def test_torchvision_networks_take_batches_in_training() -> None:
    logits = build(name=SMALLEST).train()(torch.rand(2, 3, 64, 64))
    logits.sum().backward()
    assert logits.shape == (2, CLASSES, 64, 64)
