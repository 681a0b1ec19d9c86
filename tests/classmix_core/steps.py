"""Small networks, batches and steps for the tests of the step.

Shapes: L labelled, U unlabelled images, K classes, H W image.
"""

from typing import Any

import torch
from torch import Tensor, nn

from classmix_core.augment import to_float
from classmix_core.batch_generator import BatchGenerator
from classmix_core.classmix import Batch, ClassMix, Mixed, StepResult
from classmix_core.config import ClassMixConfig, ModelConfig, OptimConfig
from classmix_core.constants import IGNORE_INDEX
from classmix_core.ema import make_teacher
from classmix_core.models import build_model
from classmix_core.optim import build_optimizer, build_schedule

L, U, K, H, W = 2, 3, 5, 11, 13


def small_network(seed: int = 13) -> nn.Module:
    """Batch norm and dropout, the two layers whose mode matters."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(6, K, 1)
    )


def pixel_network(seed: int = 14) -> nn.Module:
    """Each pixel for itself, sure of its labels, and without randomness or statistics."""
    torch.manual_seed(seed)
    network = nn.Conv2d(3, K, 1)
    with torch.no_grad():
        network.weight *= 6
    return network


def group_network() -> nn.Module:
    torch.manual_seed(15)
    return build_model(ModelConfig(width=4, depth=1, norm="group"), K)


def make_step(
    network: nn.Module | None = None, *, lr: float = 0.05, seed: int = 16, steps: int = 40, **options: Any
) -> ClassMix:
    """`options` that are fields of ClassMixConfig go there, others to ClassMix."""
    student = small_network() if network is None else network
    optimizer = build_optimizer(student, (), OptimConfig(lr=lr)) if lr else torch.optim.SGD(student.parameters(), 0.0)
    config = ClassMixConfig(**{k: options.pop(k) for k in list(options) if k in ClassMixConfig.__dataclass_fields__})
    options.setdefault("generator", BatchGenerator().manual_seed(seed))
    teacher, schedule = make_teacher(student), build_schedule(optimizer, steps, 0.9)
    return ClassMix(student, teacher, optimizer, schedule, num_classes=K, config=config, steps=steps, **options)


def make_batch(seed: int = 17, labelled: int = L, unlabelled: int = U) -> Batch:
    """About a fifth of the labels is ignored; the last unlabelled image has padding at its right."""
    draw = torch.Generator().manual_seed(seed)

    def uint8(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, dtype=torch.uint8, generator=draw)

    label_LHW = uint8(K, labelled, H, W)
    label_LHW[torch.rand(label_LHW.shape, generator=draw) < 0.2] = IGNORE_INDEX
    image_UCHW, padding_UHW = uint8(256, unlabelled, 3, H, W), torch.zeros(unlabelled, H, W, dtype=torch.uint8)
    image_UCHW[-1, :, :, -4:], padding_UHW[-1, :, -4:] = 0, IGNORE_INDEX
    return Batch(uint8(256, labelled, 3, H, W), label_LHW, image_UCHW, padding_UHW)


def supervised(batch: Batch) -> Batch:
    return Batch(batch.image_LCHW, batch.label_LHW)


PLAIN: dict[str, Any] = {"jitter": 0.0, "blur": 0.0, "flips": False}
"""Nothing random but the mask."""


class Calls:
    """Counts forward passes of a network and keeps the shape of the last input."""

    def __init__(self, network: nn.Module) -> None:
        self.count, self.shape = 0, torch.Size()
        network.register_forward_pre_hook(self.note)

    def note(self, network: nn.Module, inputs: tuple[Tensor]) -> None:
        self.count, self.shape = self.count + 1, inputs[0].shape


def hand_made(confidence_UHW: Tensor, ignored: slice | None = None) -> Mixed:
    draw = torch.Generator().manual_seed(18)
    image = torch.rand(U, 3, H, W, generator=draw)
    label = torch.randint(0, K, (U, H, W), generator=draw)
    if ignored is not None:
        label[:, :, ignored] = IGNORE_INDEX
    return Mixed(image, image, torch.ones(U, H, W, dtype=torch.bool), image, label, confidence_UHW)


def losses_of(step: ClassMix, mixed: Mixed, index: int = 0) -> StepResult:
    batch = make_batch()
    return step.losses(*step.semi_supervised_targets(to_float(batch.image_LCHW), batch.label_LHW, mixed, index))
