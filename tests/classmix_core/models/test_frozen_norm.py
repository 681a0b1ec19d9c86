"""Batch norm in part or not trained, against torch's own."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classmix_core.models.frozen_norm import freeze_batch_norm_

CHANNELS = 7
EPS = 0.01


def network(mode: str) -> nn.Module:
    """A convolution and, one module deeper, a batch norm whose every value is a random one."""
    generator = torch.Generator().manual_seed(5)
    norm = nn.BatchNorm2d(CHANNELS, eps=EPS, momentum=0.3)
    for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        value.data.uniform_(0.5, 2, generator=generator)
    model = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), nn.ModuleDict({"norm": norm}))
    freeze_batch_norm_(model, mode)
    return model


def norm_of(model: nn.Module) -> nn.BatchNorm2d:
    return model[1]["norm"]


@pytest.fixture
def x() -> Tensor:
    return 3 * torch.rand(2, CHANNELS, 5, 3, generator=torch.Generator().manual_seed(6))


@pytest.mark.parametrize("mode", ["trained", "frozen_affine", "frozen"])
def test_only_a_trained_one_has_trainable_weight_and_bias_and_other_layers_stay_trainable(mode: str) -> None:
    model = network(mode)
    trainable = [p.requires_grad for p in norm_of(model).parameters()]
    assert trainable == [mode == "trained"] * 2
    assert all(p.requires_grad for p in model[0].parameters())


@pytest.mark.parametrize("mode", ["trained", "frozen_affine"])
def test_training_uses_and_averages_the_statistics_of_the_batch(mode: str, x: Tensor) -> None:
    norm = norm_of(network(mode)).train()
    before = norm.running_mean.clone()
    expected = F.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=EPS)
    assert torch.allclose(norm(x), expected)
    assert torch.allclose(norm.running_mean, 0.7 * before + 0.3 * x.mean((0, 2, 3)))


def test_frozen_uses_the_running_statistics_in_both_modes_and_keeps_them(x: Tensor) -> None:
    norm, plain = norm_of(network("frozen")), norm_of(network("trained")).eval()
    before = copy.deepcopy(norm.state_dict())
    for same in (norm, copy.deepcopy(norm)):
        for training in (True, False):
            assert torch.equal(same.train(training)(x), plain(x))
    for name, value in norm.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("mode", ["frozen_affine", "frozen"])
def test_names_and_values_are_those_of_the_trained_one(mode: str) -> None:
    ours, plain = network(mode).state_dict(), network("trained").state_dict()
    assert list(ours) == list(plain)
    for name in ours:
        if name.startswith("1."):
            assert torch.equal(ours[name], plain[name]), name


def test_a_gradient_passes_through_a_frozen_one(x: Tensor) -> None:
    norm = norm_of(network("frozen")).train()
    x.requires_grad_()
    norm(x).sum().backward()
    expected = norm.weight / (norm.running_var + EPS).sqrt()
    assert x.grad is not None
    assert torch.allclose(x.grad, expected.detach().view(1, -1, 1, 1).expand_as(x))
