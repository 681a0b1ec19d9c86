"""Augmentation, against torchvision and closed forms. Images here are float RGB in 0..1.

Shapes: B batch, C = 3 channels, H W image.
"""

import math

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from classmix_core.augment import (
    BLUR_SIGMA_MIN,
    LUMA,
    color_jitter,
    flip,
    gaussian_blur,
    jitter_matrix,
    to_float,
)
from classmix_core.batch_generator import BatchGenerator

SHAPE_BCHW = (5, 3, 13, 11)


@pytest.fixture
def image() -> Tensor:
    """Five images of different brightness, far enough from 0 and 1 that a mild jitter clips nothing."""
    draw = torch.Generator().manual_seed(6)
    base = torch.tensor([0.35, 0.4, 0.45, 0.5, 0.55]).view(-1, 1, 1, 1)
    return base + 0.1 * torch.rand(SHAPE_BCHW, generator=draw)


def luma(image_BCHW: Tensor) -> Tensor:
    return (image_BCHW * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1)


def test_to_float_maps_0_to_0_and_255_to_1() -> None:
    image = torch.tensor([0, 51, 255], dtype=torch.uint8)
    assert to_float(image).tolist() == pytest.approx([0, 0.2, 1])


def test_flip_mirrors_image_and_label_together_or_not_at_all(generator: BatchGenerator) -> None:
    label = torch.randint(0, 256, (400, 2, 5), dtype=torch.uint8, generator=generator)
    image = torch.stack((label, label // 2, 255 - label), 1).float()
    flipped_image, flipped_label = flip(image, label, generator)
    assert flipped_label.dtype == torch.uint8
    mirrored = 0
    for before, after, pixels in zip(label, flipped_label, flipped_image, strict=True):
        assert torch.equal(pixels, torch.stack((after, after // 2, 255 - after)).float())
        assert torch.equal(after, before) or torch.equal(after, before.flip(-1))
        mirrored += not torch.equal(after, before)
    assert abs(mirrored / 400 - 0.5) < 4 * math.sqrt(0.25 / 400)


def jittered(image: Tensor, brightness: float, contrast: float, saturation: float, hue: float) -> Tensor:
    factors = [torch.full((len(image),), value) for value in (brightness, contrast, saturation, hue)]
    matrix_B33, offset_B31 = jitter_matrix(image.mean((2, 3)), *factors)
    return (matrix_B33 @ image.flatten(2) + offset_B31).view(image.shape)


# torchvision rounds the luma's weights to 0.2989, 0.587 and 0.114
LUMA_TOLERANCE = {"rtol": 0.0, "atol": 3e-4}


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.2])
def test_each_colour_factor_agrees_with_torchvision(factor: float, image: Tensor) -> None:
    for place, name in enumerate(("brightness", "contrast", "saturation")):
        factors = [1.0, 1.0, 1.0, 1.0]
        factors[place] = factor
        expected = getattr(reference, f"adjust_{name}")(image, factor)
        assert 0 < expected.min() < expected.max() < 1, "clipped, so that it proves nothing"
        torch.testing.assert_close(jittered(image, *factors), expected, **LUMA_TOLERANCE)


def test_the_factors_act_one_after_the_other_and_contrast_pulls_to_each_images_own_mean(image: Tensor) -> None:
    expected = reference.adjust_brightness(image, 1.2)
    expected = reference.adjust_contrast(expected, 0.7)
    expected = reference.adjust_saturation(expected, 1.3)
    assert 0 < expected.min() < expected.max() < 1
    torch.testing.assert_close(jittered(image, 1.2, 0.7, 1.3, 1.0), expected, **LUMA_TOLERANCE)


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.25, 1.0])
def test_a_turn_of_the_hue_keeps_the_luma(turn: float, image: Tensor) -> None:
    turned = jittered(image, 1, 1, 1, 1 + turn)
    torch.testing.assert_close(luma(turned), luma(image), rtol=0, atol=1e-5)
    assert torch.allclose(turned, image, atol=1e-5) == (turn == 1.0)


def test_turns_of_the_hue_add_up(image: Tensor) -> None:
    twice = jittered(jittered(image, 1, 1, 1, 1.1), 1, 1, 1, 1.15)
    torch.testing.assert_close(twice, jittered(image, 1, 1, 1, 1.25), rtol=0, atol=1e-5)


def test_half_a_turn_of_the_hue_gives_the_opposite_colour(image: Tensor) -> None:
    grey = luma(image)[:, None]
    torch.testing.assert_close(jittered(image, 1, 1, 1, 1.5) - grey, grey - image, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("strength", "probability"), [(0.0, 1.0), (0.25, 0.0)])
def test_jitter_of_strength_or_probability_0_changes_nothing(
    strength: float, probability: float, image: Tensor, generator: BatchGenerator
) -> None:
    torch.testing.assert_close(color_jitter(image, strength, probability, generator), image, rtol=0, atol=1e-6)


def test_jitter_draws_brightness_uniformly_within_its_strength(generator: BatchGenerator) -> None:
    """On grey images of one colour nothing but brightness shows."""
    grey = torch.full((4000, 3, 1, 1), 0.5)
    factor_B = color_jitter(grey, 0.25, 1.0, generator)[:, 1, 0, 0] / 0.5
    assert 0.749 < factor_B.min() < 0.755
    assert 1.245 < factor_B.max() < 1.251
    assert abs(float(factor_B.mean()) - 1) < 4 * (0.5 / math.sqrt(12)) / math.sqrt(4000)
    assert float(factor_B.std()) == pytest.approx(0.5 / math.sqrt(12), rel=0.05)


def test_jitter_changes_each_image_with_its_probability(generator: BatchGenerator) -> None:
    image = torch.rand(2000, 3, 1, 2, generator=generator) * 0.2 + 0.4
    changed_B = (color_jitter(image, 0.25, 0.8, generator) - image).abs().amax((1, 2, 3)) > 1e-5
    assert abs(float(changed_B.float().mean()) - 0.8) < 4 * math.sqrt(0.16 / 2000)


def test_jitter_stays_between_0_and_1(generator: BatchGenerator) -> None:
    image = torch.rand(50, 3, 4, 5, generator=generator)
    changed = color_jitter(image, 0.5, 1.0, generator)
    assert changed.min() == 0
    assert changed.max() == 1


def impulse_and_noise(batch: int) -> Tensor:
    """Channel 0: one bright pixel in the middle; channels 1 and 2: noise. 19 x 25 pixels."""
    image = torch.rand(batch, 3, 19, 25, generator=torch.Generator().manual_seed(9))
    image[:, 0] = 0
    image[:, 0, 9, 12] = 1
    return image


def sigma_of(blurred_BCHW: Tensor) -> Tensor:
    """Read each image's sigma off its blurred impulse."""
    ratio_B = blurred_BCHW[:, 0, 9, 13].double() / blurred_BCHW[:, 0, 9, 12].double()
    return (-1 / (2 * ratio_B.log())).sqrt()


def test_blur_agrees_with_torchvision_at_9_taps(generator: BatchGenerator) -> None:
    image = impulse_and_noise(6)
    blurred = gaussian_blur(image, 1.15, 1.0, generator)
    for before, after, sigma in zip(image, blurred, sigma_of(blurred).tolist(), strict=True):
        torch.testing.assert_close(after, reference.gaussian_blur(before, [9, 9], [sigma, sigma]), rtol=0, atol=1e-5)


def test_blur_draws_sigma_uniformly_up_to_its_maximum(generator: BatchGenerator) -> None:
    sigma_B = sigma_of(gaussian_blur(impulse_and_noise(500), 1.15, 1.0, generator))
    assert BLUR_SIGMA_MIN - 1e-3 < sigma_B.min() < 0.2
    assert 1.1 < sigma_B.max() < 1.151
    assert float(sigma_B.mean()) == pytest.approx((0.15 + 1.15) / 2, abs=4 / math.sqrt(12 * 500))


@pytest.mark.parametrize("size", [(19, 25), (40, 2), (11, 12), (3, 1), (1, 1)])
@pytest.mark.parametrize("sigma_max", [0.15, 1.15, 1.5, 3.0])
def test_blur_of_any_sigma_and_size_agrees_with_scipy(size: tuple[int, int], sigma_max: float) -> None:
    """scipy's kernels reach so far that nothing is cut off; ours may miss 0.07% of the weight, each way."""
    image = torch.rand(4, 3, *size, generator=torch.Generator().manual_seed(3))
    blurred = gaussian_blur(image, sigma_max, 1.0, BatchGenerator().manual_seed(1))
    wide = torch.zeros(4, 3, 41, 41)  # an impulse, to read the sigmas off that the same seed draws
    wide[:, :, 20, 20] = 1
    wide = gaussian_blur(wide, sigma_max, 1.0, BatchGenerator().manual_seed(1)).double()
    sigma_B = (-1 / (2 * (wide[:, 0, 20, 21] / wide[:, 0, 20, 20]).log())).sqrt()
    assert BLUR_SIGMA_MIN - 1e-3 < sigma_B.min() <= sigma_B.max() < sigma_max + 1e-3
    for before, after, sigma in zip(image.double().numpy(), blurred, sigma_B.tolist(), strict=True):
        expected = gaussian_filter(before, (0, sigma, sigma), mode="mirror", truncate=8)
        torch.testing.assert_close(after.double(), torch.from_numpy(expected), rtol=0, atol=2e-3)


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_blur_touches_each_image_with_its_probability(probability: float, generator: BatchGenerator) -> None:
    beside_B = gaussian_blur(impulse_and_noise(400), 1.15, probability, generator)[:, 0, 9, 13]
    changed_B = beside_B > 0  # 2e-10 at the smallest sigma
    assert abs(float(changed_B.float().mean()) - probability) <= 4 * math.sqrt(probability * (1 - probability) / 400)


def test_blur_keeps_an_even_image_even(generator: BatchGenerator) -> None:
    image = torch.full((3, 3, 9, 8), 0.7)
    torch.testing.assert_close(gaussian_blur(image, 1.15, 1.0, generator), image)


def test_what_is_given_is_left_as_it_was(image: Tensor, generator: BatchGenerator) -> None:
    label = torch.zeros(5, 13, 11, dtype=torch.uint8)
    image_before, label_before = image.clone(), label.clone()
    flip(image, label, generator)
    color_jitter(image, 0.5, 1.0, generator)
    gaussian_blur(image, 1.15, 1.0, generator)
    assert torch.equal(image, image_before)
    assert torch.equal(label, label_before)
