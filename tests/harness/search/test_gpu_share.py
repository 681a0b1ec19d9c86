"""Trials that share a GPU."""

import pytest
import torch

from harness.search.trial import cap_memory


@pytest.mark.gpu
def test_a_trial_that_wants_more_than_its_share_of_the_memory_fails(cuda: torch.device) -> None:
    device = torch.device("cuda", 0)
    memory = torch.cuda.get_device_properties(device).total_memory
    cap_memory(0.25, device)
    try:
        torch.empty(memory // 8, dtype=torch.uint8, device=device)
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(memory // 2, dtype=torch.uint8, device=device)
    finally:
        cap_memory(1.0, device)
        torch.cuda.empty_cache()
