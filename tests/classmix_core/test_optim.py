"""Parameter groups and the schedule, against closed forms."""

import pytest
import torch
from torch import nn

from classmix_core.config import OptimConfig
from classmix_core.errors import InvalidValue
from classmix_core.optim import build_optimizer, build_schedule


def network() -> nn.Module:
    return nn.ModuleDict({"body": nn.Conv2d(3, 2, 3), "head": nn.Conv2d(2, 5, 1), "header": nn.Conv2d(5, 5, 1)})


def rates(optimizer: torch.optim.Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_head_learns_at_its_own_rate_and_no_parameter_is_there_twice(name: str) -> None:
    model = network()
    optimizer = build_optimizer(model, ("head.",), OptimConfig(name=name, lr=0.02, head_lr_scale=10))
    body, head = ({id(p) for p in group["params"]} for group in optimizer.param_groups)
    assert rates(optimizer) == pytest.approx([0.02, 0.2])
    assert head == {id(p) for p in model["head"].parameters()}
    assert body == {id(p) for part in ("body", "header") for p in model[part].parameters()}


@pytest.mark.parametrize("frozen", ["body", "head"])
def test_frozen_parameters_are_in_no_group(frozen: str) -> None:
    model = network()
    model[frozen].requires_grad_(False)
    optimizer = build_optimizer(model, ("head.",), OptimConfig(lr=0.02, head_lr_scale=10))
    found = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert found == {id(p) for p in model.parameters() if p.requires_grad}


def test_the_authors_rates_are_refused_for_another_network_than_theirs() -> None:
    with pytest.raises(InvalidValue, match=r"`lr_scales == uniform unless .* deeplabv2 .*body\.weight\)`") as caught:
        build_optimizer(network(), ("head.",), OptimConfig(lr_scales="authors"))
    assert caught.value.field == "lr_scales"


def test_unknown_rates_are_refused() -> None:
    with pytest.raises(InvalidValue, match=r"`lr_scales in \(uniform, authors\)` must hold, but got 'x'") as caught:
        OptimConfig(lr_scales="x")
    assert caught.value.field == "lr_scales"


def test_a_network_that_is_all_head_has_one_group() -> None:
    optimizer = build_optimizer(network()["head"], ("",), OptimConfig(lr=0.5, head_lr_scale=3))
    assert rates(optimizer) == pytest.approx([1.5])


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_the_optimiser_is_the_named_one_with_the_configured_values(name: str, kind: type) -> None:
    optimizer = build_optimizer(network(), ("head.",), OptimConfig(name=name, momentum=0.7, weight_decay=0.03))
    assert type(optimizer) is kind
    for group in optimizer.param_groups:
        assert group["weight_decay"] == 0.03
        assert group.get("momentum", 0.7) == 0.7


@pytest.mark.parametrize("power", [0.0, 0.9, 2.0])
def test_the_rate_is_polynomial_in_the_step_for_body_and_head(power: float) -> None:
    steps = 7
    optimizer = build_optimizer(network(), ("head.",), OptimConfig(lr=0.1, head_lr_scale=4))
    schedule = build_schedule(optimizer, steps, power)
    for step in range(steps):
        expected = 0.1 * (1 - step / steps) ** power
        assert rates(optimizer) == pytest.approx([expected, 4 * expected])
        optimizer.step()
        schedule.step()
    assert rates(optimizer) == pytest.approx([0.0, 0.0] if power else [0.1, 0.4])


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("lr", [1e-9], [0, -0.1, float("nan")]),
        ("head_lr_scale", [1e-9], [0, -1]),
        ("momentum", [0, 0.999], [-0.1, 1]),
        ("weight_decay", [0], [-1e-9]),
        ("power", [0], [-0.1]),
    ],
)
def test_each_field_is_refused_beyond_its_range_alone(field: str, good: list[float], bad: list[float]) -> None:
    for value in good:
        assert getattr(OptimConfig(**{field: value}), field) == value
    for value in bad:
        with pytest.raises(InvalidValue, match=rf"`.*{field}.*` must hold, but got {value}\.") as caught:
            OptimConfig(**{field: value})
        assert caught.value.field == field
