"""Optimiser with a scaled head, and the polynomial schedule."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from classmix_core.errors import require


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser of the student."""

    name: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum (the paper) or AdamW."""
    lr: float = 0.1
    """Learning rate at the start, above 0. Scale it with the batch size."""
    head_lr_scale: float = 1.0
    """Factor of the learning rate of the last layers, above 0; 10 is usual over a pretrained encoder."""
    momentum: float = 0.9
    """Momentum of SGD, 0 <= momentum < 1; AdamW has its own."""
    weight_decay: float = 5e-4
    """L2 penalty, at least 0."""
    power: float = 0.9
    """Exponent of the schedule: lr * (1 - step / steps) ** power; 0 keeps the rate constant."""

    def __post_init__(self) -> None:
        require(self.name in ("sgd", "adamw"), "name", "name in (sgd, adamw)", self.name)
        require(self.lr > 0, "lr", "lr > 0", self.lr)
        require(self.head_lr_scale > 0, "head_lr_scale", "head_lr_scale > 0", self.head_lr_scale)
        require(0 <= self.momentum < 1, "momentum", "0 <= momentum < 1", self.momentum)
        require(self.weight_decay >= 0, "weight_decay", "weight_decay >= 0", self.weight_decay)
        require(self.power >= 0, "power", "power >= 0", self.power)


def build_optimizer(model: nn.Module, head_prefixes: tuple[str, ...], config: OptimConfig) -> torch.optim.Optimizer:
    """Two parameter groups, body and head, without duplicates.

    Args:
        head_prefixes: parameters whose name starts with one of these learn at `lr * head_lr_scale`.
    """
    head = [p for name, p in model.named_parameters() if name.startswith(head_prefixes)]
    body = [p for name, p in model.named_parameters() if not name.startswith(head_prefixes)]
    groups = [{"params": body, "lr": config.lr}, {"params": head, "lr": config.lr * config.head_lr_scale}]
    groups = [group for group in groups if group["params"]]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    return torch.optim.SGD(groups, momentum=config.momentum, weight_decay=config.weight_decay)


def build_schedule(optimizer: torch.optim.Optimizer, steps: int, power: float) -> torch.optim.lr_scheduler.PolynomialLR:
    """lr * (1 - step / steps) ** power, per step."""
    return torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=steps, power=power)
