"""The teacher: an exponential moving average of the student (Mean Teacher; ClassMix, section 3.2)."""

import copy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from classmix_core.models.normalise import Normalise


def make_teacher(student: nn.Module) -> nn.Module:
    """A copy of `student` that no gradient reaches."""
    return copy.deepcopy(student).requires_grad_(False)


def warmed_up_decay(step: int, decay: float) -> float:
    """min(1 - 1 / (step + 1), decay): early on the average is over the few steps there were.

    Args:
        step: 0 at the first optimiser step, where the teacher becomes a copy of the student.
        decay: 0 <= decay < 1.
    """
    return min(1 - 1 / (step + 1), decay)


@torch.no_grad()
def update_teacher_(teacher: nn.Module, student: nn.Module, decay: float, average_buffers: bool) -> None:
    """teacher = decay * teacher + (1 - decay) * student, all parameters in a few fused calls, without a host sync.

    (torch's AveragedModel has the same arithmetic, but reads a counter from the device at every update.)

    Args:
        average_buffers: treat `running_statistics` like parameters. Leave it off when the teacher's own forward passes
            keep them.
    """
    pairs: list[tuple[Tensor, Tensor]] = list(zip(teacher.parameters(), student.parameters(), strict=True))
    if average_buffers:
        pairs += zip(running_statistics(teacher), running_statistics(student), strict=True)
    averages, values = ([pair[side].detach() for pair in pairs] for side in (0, 1))
    get_ema_multi_avg_fn(decay)(averages, values, None)


def running_statistics(network: nn.Module) -> list[Tensor]:
    """Means and variances of batch norms: the floating point buffers, but for the constants of `Normalise`."""
    owners = (module for module in network.modules() if not isinstance(module, Normalise))
    return [buffer for module in owners for buffer in module.buffers(recurse=False) if buffer.is_floating_point()]
