"""Networks: from a name to logits of the input's size."""

import pytest
import torch
from torch import nn

from classmix_core.augment import normalise
from classmix_core.config import TORCHVISION_NETWORKS, ModelConfig
from classmix_core.errors import InvalidValue
from classmix_core.models import build_model, head_prefixes
from classmix_core.models.build import EncoderInput

CLASSES = 13  # divides no other number of channels
SMALLEST = "lraspp_mobilenet_v3_large"
SMP = "smp/Unet/resnet18"


def build(**fields: object) -> nn.Module:
    torch.manual_seed(12)
    return build_model(ModelConfig(**fields), CLASSES)


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (13, 9), (16, 24), (31, 64)])
def test_unet_answers_at_any_size(norm: str, depth: int, size: tuple[int, int]) -> None:
    logits = build(norm=norm, depth=depth, width=4).eval()(torch.rand(2, 3, *size))
    assert logits.shape == (2, CLASSES, *size)
    assert logits.isfinite().all()


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_group_norm_alone_does_not_see_the_rest_of_the_batch(norm: str) -> None:
    network = build(norm=norm, width=4).train()
    image = torch.rand(3, 3, 21, 26)
    alone, together = network(image[:1]), network(image)[:1]
    assert torch.allclose(alone, together, atol=1e-5) == (norm == "group")


def test_unet_grows_with_its_width_and_depth() -> None:
    def count(**fields: object) -> int:
        return sum(p.numel() for p in build(**fields).parameters())

    assert count(width=4, depth=1) < count(width=8, depth=1) < count(width=8, depth=2)


def test_the_global_seed_decides_the_weights() -> None:
    first, second = build(), build()
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


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


def test_smp_names_answer_at_any_size() -> None:
    pytest.importorskip("segmentation_models_pytorch")
    network = build(name=SMP).eval()
    for size in ((32, 64), (33, 45)):
        with torch.no_grad():
            assert network(torch.rand(1, 3, *size)).shape == (1, CLASSES, *size)


def test_an_encoder_gets_images_normalised_as_its_weights_expect() -> None:
    pytest.importorskip("segmentation_models_pytorch")
    image = torch.rand(2, 3, 32, 64)
    for encoder, expected in (("tf_efficientnet_lite0", 2 * image - 1), ("resnet18", normalise(image))):
        network = build(name=f"smp/Unet/{encoder}").eval()
        assert isinstance(network, EncoderInput)
        seen: list[torch.Tensor] = []
        network.network.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        network(normalise(image))
        assert torch.allclose(seen[0], expected, atol=1e-6), encoder
        assert not any(name in ("scale", "shift") for name in network.state_dict())


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
