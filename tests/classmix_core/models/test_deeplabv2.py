"""DeepLab-v2: published size and cost on the meta device, geometry, and its two switches."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet101

from classmix_core.config import ModelConfig, OptimConfig
from classmix_core.models import build_model, head_prefixes
from classmix_core.models.deeplabv2 import DeepLabV2, dilated_resnet101
from classmix_core.optim import build_optimizer

CITYSCAPES = 19
CLASSES = 5
SIZE = (33, 47)


def on_meta(classes: int = CITYSCAPES, **fields: object) -> nn.Module:
    with torch.device("meta"):
        return build_model(ModelConfig(name="deeplabv2", **fields), classes)


@pytest.fixture(scope="module")
def network() -> DeepLabV2:
    torch.manual_seed(3)
    return DeepLabV2(CLASSES).eval()


def with_branches(network: DeepLabV2, branches: int) -> DeepLabV2:
    clone = copy.copy(network)
    clone.aspp_branches = branches
    return clone


@pytest.mark.parametrize(("branches", "gflop"), [(2, 735.6), (4, 747.3)])
def test_a_forward_pass_at_512_by_1024_costs_what_the_geometry_says(branches: int, gflop: float) -> None:
    model = on_meta(aspp_branches=branches)
    with FlopCounterMode(display=False) as counter:
        logits = model(torch.empty(1, 3, 512, 1024, device="meta"))
    assert logits.shape == (1, CITYSCAPES, 512, 1024)
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflop, abs=0.05)


@pytest.mark.parametrize(("mode", "trainable", "tensors"), [("trained", 43.90, 320), ("frozen_affine", 43.80, 112)])
def test_parameters_are_as_many_as_the_authors(mode: str, trainable: float, tensors: int) -> None:
    parameters = list(on_meta(aspp_branches=2, batch_norm=mode).parameters())
    trained = [p for p in parameters if p.requires_grad]
    assert (len(parameters), len(trained)) == (320, tensors)
    assert sum(p.numel() for p in parameters) / 1e6 == pytest.approx(43.90, abs=0.005)
    assert sum(p.numel() for p in trained) / 1e6 == pytest.approx(trainable, abs=0.005)


# ceil((ceil(size / 2) - 1) / 2) + 1 after max pooling, then half of that, rounded up
@pytest.mark.parametrize(("size", "cells"), [((512, 1024), (65, 129)), ((321, 505), (41, 64)), ((1, 9), (1, 2))])
def test_the_backbone_ends_at_an_eighth(size: tuple[int, int], cells: tuple[int, int]) -> None:
    features = on_meta().backbone(torch.empty(1, 3, *size, device="meta"))
    assert features.shape == (1, 2048, *cells)


def test_stride_and_dilation_are_those_of_the_caffe_network() -> None:
    with torch.device("meta"):
        backbone = dilated_resnet101()
    strided = {name for name, conv in backbone.named_modules() if isinstance(conv, nn.Conv2d) and conv.stride != (1, 1)}
    assert strided == {"conv1", "layer2.0.conv1", "layer2.0.downsample.0"}
    for layer, dilation in {"layer1": 1, "layer2": 1, "layer3": 2, "layer4": 4}.items():
        for block in backbone.get_submodule(layer):
            assert block.conv2.dilation == block.conv2.padding == (dilation, dilation), layer
    branches = [(branch.dilation, branch.padding) for branch in on_meta().classifier]
    assert branches == [((dilation,) * 2,) * 2 for dilation in (6, 12, 18, 24)]


def test_names_and_shapes_of_the_backbone_are_torchvisions() -> None:
    with torch.device("meta"):
        ours, theirs = dilated_resnet101().state_dict(), resnet101().state_dict()
    shapes = {name: value.shape for name, value in theirs.items() if not name.startswith("fc.")}
    assert {name: value.shape for name, value in ours.items()} == shapes


@pytest.mark.parametrize("branches", [1, 2, 3, 4])
def test_logits_are_the_resized_sum_of_the_first_branches(network: DeepLabV2, branches: int) -> None:
    image = torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        features = network.backbone(network.normalise(image))
        expected = torch.zeros(2, CLASSES, *features.shape[-2:])
        for branch, dilation in zip(network.classifier[:branches], (6, 12, 18, 24), strict=False):
            expected += F.conv2d(features, branch.weight, branch.bias, padding=dilation, dilation=dilation)
        logits = with_branches(network, branches)(image)
    resized = F.interpolate(expected, SIZE, mode="bilinear", align_corners=True)
    assert torch.allclose(logits, resized, rtol=1e-4, atol=1e-5)
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):  # aligned corners: those of the coarse logits themselves
        assert torch.allclose(logits[:, :, *corner], expected[:, :, *corner], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("group_of_one")
def test_branches_that_do_not_count_get_no_gradient_and_data_parallelism_does_not_wait_for_one() -> None:
    model = DeepLabV2(CLASSES, aspp_branches=2).train()
    parallel = DistributedDataParallel(model)
    for _ in range(2):  # the second forward pass fails if the first left a gradient out
        parallel(torch.rand(2, 3, *SIZE)).sum().backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {f"classifier.{index}.{kind}" for index in (2, 3) for kind in ("weight", "bias")}


def authors_rates(backbone: nn.Sequential) -> dict[str, int]:
    """How often each parameter of the backbone appears when every module lists all parameters below it."""
    counts: dict[str, int] = {}
    for child_name, child in backbone.named_children():
        for module_name, module in child.named_modules(prefix=child_name):
            for name, _ in module.named_parameters(prefix=module_name):
                counts[name] = counts.get(name, 0) + 1
    return counts


@pytest.mark.parametrize("mode", ["trained", "frozen_affine", "frozen"])
def test_the_authors_rates_are_those_of_a_parameter_listed_once_for_each_module_around_it(mode: str) -> None:
    model = on_meta(batch_norm=mode, weights="given")
    config = OptimConfig(lr=0.5, lr_scales="authors", head_lr_scale=10)
    optimizer = build_optimizer(model, head_prefixes("deeplabv2"), config)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    expected = {f"backbone.{name}": 0.5 * count for name, count in authors_rates(model.backbone).items()}
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(rates) == len(trainable)
    for name, parameter in trainable.items():
        assert rates[id(parameter)] == (5.0 if name.startswith("classifier.") else expected[name]), name
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 1.5, 2.0, 5.0]
