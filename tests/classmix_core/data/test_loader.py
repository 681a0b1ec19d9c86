"""Training samples, and the batches of training and evaluation."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from classmix_core.constants import IGNORE_INDEX
from classmix_core.data.loader import TrainingSet, evaluation_batches, prefetch, training_batches
from classmix_core.data.sampler import EndlessSampler
from classmix_core.data.samples import ArraySamples

COUNT, BATCH = 7, 3
HEIGHT, WIDTH = 11, 13


def samples(count: int = COUNT) -> ArraySamples:
    """Red is the row, green the column, blue the number of the image; the label is the row xor the column."""
    row, column = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    images = [torch.stack((row, column, torch.full_like(row, index))) for index in range(count)]
    label = (row ^ column).to(torch.uint8).expand(count, -1, -1)
    return ArraySamples([f"{index:02}" for index in range(count)], torch.stack(images).to(torch.uint8), label)


class OnlyImages(ArraySamples):
    """A set whose labels nobody may read."""

    def label(self, index: int) -> Tensor:
        raise AssertionError(f"the label of {index} was read")


def crop_of(data: TrainingSet, number: int, position: int) -> tuple[Tensor, Tensor]:
    return data[(number, position)]


def test_a_crop_is_a_window_of_image_and_label_and_reaches_every_edge() -> None:
    data, corners = TrainingSet(samples(), labels=True, resize=None, crop=(8, 9), seed=3), set()
    for position in range(300):
        image, label = crop_of(data, 4, position)
        top, left = int(image[0, 0, 0]), int(image[1, 0, 0])
        corners.add((top, left))
        assert torch.equal(image, data.samples.image(4)[:, top : top + 8, left : left + 9])
        assert torch.equal(label, data.samples.label(4)[top : top + 8, left : left + 9])
    assert corners == {(top, left) for top in range(HEIGHT - 8 + 1) for left in range(WIDTH - 9 + 1)}


def test_where_a_crop_lies_depends_on_seed_and_position_alone() -> None:
    def corner(seed: int, number: int, position: int) -> tuple[int, ...]:
        data = TrainingSet(samples(), labels=True, resize=None, crop=(8, 9), seed=seed)
        return tuple(crop_of(data, number, position)[0][:2, 0, 0].tolist())

    assert all(corner(3, number, 12) == corner(3, 0, 12) for number in range(COUNT))
    assert len({corner(3, 0, position) for position in range(50)}) > 10
    assert len({corner(seed, 0, 12) for seed in range(50)}) > 10


def zooming(low: float, high: float, crop: tuple[int, int] | None, side: int = 60) -> TrainingSet:
    """Of images whose red is twice the column and whose label is the column."""
    column = torch.arange(side, dtype=torch.uint8).expand(2, side, side)
    source = ArraySamples(["0", "1"], torch.stack((2 * column, column, column), 1), column)
    return TrainingSet(source, labels=True, resize=None, crop=crop, seed=3, scale=(low, high))


def test_a_crop_is_taken_from_the_zoomed_image_and_labels_follow() -> None:
    firsts, data = set(), zooming(2.0, 2.0, (30, 40))
    for position in range(200):
        image, label = data[(0, position)]
        assert (image.shape, label.shape) == ((3, 30, 40), (30, 40))
        assert int(label.max()) - int(label.min()) in (19, 20), "40 columns of an image twice as wide"
        assert (image[0].int() - 2 * label.int()).abs().max() <= 1
        firsts.add(int(label.min()))
    assert min(firsts) == 0
    assert max(firsts) == 40


def test_what_the_zoom_makes_smaller_than_the_crop_is_padded() -> None:
    image, label = zooming(0.5, 0.5, (40, 50))[(0, 7)]
    assert (label[:30, :30] != IGNORE_INDEX).all()
    assert (image[0, :30, :30].int() - 2 * label[:30, :30].int()).abs().max() <= 2
    label[:30, :30] = IGNORE_INDEX
    assert (label == IGNORE_INDEX).all()
    image[:, :30, :30] = 0
    assert (image == 0).all()


def test_without_a_crop_a_zoomed_image_keeps_its_size() -> None:
    sides = []
    for position in range(400):
        image, label = zooming(0.5, 1.0, None)[(0, position)]
        assert image.shape == (3, 60, 60)
        sides.append(int((label != IGNORE_INDEX).any(0).sum()) / 60)
    assert 0.5 <= min(sides) < 0.53
    assert 0.97 < max(sides) <= 1
    assert abs(np.mean(sides) - 0.75) < 0.03
    assert zooming(1.5, 2.0, None)[(0, 0)][1].max() < IGNORE_INDEX


def test_without_resize_and_crop_a_sample_is_what_is_stored() -> None:
    image, label = crop_of(TrainingSet(samples(), labels=True, resize=None, crop=None, seed=3), 2, 0)
    assert torch.equal(image, samples().image(2))
    assert torch.equal(label, samples().label(2))


@pytest.mark.parametrize("crop", [None, (8, 20)])
def test_unlabelled_samples_read_no_label_and_mark_the_padding(crop: tuple[int, int] | None) -> None:
    source = samples()
    data = TrainingSet(
        OnlyImages(source.names, source.images, source.labels), labels=False, resize=None, crop=crop, seed=3
    )
    image, label = crop_of(data, 1, 2)
    assert label.dtype == torch.uint8
    assert label.shape == image.shape[1:]
    assert (label[:, :WIDTH] == 0).all()
    assert (label[:, WIDTH:] == IGNORE_INDEX).all()


def test_resizing_comes_before_cropping() -> None:
    data = TrainingSet(samples(), labels=True, resize=(22, 26), crop=(21, 25), seed=3)
    image, label = crop_of(data, 1, 0)
    assert image.shape == (3, 21, 25)
    assert label.shape == (21, 25)
    assert image[0].max() >= HEIGHT - 2


def batches(steps: int, **options: Any) -> list[tuple[Tensor, Tensor]]:
    data = TrainingSet(samples(), labels=True, resize=None, crop=(8, 9), seed=3)
    given = {"seed": 5, "rank": 0, "world_size": 1, "first_step": 0, "loader_workers": 0, **options}
    loader = training_batches(data, given.pop("batch", BATCH), device=torch.device("cpu"), **given)
    return list(islice(loader, steps))


def same(first: Iterator[Any] | list[Any], second: Iterator[Any] | list[Any]) -> bool:
    return all(torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))


def test_training_batches_are_the_samples_of_the_stream() -> None:
    data = TrainingSet(samples(), labels=True, resize=None, crop=(8, 9), seed=3)
    stream = EndlessSampler(COUNT, BATCH, seed=5, rank=0, world_size=1, first_step=0)
    for (images, labels), numbers in zip(batches(6), islice(stream, 6), strict=True):
        assert images.shape == (BATCH, 3, 8, 9)
        assert images.dtype == labels.dtype == torch.uint8
        for image, label, item in zip(images, labels, numbers, strict=True):
            assert torch.equal(image, data[item][0])
            assert torch.equal(label, data[item][1])


def test_training_resumed_at_a_step_sees_the_batches_of_a_straight_run() -> None:
    assert same(batches(5, first_step=4), batches(9)[4:])


def test_two_ranks_together_see_the_batches_of_one_worker() -> None:
    ranks = [batches(5, rank=rank, world_size=2) for rank in (0, 1)]
    together = [[torch.cat(pair) for pair in zip(*parts, strict=True)] for parts in zip(*ranks, strict=True)]
    assert same(together, batches(5, batch=2 * BATCH))


def test_loading_draws_nothing_from_the_global_generators() -> None:
    torch.manual_seed(0)
    before, numpy_before = torch.get_rng_state(), repr(np.random.get_state())
    batches(3)
    assert torch.equal(before, torch.get_rng_state())
    assert numpy_before == repr(np.random.get_state())


@pytest.mark.slow
def test_a_loader_process_gives_the_batches_that_this_process_would() -> None:
    assert same(batches(8, loader_workers=1), batches(8))


@pytest.mark.parametrize("world_size", [1, 2, 3, 9])
def test_each_image_is_evaluated_once_by_one_rank(world_size: int) -> None:
    seen = []
    for rank in range(world_size):
        options = {"resize": None, "resize_labels": True, "rank": rank, "world_size": world_size}
        numbers = [int(image[2, 0, 0]) for images, _ in evaluation_batches(samples(), 2, **options) for image in images]
        assert numbers == list(range(rank, COUNT, world_size))
        seen += numbers
    assert sorted(seen) == list(range(COUNT))


class TwoSizes(ArraySamples):
    """Odd images are narrower."""

    def image(self, index: int) -> Tensor:
        return self.images[index][:, :, : WIDTH - index % 2]

    def label(self, index: int) -> Tensor:
        return self.labels[index][:, : WIDTH - index % 2]


def test_images_of_different_sizes_are_evaluated_in_batches_of_one_size() -> None:
    source = samples()
    mixed = TwoSizes(source.names, source.images, source.labels)
    found = list(evaluation_batches(mixed, 4, resize=None, resize_labels=True, rank=0, world_size=1))
    assert [len(images) for images, _ in found] == [2, 2, 2, 1]
    assert all(images.shape[2:] == labels.shape[1:] for images, labels in found)
    assert sorted(int(image[2, 0, 0]) for images, _ in found for image in images) == list(range(COUNT))


def test_what_is_prefetched_is_the_same_in_the_same_order() -> None:
    batches = [(torch.full((1,), number), torch.full((1,), -number)) for number in range(5)]
    assert list(prefetch(iter(batches), pin=False)) == batches


def test_a_fault_while_prefetching_comes_after_the_batches_before_it() -> None:
    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        yield torch.zeros(1), torch.zeros(1)
        raise OSError("the disk is gone")

    prefetched = prefetch(batches(), pin=False)
    assert torch.equal(next(prefetched)[0], torch.zeros(1))
    with pytest.raises(OSError, match="the disk is gone"):
        next(prefetched)


@pytest.mark.parametrize(("resize_labels", "size"), [(True, (8, 9)), (False, (HEIGHT, WIDTH))])
def test_labels_are_evaluated_at_their_own_size_unless_they_are_resized(
    resize_labels: bool, size: tuple[int, int]
) -> None:
    found = evaluation_batches(samples(), 4, resize=(8, 9), resize_labels=resize_labels, rank=0, world_size=1)
    for images, labels in found:
        assert images.shape[2:] == (8, 9)
        assert labels.shape[1:] == size
