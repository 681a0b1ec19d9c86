"""What workers exchange, in a group of one process; test_classmix.py has groups of several."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from classmix_core.workers import from_next_worker, mean_over_workers, next_of_batch


@pytest.fixture
def one_worker() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_worker")
def test_one_worker_of_a_group_is_its_own_neighbour_and_mean() -> None:
    """As on a cluster, where one worker is in a group as well."""
    value = torch.arange(12.0).view(3, 4)
    assert torch.equal(next_of_batch(value, from_next_worker), value.roll(-1, 0))
    assert torch.equal(mean_over_workers(value), value)
