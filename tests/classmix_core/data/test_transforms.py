"""Resizing and cropping of an image and its label."""

import numpy as np
import pytest
import torch
from torch import Tensor

from classmix_core.constants import IGNORE_INDEX
from classmix_core.data.transforms import random_crop, resize_image, resize_label

HEIGHT, WIDTH = 11, 13


@pytest.fixture
def sample() -> tuple[Tensor, Tensor]:
    """Red is the row, green the column; the label is the row xor the column."""
    row, column = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    image = torch.stack((row, column, torch.ones_like(row)))
    return image.to(torch.uint8), (row ^ column).to(torch.uint8)


def test_what_is_smaller_than_the_crop_is_padded_right_and_below(sample: tuple[Tensor, Tensor]) -> None:
    source, mask = sample
    image, label = random_crop(source, mask, (14, 20), np.random.default_rng(0))
    assert image.shape == (3, 14, 20)
    assert torch.equal(image[:, :HEIGHT, :WIDTH], source)
    assert torch.equal(label[:HEIGHT, :WIDTH], mask)
    outside = torch.ones(14, 20, dtype=torch.bool)
    outside[:HEIGHT, :WIDTH] = False
    assert (image[:, outside] == 0).all()
    assert (label[outside] == IGNORE_INDEX).all()


def test_a_crop_may_be_smaller_one_way_and_larger_the_other(sample: tuple[Tensor, Tensor]) -> None:
    source, mask = sample
    image, label = random_crop(source, mask, (8, 20), np.random.default_rng(1))
    top = int(image[0, 0, 0])
    assert torch.equal(label[:, :WIDTH], mask[top : top + 8])
    assert (label[:, WIDTH:] == IGNORE_INDEX).all()


def test_a_crop_of_the_size_of_the_image_is_the_image(sample: tuple[Tensor, Tensor]) -> None:
    source, mask = sample
    image, label = random_crop(source, mask, (HEIGHT, WIDTH), np.random.default_rng(0))
    assert torch.equal(image, source)
    assert torch.equal(label, mask)


def test_a_label_is_resized_to_the_nearest_and_gains_no_value() -> None:
    label = torch.tensor([[0, 9], [IGNORE_INDEX, 4]], dtype=torch.uint8)
    doubled = resize_label(label, (4, 6))
    assert torch.equal(doubled, label.repeat_interleave(2, 0).repeat_interleave(3, 1))
    assert torch.equal(resize_label(doubled, (2, 2)), label)
    assert resize_label(label, None) is label


def test_an_image_is_resized_smoothly_over_the_same_places_as_its_label() -> None:
    edge = torch.zeros(3, 8, 16, dtype=torch.uint8)
    edge[:, :, 8:] = 200
    image, label = resize_image(edge, (5, 8)), resize_label((edge[0] > 0).to(torch.uint8), (5, 8))
    assert image.dtype == torch.uint8
    assert torch.equal(image[0] > 100, label == 1)
    assert resize_image(edge, None) is edge
