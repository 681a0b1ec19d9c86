"""What several workers exchange in a step, by torch.distributed's default group. Nothing here waits for the device, and
what is begun early and awaited late costs no time while there is something else to compute."""

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
Awaited = Callable[[], Tensor]
"""Waits for what was begun; the same tensor each time."""


def mean_over_workers(value: Tensor) -> Tensor:
    """The mean of a float tensor over all workers."""
    return mean_later(value)()


def mean_later(value: Tensor) -> Awaited:
    """Begin to average a float tensor over all workers."""
    value, workers = value.clone(), dist.get_world_size()
    request = dist.all_reduce(value, async_op=True)

    def wait() -> Tensor:
        if request is not None:
            request.wait()  # of the device's stream, where there is one
        return value / workers

    return wait


def from_next_worker(value: Tensor) -> Awaited:
    """Begin to fetch the tensor that the next worker passes, of the same shape; the last worker gets that of the first.

    Those that are begun one after the other arrive in that order.
    """
    rank, workers = dist.get_rank(), dist.get_world_size()
    if workers == 1:  # gloo cannot send to itself
        return already(value)
    sent, received = value.contiguous(), torch.empty_like(value, memory_format=torch.contiguous_format)
    before, after = (rank - 1) % workers, (rank + 1) % workers
    if dist.get_backend() == "nccl":  # which takes both at once, or they wait for each other
        exchange = [dist.P2POp(dist.isend, sent, before), dist.P2POp(dist.irecv, received, after)]
        requests = dist.batch_isend_irecv(exchange)
    else:
        requests = [one for one in (dist.isend(sent, before), dist.irecv(received, after)) if one is not None]

    def wait() -> Tensor:
        while requests:
            requests.pop().wait()
        return received

    return wait


def already(value: T) -> Callable[[], T]:
    """What one worker alone gets from all workers, or from the next one."""
    return lambda: value


def next_of_batch(value_UX: Tensor, next_1X: Tensor) -> Tensor:
    """The value of image i + 1 at place i; after the last one comes the first of the next worker (cyclic)."""
    return torch.cat((value_UX[1:], next_1X))
