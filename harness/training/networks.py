"""Student and teacher, as a run's configuration wants them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from classmix_core.config import Size
from classmix_core.ema import make_teacher
from classmix_core.models import build_model
from classmix_core.models.sync_norm import synchronise_batch_norm_
from classmix_core.models.unused_parameters import freeze_unused_parameters_
from harness.config.train import TrainConfig
from harness.errors import UserError
from harness.training.context import TrainContext
from harness.training.pretrained import load_weights_into


@contextmanager
def refusing_one_value(keys: str) -> Iterator[None]:
    """
    Args:
        keys: that decide how many images a pass has.

    Raises:
        UserError: in the block a batch norm could not train, since it saw one value of each channel.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):  # torch has no class for it
            raise
        rule = "a pass has 2 images or more where a batch norm of the network sees one value of each image"
        raise UserError(f"{keys}: `{rule}` must hold, but it has 1.") from error


def build_networks(
    config: TrainConfig, num_classes: int, size: Size, context: TrainContext, load_weights: bool
) -> tuple[nn.Module, nn.Module]:
    """Student and teacher on the context's device, with the same weights on every worker.

    Args:
        size: H, W of training images.
        load_weights: from `model.weights`; a run that goes on has its own.

    Raises:
        InvalidValue, DataError: see `build_model` and `load_weights_into`.
    """
    torch.manual_seed(config.seed)
    student = build_model(config.model, num_classes)
    if config.model.name != "unet":  # which uses all that it has
        freeze_unused_parameters_(student, size)
    if config.model.weights and load_weights:
        load_weights_into(student, config.model.weights)
    student.to(context.device)
    if config.channels_last:
        student.to(memory_format=torch.channels_last)
    teacher = make_teacher(student)
    for network in (student, teacher):
        if config.model.sync_bn and context.world_size > 1:
            synchronise_batch_norm_(network, lambda value: context.mean(value), context.world_size)
        if config.compile:
            network.compile()
    return student, teacher
