"""The likeliest class, against torch's."""

import pytest
import torch

from classmix_core.argmax import argmax


@pytest.mark.parametrize("classes", [2, 19, 255])
@pytest.mark.parametrize("scale", [1.0, 1e-40, 1e30])
def test_it_is_the_first_of_the_largest_whatever_their_size(classes: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randint(-3, 3, (2, classes, 7, 9), generator=generator) * scale  # so that many are equal
    before = logits.clone()
    label, below = argmax(logits)
    assert label.dtype == torch.uint8
    assert torch.equal(label, logits.argmax(1).byte())
    assert torch.equal(below, logits - logits.amax(1, keepdim=True))
    assert torch.equal(logits, before)


def test_of_two_that_differ_by_the_least_there_is_the_larger_is_taken() -> None:
    one = torch.ones(1)
    logits = torch.stack((one, one.nextafter(2 * one), one)).view(1, 3, 1, 1)
    assert argmax(logits)[0].item() == 1


def test_it_is_a_class_whatever_the_network_says() -> None:
    logits = torch.tensor([torch.nan, -torch.nan, torch.inf, -torch.inf]).expand(4, 4).T.reshape(4, 4, 1, 1).clone()
    assert int(argmax(logits)[0].max()) < 4


def test_half_precision_is_taken_too() -> None:
    logits = torch.randn(1, 5, 4, 4).bfloat16()
    assert torch.equal(argmax(logits)[0], logits.argmax(1).byte())
