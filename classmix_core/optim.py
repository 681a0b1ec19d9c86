"""The optimiser, with a learning rate of its own for the head, and the polynomial schedule."""

import re

import torch
from torch import nn

from classmix_core.config import OptimConfig
from classmix_core.errors import InvalidValue


def build_optimizer(model: nn.Module, head_prefixes: tuple[str, ...], config: OptimConfig) -> torch.optim.Optimizer:
    """Parameter groups by learning rate, body before head, each trainable parameter in one of them.

    Args:
        head_prefixes: parameters whose name starts with one of these learn at `lr * head_lr_scale`.

    Raises:
        InvalidValue: `lr_scales` is authors and the body is not the backbone of deeplabv2.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        in_head = name.startswith(head_prefixes)
        body_scale = authors_scale(name) if config.lr_scales == "authors" and not in_head else 1.0
        scale = config.head_lr_scale if in_head else body_scale
        groups.setdefault((in_head, scale), []).append(parameter)
    settings = [{"params": groups[key], "lr": config.lr * key[1]} for key in sorted(groups)]
    if config.name == "adamw":
        return torch.optim.AdamW(settings, weight_decay=config.weight_decay, fused=True)
    return torch.optim.SGD(settings, momentum=config.momentum, weight_decay=config.weight_decay, fused=True)


def authors_scale(name: str) -> float:
    """How often the authors' code hands a parameter of DeepLab-v2's backbone to SGD.

    There each pass also advances the momentum, so that one of 0.9 becomes 0.9 ** 3 a step in the blocks; the sum of the
    steps that a gradient causes is the same.
    """
    if re.match(r"backbone\.(conv1|bn1)\.", name):
        return 1.0
    if re.match(r"backbone\.layer\d\.", name):
        return 4.0 if ".downsample." in name else 3.0
    raise InvalidValue("lr_scales", f"lr_scales == uniform unless model.name == deeplabv2 (here a {name})", "authors")


def build_schedule(optimizer: torch.optim.Optimizer, steps: int, power: float) -> torch.optim.lr_scheduler.PolynomialLR:
    """lr * (1 - step / steps) ** power, per step."""
    return torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=steps, power=power)
