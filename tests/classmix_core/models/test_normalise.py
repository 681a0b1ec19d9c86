"""Normalisation as the first layer: its arithmetic to the last bit, and that it is in no checkpoint."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as reference

from classmix_core.config import ModelConfig
from classmix_core.ema import MovingAverage, make_teacher, running_statistics
from classmix_core.models import build_model
from classmix_core.models.normalise import MEAN, STD, Normalise

NETWORKS = ("unet", "deeplabv2", "lraspp_mobilenet_v3_large", "smp/Unet/resnet18")
"""One of each kind; the last one's encoder asks for ImageNet's mean and std too."""


def build(name: str) -> nn.Module:
    if name.startswith("smp/"):
        pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(12)
    return build_model(ModelConfig(name=name), 5)


@pytest.fixture
def image() -> Tensor:
    return torch.rand(2, 3, 35, 47, generator=torch.Generator().manual_seed(4))


def test_each_channel_has_its_own_mean_and_std(image: Tensor) -> None:
    torch.testing.assert_close(Normalise()(image), reference.normalize(image, list(MEAN), list(STD)))
    for channel, (mean, std) in enumerate(((0.1, 2.0), (0.2, 4.0), (0.3, 8.0))):
        normalised = Normalise((0.1, 0.2, 0.3), (2.0, 4.0, 8.0))(image)
        assert torch.equal(normalised[:, channel], (image[:, channel] - mean) / std)


def test_images_stay_float32_under_bf16_and_are_left_as_they_were(image: Tensor) -> None:
    before, expected = image.clone(), Normalise()(image)
    with torch.autocast("cpu", torch.bfloat16):
        normalised = Normalise()(image)
    assert normalised.dtype == torch.float32
    assert torch.equal(normalised, expected)
    assert torch.equal(image, before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_its_body_on_normalised_images_to_the_last_bit(
    name: str, training: bool, precision: str, image: Tensor
) -> None:
    network = build(name).train(training)
    body = copy.deepcopy(network)
    body.normalise = nn.Identity()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    normalised = (image - mean) / std
    logits = []
    for model, given in ((network, image), (body, normalised)):
        torch.manual_seed(3)  # dropout
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits.append(model(given))
    assert torch.equal(*logits)
    assert not torch.equal(logits[0], body(image))


@pytest.mark.parametrize("name", NETWORKS)
def test_normalisation_is_in_no_checkpoint(name: str) -> None:
    network = build(name)
    buffers = [buffer for buffer, _ in network.named_buffers() if buffer.startswith("normalise.")]
    assert sorted(buffers) == ["normalise.mean", "normalise.std"]
    assert not any(key.startswith("normalise") for key in network.state_dict())
    body = copy.deepcopy(network)
    del body.normalise
    assert list(body.state_dict()) == list(network.state_dict())


@pytest.mark.parametrize("decay", [0.3, 0.99])
def test_no_average_touches_mean_and_std(decay: float) -> None:
    student = build("unet")
    teacher = make_teacher(student)
    teacher.normalise.mean.fill_(0.7)
    MovingAverage(teacher, student).update_(decay, average_buffers=True)
    assert teacher.normalise.mean.flatten().tolist() == pytest.approx([0.7] * 3)
    assert torch.equal(teacher.normalise.std, student.normalise.std)
    averaged = {id(statistic) for statistic in running_statistics(student)}
    assert averaged == {id(b) for n, b in student.named_buffers() if n.endswith(("running_mean", "running_var"))}


def test_the_memory_layout_changes_no_bit(image: Tensor) -> None:
    expected = Normalise()(image)
    moved = copy.deepcopy(Normalise()).to("cpu", memory_format=torch.channels_last)
    assert torch.equal(moved(image), expected)
    assert torch.equal(moved(image.contiguous(memory_format=torch.channels_last)), expected)
    assert moved(image).is_contiguous()
