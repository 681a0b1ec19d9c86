"""Evaluation that several workers share."""

from dataclasses import dataclass

import pytest
import torch

from classmix_core.config import DataConfig
from harness.config.train import EvalConfig, TrainConfig
from harness.errors import Interrupted
from harness.training.context import LocalContext
from harness.training.dataloaders import load_data_once
from harness.training.evaluator import Evaluator


@dataclass
class Asked(LocalContext):
    """Counts how often it is asked whether to stop, and says so the given time."""

    times: int = 0
    stop_at: int | None = None

    def __post_init__(self) -> None:
        def stopping() -> bool:
            self.times += 1
            return self.times == self.stop_at

        self.stopping = stopping


def shared(rank: int, workers: int, batches: int, stop_at: int | None = None) -> tuple[int, int]:
    """How often a worker asked, and how many of its batches it got to."""
    context = Asked(torch.device("cpu"), print, rank=rank, world_size=workers, stop_at=stop_at)
    config = TrainConfig(eval=EvalConfig(batch=2))
    evaluator = Evaluator(config, load_data_once(DataConfig()), context)
    seen = 0
    try:
        for _ in evaluator.until_stopped(iter(range(batches)), images=9):
            seen += 1
    except Interrupted:
        pass
    return context.times, seen


def test_all_workers_ask_equally_often_though_they_have_more_or_fewer_images() -> None:
    """9 images on 4 workers: 3, 2, 2, 2, of which the first has two batches of 2 and all others one."""
    assert [shared(rank, 4, 2 if rank == 0 else 1) for rank in range(4)] == [(2, 2), (2, 1), (2, 1), (2, 1)]


def test_batches_in_parts_of_one_size_are_not_asked_for_one_by_one_by_several_workers() -> None:
    assert shared(0, 4, 4) == (2, 4)
    assert shared(0, 1, 9) == (9, 9), "one worker alone need not agree with others"


@pytest.mark.parametrize("workers", [1, 4])
def test_it_ends_where_it_is_told_so(workers: int) -> None:
    assert shared(0, workers, 2, stop_at=2) == (2, 1)
