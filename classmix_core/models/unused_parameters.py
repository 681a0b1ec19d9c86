"""Parameters of a network that its output does not depend on, such as the classifier of an encoder."""

import copy

import torch
from torch import nn

from classmix_core.config import Size


def freeze_unused_parameters_(network: nn.Module, size: Size) -> list[str]:
    """Stop the gradient of parameters that get none: data parallel training would wait for it for ever.

    A copy on the meta device, which computes nothing, goes once forwards and backwards.

    Args:
        size: H, W of the images.

    Returns:
        their names.
    """
    dry = copy.deepcopy(network).to("meta").train()
    dry(torch.empty(2, 3, *size, device="meta")).sum().backward()
    unused = [name for name, parameter in dry.named_parameters() if parameter.requires_grad and parameter.grad is None]
    for name in unused:
        network.get_parameter(name).requires_grad_(False)
    return unused
