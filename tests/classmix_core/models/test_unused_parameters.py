"""Parameters that get no gradient are found, and no others."""

import pytest
import torch
from torch import Tensor, nn

from classmix_core.config import ModelConfig
from classmix_core.models import build_model
from classmix_core.models.unused_parameters import freeze_unused_parameters_


class Partly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)
        self.frozen = nn.Conv2d(3, 2, 1).requires_grad_(False)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self.norm(self.used(image_BCHW) + self.frozen(image_BCHW))


def test_what_the_output_does_not_depend_on_is_frozen_and_nothing_else_changes() -> None:
    network = Partly()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert freeze_unused_parameters_(network, (5, 9)) == ["unused.weight", "unused.bias"]
    learning = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert learning == ["used.weight", "used.bias", "norm.weight", "norm.bias"]
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("name", ["smp/Unet/efficientnet-b0", "smp/PSPNet/resnet18", "smp/DPT/tu-vit_tiny_patch16_224"])
def test_every_parameter_that_learns_gets_a_gradient(name: str) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    network = build_model(ModelConfig(name=name), 4)
    unused = freeze_unused_parameters_(network, (224, 224))
    assert unused
    network(torch.rand(2, 3, 224, 224)).sum().backward()
    for key, parameter in network.named_parameters():
        assert (parameter.grad is None) == (key in unused), key


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_unet_uses_all_that_it_has(norm: str) -> None:  # so that a trial of seconds need not look
    assert freeze_unused_parameters_(build_model(ModelConfig(norm=norm), 4), (64, 64)) == []
