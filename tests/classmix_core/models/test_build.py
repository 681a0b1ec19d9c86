"""Networks by name: their seed, their head, and which settings fit which."""

import pytest
import torch
from torch import nn

from classmix_core.config import TORCHVISION_NETWORKS, ModelConfig
from classmix_core.errors import InvalidValue
from classmix_core.models import build_model, head_prefixes

CLASSES = 13  # divides no other number of channels
SMALLEST = "lraspp_mobilenet_v3_large"
SMP = "smp/Unet/resnet18"


def build(**fields: object) -> nn.Module:
    torch.manual_seed(12)
    return build_model(ModelConfig(**fields), CLASSES)


def test_the_global_seed_decides_the_weights() -> None:
    first, second = build(), build()
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "name",
    [
        "unet",
        "deeplabv2",
        SMALLEST,
        SMP,
        *(pytest.param(n, marks=pytest.mark.slow) for n in TORCHVISION_NETWORKS if n != SMALLEST),
    ],
)
def test_the_head_is_a_part_of_the_network_and_holds_its_last_layer(name: str) -> None:
    if name == SMP:
        pytest.importorskip("segmentation_models_pytorch")
    network = build(name=name)
    names = [parameter for parameter, _ in network.named_parameters()]
    for prefix in head_prefixes(name):
        assert any(parameter.startswith(prefix) for parameter in names), prefix
    head = [parameter for parameter in names if parameter.startswith(head_prefixes(name))]
    assert 0 < len(head) < len(names)
    outputs = [parameter for parameter, value in network.named_parameters() if len(value) % CLASSES == 0]
    assert outputs
    assert set(outputs) <= set(head)


@pytest.mark.parametrize("name", ["deeplabv2", SMALLEST])
@pytest.mark.parametrize("mode", ["trained", "frozen_affine", "frozen"])
def test_batch_norms_are_frozen_in_the_backbone_alone(name: str, mode: str) -> None:
    with torch.device("meta"):
        network = build(name=name, batch_norm=mode, weights="given")
    norms = {name: norm for name, norm in network.named_modules() if isinstance(norm, nn.BatchNorm2d)}
    trained = {name for name, norm in norms.items() if norm.weight.requires_grad}
    assert trained == {name for name in norms if mode == "trained" or "backbone." not in name}
    assert any(name.startswith("backbone.") or ".backbone." in name for name in norms)


@pytest.mark.parametrize("name", ["", "UNet", "resnet50", "smp/Unet", "smp/Unet/resnet18/x", "unet/Unet/resnet18"])
def test_an_unknown_name_is_refused_with_those_that_are_known(name: str) -> None:
    with pytest.raises(InvalidValue, match=rf"name in \(unet, .*{SMALLEST}.*, smp/.* but got '{name}'") as caught:
        ModelConfig(name=name)
    assert caught.value.field == "name"


@pytest.mark.parametrize(("field", "good", "bad"), [("width", [4, 8], [0, -4, 3, 6]), ("depth", [1, 2], [0, -1])])
def test_each_size_is_refused_beyond_its_range_alone(field: str, good: list[int], bad: list[int]) -> None:
    for value in good:
        assert getattr(ModelConfig(**{field: value}), field) == value
    for value in bad:
        with pytest.raises(InvalidValue, match=rf"`{field} .*` must hold, but got {value}\.") as caught:
            ModelConfig(**{field: value})
        assert caught.value.field == field


@pytest.mark.parametrize("bad", [0, -1, 5])
def test_branches_beyond_the_pyramids_are_refused(bad: int) -> None:
    for good in (1, 4):
        assert ModelConfig(name="deeplabv2", aspp_branches=good).aspp_branches == good
    with pytest.raises(InvalidValue, match=rf"`1 <= aspp_branches <= 4` must hold, but got {bad}\.") as caught:
        ModelConfig(name="deeplabv2", aspp_branches=bad)
    assert caught.value.field == "aspp_branches"


@pytest.mark.parametrize(
    ("field", "value", "takes", "refuses"),
    [
        ("aspp_branches", 2, ["deeplabv2"], ["unet", SMALLEST, SMP]),
        ("batch_norm", "frozen", ["deeplabv2", *TORCHVISION_NETWORKS], ["unet", SMP]),
        ("batch_norm", "frozen_affine", ["deeplabv2", *TORCHVISION_NETWORKS], ["unet", SMP]),
    ],
)
def test_a_field_is_refused_for_networks_that_it_does_not_fit(
    field: str, value: object, takes: list[str], refuses: list[str]
) -> None:
    for name in takes:
        assert getattr(ModelConfig(name=name, weights="given", **{field: value}), field) == value
    for name in refuses:
        with pytest.raises(InvalidValue, match=rf"`{field} == .* unless name .*\(here {name}\)` must hold") as caught:
            ModelConfig(name=name, weights="given", **{field: value})
        assert caught.value.field == field


def test_frozen_statistics_are_refused_without_weights_that_hold_some() -> None:
    with pytest.raises(
        InvalidValue, match=r"`batch_norm != frozen unless weights .*` must hold, but got 'frozen'"
    ) as caught:
        ModelConfig(name="deeplabv2", batch_norm="frozen")
    assert caught.value.field == "batch_norm"
    assert ModelConfig(name="deeplabv2", batch_norm="frozen_affine").weights is None


@pytest.mark.parametrize(("field", "bad"), [("batch_norm", "half"), ("weights", "")])
def test_a_text_field_without_meaning_is_refused(field: str, bad: str) -> None:
    with pytest.raises(InvalidValue, match=rf"`{field} .*` must hold, but got '{bad}'\.") as caught:
        ModelConfig(name="deeplabv2", **{field: bad})
    assert caught.value.field == field
