"""The teacher: an exponential moving average of the student (Mean Teacher; ClassMix, section 3.2)."""

import copy
from collections.abc import Iterable

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


class MovingAverage:
    """Keeps a teacher the average of its student: all tensors in a few fused calls, without a host sync.

    (torch's AveragedModel has the same arithmetic, but reads a counter from the device at every update, and looks for
    the tensors anew, which takes longer than the update.)

    Args:
        teacher, student: of one architecture, on their device; their tensors stay what they are, only values change.

    Raises:
        ValueError: the two have different numbers of tensors.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module) -> None:
        self.parameters = detached(teacher.parameters(), student.parameters())
        self.buffers = detached(running_statistics(teacher), running_statistics(student))

    @torch.no_grad()
    def update_(self, decay: float, average_buffers: bool) -> None:
        """teacher = decay * teacher + (1 - decay) * student.

        Args:
            average_buffers: treat `running_statistics` like parameters. Leave it off when the teacher's own forward
                passes keep them.
        """
        average = get_ema_multi_avg_fn(decay)
        for averages, values in (self.parameters, self.buffers) if average_buffers else (self.parameters,):
            if averages:
                average(averages, values, None)


def detached(averages: Iterable[Tensor], values: Iterable[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    pairs = [(average.detach(), value.detach()) for average, value in zip(averages, values, strict=True)]
    return [average for average, _ in pairs], [value for _, value in pairs]


def running_statistics(network: nn.Module) -> list[Tensor]:
    """Means and variances of batch norms: the floating point buffers, but for the constants of `Normalise`."""
    owners = (module for module in network.modules() if not isinstance(module, Normalise))
    return [buffer for module in owners for buffer in module.buffers(recurse=False) if buffer.is_floating_point()]
