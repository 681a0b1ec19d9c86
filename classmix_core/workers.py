"""What several workers exchange in a step, by torch.distributed's default group. Nothing here waits for the device."""

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def mean_over_workers(value: Tensor) -> Tensor:
    """The mean of a float tensor over all workers."""
    value = value.clone()
    dist.all_reduce(value)
    return value / dist.get_world_size()


def from_next_worker(value: Tensor) -> Tensor:
    """The tensor that the next worker passes, of the same shape; the last worker gets that of the first."""
    rank, workers = dist.get_rank(), dist.get_world_size()
    if workers == 1:  # gloo cannot send to itself
        return value
    received = torch.empty_like(value, memory_format=torch.contiguous_format)
    exchange = [
        dist.P2POp(dist.isend, value.contiguous(), (rank - 1) % workers),
        dist.P2POp(dist.irecv, received, (rank + 1) % workers),
    ]
    for request in dist.batch_isend_irecv(exchange):
        request.wait()  # of the device's stream, where there is one
    return received


def itself(value: T) -> T:
    """What one worker alone gets from all workers, or from the next one."""
    return value


def next_of_batch(value_UX: Tensor, from_next_worker: Callable[[Tensor], Tensor]) -> Tensor:
    """The value of image i + 1 at place i; after the last one comes the first of the next worker (cyclic)."""
    return torch.cat((value_UX[1:], from_next_worker(value_UX[:1])))
