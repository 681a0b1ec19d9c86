"""The endless stream of sample numbers."""

from collections import Counter
from itertools import chain, islice
from typing import Any

import pytest

from classmix_core.data.sampler import EndlessSampler

COUNT, BATCH, WORLD = 7, 3, 2


def stream(steps: int, **options: Any) -> list[list[tuple[int, int]]]:
    given = {"seed": 5, "rank": 0, "world_size": 1, "first_step": 0, **options}
    return list(islice(EndlessSampler(given.pop("count", COUNT), given.pop("batch", BATCH), **given), steps))


def test_every_epoch_is_a_permutation_and_no_two_are_alike() -> None:
    batches = stream(70)
    numbers = [number for batch in batches for number, _ in batch]
    epochs = [tuple(numbers[start : start + COUNT]) for start in range(0, len(numbers), COUNT)]
    assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
    assert len(set(epochs)) > 25
    assert [position for batch in batches for _, position in batch] == list(range(210))


def test_a_batch_larger_than_the_set_repeats_images_evenly() -> None:
    (batch,) = stream(1, count=2, batch=9)
    assert sorted(Counter(number for number, _ in batch).values()) == [4, 5]


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_slices_of_all_ranks_are_the_stream_of_one_worker(world_size: int) -> None:
    ranks = [stream(20, rank=rank, world_size=world_size) for rank in range(world_size)]
    together = [list(chain(*parts)) for parts in zip(*ranks, strict=True)]
    assert together == stream(20, batch=BATCH * world_size)


@pytest.mark.parametrize("first_step", [1, 4, 33])
@pytest.mark.parametrize("rank", [0, 1])
def test_starting_at_a_step_is_skipping_those_before(first_step: int, rank: int) -> None:
    straight = stream(first_step + 9, rank=rank, world_size=WORLD)
    assert stream(9, rank=rank, world_size=WORLD, first_step=first_step) == straight[first_step:]


def test_the_seed_decides_the_order() -> None:
    assert stream(9) == stream(9)
    assert stream(9) != stream(9, seed=6)
