"""What workers exchange, in a group of one process; test_data_parallel.py has groups of several."""

import pytest
import torch

from classmix_core.workers import from_next_worker, mean_over_workers, next_of_batch


@pytest.mark.usefixtures("group_of_one")
def test_one_worker_of_a_group_is_its_own_neighbour_and_mean() -> None:
    """As on a cluster, where one worker is in a group as well."""
    value = torch.arange(12.0).view(3, 4)
    assert torch.equal(next_of_batch(value, from_next_worker(value[:1])()), value.roll(-1, 0))
    assert torch.equal(mean_over_workers(value), value)
