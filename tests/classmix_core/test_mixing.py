"""Masks and pasting, against loops over pixels and the distributions that were promised.

Shapes: B batch, K classes, H W image.
"""

import math
from itertools import combinations, product

import pytest
import torch
from torch import Tensor

from classmix_core.batch_generator import BatchGenerator
from classmix_core.config import MIXES
from classmix_core.constants import IGNORE_INDEX
from classmix_core.mixing import (
    COW_SIGMA_OF_HEIGHT,
    paste,
    sample_class_mask,
    sample_cow_mask,
    sample_cut_mask,
    sample_mask,
)

CLASSES = 6
SHAPE_BHW = torch.Size((5, 7, 11))


def labels(dtype: torch.dtype = torch.int64) -> Tensor:
    """Five label maps with 6, 5, 2, 1 and 0 classes; the second and the last hold ignored pixels."""
    draw = torch.Generator().manual_seed(1)
    label_BHW = torch.randint(0, CLASSES, SHAPE_BHW, generator=draw)
    label_BHW[1][label_BHW[1] == 2] = IGNORE_INDEX
    label_BHW[2] = torch.where(label_BHW[2] < 2, 0, 5)
    label_BHW[3], label_BHW[4] = 3, IGNORE_INDEX
    return label_BHW.to(dtype)


def present_and_chosen(label_HW: Tensor, mask_HW: Tensor) -> tuple[set[int], set[int], set[int]]:
    """Classes present, with a pixel in the mask, and with a pixel outside of it, pixel by pixel."""
    present, inside, outside = set(), set(), set()
    for y, x in product(range(label_HW.shape[0]), range(label_HW.shape[1])):
        value = int(label_HW[y, x])
        if value != IGNORE_INDEX:
            present.add(value)
        (inside if mask_HW[y, x] else outside).add(value)
    return present, inside, outside


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_class_mask_is_whole_classes_and_half_of_those_present(dtype: torch.dtype, generator: BatchGenerator) -> None:
    label_BHW = labels(dtype)
    for _ in range(20):
        mask_BHW = sample_class_mask(label_BHW, CLASSES, generator)
        assert mask_BHW.dtype == torch.bool
        assert mask_BHW.shape == SHAPE_BHW
        for label_HW, mask_HW in zip(label_BHW, mask_BHW, strict=True):
            present, inside, outside = present_and_chosen(label_HW, mask_HW)
            assert len(inside) == len(present) // 2
            assert inside <= present, "an ignored pixel was chosen"
            assert not inside & outside, "a class was cut apart"


def test_class_mask_is_empty_where_one_class_or_none_is_present(generator: BatchGenerator) -> None:
    label_BHW = labels()
    for _ in range(20):
        assert not sample_class_mask(label_BHW, CLASSES, generator)[3:].any()


@pytest.mark.parametrize("present", [(0, 2, 3, 5), (0, 1, 2, 4, 5)])
def test_class_mask_draws_every_set_of_classes_equally_often(
    present: tuple[int, ...], generator: BatchGenerator
) -> None:
    draws, size = 12_000, len(present) // 2
    rows = torch.tensor([*present, present[0], present[0], IGNORE_INDEX])  # a common class is not drawn more often
    mask_BHW = sample_class_mask(rows.expand(draws, 1, -1), CLASSES, generator)
    code_B = (mask_BHW[:, 0, : len(present)] * 2 ** torch.arange(len(present))).sum(1)
    sets = list(combinations(range(len(present)), size))
    expected = 1 / len(sets)
    for chosen in sets:
        share = float((code_B == sum(2**i for i in chosen)).float().mean())
        assert abs(share - expected) < 4.5 * math.sqrt(expected * (1 - expected) / draws)


def test_cut_mask_is_one_box_of_half_the_area(generator: BatchGenerator) -> None:
    height, width = 17, 26
    mask_BHW = sample_cut_mask(torch.Size((200, height, width)), generator)
    for mask_HW in mask_BHW:
        rows, columns = mask_HW.any(1), mask_HW.any(0)
        assert torch.equal(mask_HW, rows[:, None] & columns[None])
        for line in (rows, columns):
            first, last = line.nonzero()[[0, -1], 0].tolist()
            assert line[first : last + 1].all()
        # sides are rounded to half a pixel each
        assert abs(int(mask_HW.sum()) - height * width / 2) <= (height + width) / 2 + 0.25


def test_cut_mask_varies_in_aspect_and_reaches_every_edge(generator: BatchGenerator) -> None:
    height, width = 17, 26
    mask_BHW = sample_cut_mask(torch.Size((400, height, width)), generator)
    heights, widths = mask_BHW.any(2).sum(1), mask_BHW.any(1).sum(1)
    assert heights.min() <= height // 2 + 1
    assert heights.max() >= height - 1
    assert widths.min() <= width // 2 + 1
    assert widths.max() >= width - 1
    for line_B in (mask_BHW[:, 0].any(1), mask_BHW[:, -1].any(1), mask_BHW[:, :, 0].any(1), mask_BHW[:, :, -1].any(1)):
        assert 0.05 < line_B.float().mean() < 0.95


def test_cow_mask_covers_about_half(generator: BatchGenerator) -> None:
    share_B = sample_cow_mask(torch.Size((300, 48, 70)), generator).float().mean((1, 2))
    assert abs(float(share_B.mean()) - 0.5) < 0.01
    assert 0.3 < share_B.min() < share_B.max() < 0.7
    assert share_B.unique().numel() > 100


def crossing_rate(sigma: float) -> float:
    """How often neighbouring pixels of white noise, blurred by `sigma`, lie on two sides of the mean (Rice)."""
    return math.acos(math.exp(-1 / (4 * sigma**2))) / math.pi


@pytest.mark.parametrize("height", [64, 128])
@pytest.mark.parametrize("along", ["rows", "columns"])
def test_cow_mask_has_blobs_that_grow_with_the_height(height: int, along: str, generator: BatchGenerator) -> None:
    mask_BHW = sample_cow_mask(torch.Size((150, height, 96)), generator)
    if along == "columns":
        mask_BHW = mask_BHW.transpose(1, 2)
    rate_B = (mask_BHW[:, :, 1:] != mask_BHW[:, :, :-1]).float().mean((1, 2))
    low, high = (math.log(share * height) for share in COW_SIGMA_OF_HEIGHT)
    sigmas = [math.exp(low + (high - low) * (i + 0.5) / 100) for i in range(100)]
    expected = sum(map(crossing_rate, sigmas)) / len(sigmas)
    assert float(rate_B.mean()) == pytest.approx(expected, rel=0.12)
    assert float(rate_B.max()) == pytest.approx(crossing_rate(sigmas[0]), rel=0.25)
    assert float(rate_B.min()) == pytest.approx(crossing_rate(sigmas[-1]), rel=0.4)


def test_no_mix_leaves_every_image_itself(generator: BatchGenerator) -> None:
    mask_BHW = sample_mask("none", labels(), CLASSES, generator)
    assert mask_BHW.dtype == torch.bool
    assert mask_BHW.all()


@pytest.mark.parametrize("mix", MIXES)
def test_the_mask_is_drawn_from_the_generator_alone(mix: str) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, second, other = (
        sample_mask(mix, labels(), CLASSES, BatchGenerator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, second)
    assert torch.equal(first, other) == (mix == "none")


def test_each_mix_is_the_mask_of_its_name() -> None:
    def seeded() -> BatchGenerator:
        return BatchGenerator().manual_seed(8)

    by_class = sample_class_mask(labels(), CLASSES, seeded())
    assert torch.equal(sample_mask("class", labels(), CLASSES, seeded()), by_class)
    assert torch.equal(sample_mask("cut", labels(), CLASSES, seeded()), sample_cut_mask(SHAPE_BHW, seeded()))
    assert torch.equal(sample_mask("cow", labels(), CLASSES, seeded()), sample_cow_mask(SHAPE_BHW, seeded()))


def test_paste_shows_the_source_in_the_mask_and_the_target_elsewhere(generator: BatchGenerator) -> None:
    source, target = torch.rand(2, 5, 3, 7, 11, generator=generator)
    mask = torch.rand(5, 7, 11, generator=generator) < 0.4
    pasted, pasted_label = paste(source, target, mask), paste(source[:, 0], target[:, 0], mask)
    for b, c, y, x in product(range(5), range(3), range(7), range(11)):
        assert pasted[b, c, y, x] == (source if mask[b, y, x] else target)[b, c, y, x]
    for b, y, x in product(range(5), range(7), range(11)):
        assert pasted_label[b, y, x] == (source if mask[b, y, x] else target)[b, 0, y, x]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_paste_keeps_the_type(dtype: torch.dtype) -> None:
    zero = torch.zeros(2, 3, 5, dtype=dtype)
    assert paste(zero, zero, zero.bool()).dtype == dtype
