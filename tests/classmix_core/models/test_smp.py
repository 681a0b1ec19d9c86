"""Networks of segmentation_models_pytorch: any size, what their encoder is given, unknown names."""

import pytest
import torch
from torch import nn

from classmix_core.config import ModelConfig
from classmix_core.errors import InvalidValue
from classmix_core.models import build_model
from classmix_core.models.normalise import Normalise
from classmix_core.models.smp import SmpNetwork

CLASSES = 5
SMP = "smp/Unet/resnet18"


def build(**fields: object) -> nn.Module:
    torch.manual_seed(12)
    return build_model(ModelConfig(**fields), CLASSES)


def test_smp_names_answer_at_any_size() -> None:
    pytest.importorskip("segmentation_models_pytorch")
    network = build(name=SMP).eval()
    for size in ((32, 64), (33, 45)):
        with torch.no_grad():
            assert network(torch.rand(1, 3, *size)).shape == (1, CLASSES, *size)


def test_an_encoder_gets_images_normalised_as_its_weights_expect() -> None:
    pytest.importorskip("segmentation_models_pytorch")
    image = torch.rand(2, 3, 32, 64)
    for encoder, expected in (("tf_efficientnet_lite0", (image - 0.5) / 0.5), ("resnet18", Normalise()(image))):
        network = build(name=f"smp/Unet/{encoder}").eval()
        assert isinstance(network, SmpNetwork)
        seen: list[torch.Tensor] = []
        network.network.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        network(image)
        assert torch.equal(seen[0], expected), encoder


def test_an_encoder_that_timm_alone_knows_is_found_for_deeplab() -> None:
    pytest.importorskip("segmentation_models_pytorch")
    network = build(name="smp/DeepLabV3Plus/tf_efficientnet_lite0").eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, 33, 45)).shape == (1, CLASSES, 33, 45)


@pytest.mark.parametrize(
    "name", ["smp/Nonsense/resnet18", "smp/Unet/nonsense18", "smp/DeepLabV3Plus/densenet121", "smp/DPT/resnet34"]
)
def test_a_decoder_or_encoder_that_smp_does_not_know_is_refused(name: str) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    with pytest.raises(InvalidValue, match=f"segmentation_models_pytorch knows .*'{name}'") as caught:
        build(name=name)
    assert caught.value.field == "name"


def test_smp_that_is_not_installed_is_named_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "segmentation_models_pytorch", None)
    with pytest.raises(InvalidValue, match=r"segmentation_models_pytorch is installed \(pip install") as caught:
        build(name=SMP)
    assert caught.value.field == "name"
