"""Losses and lambda, against loops over pixels.

Shapes: B batch, K classes, H W image.
"""

import math
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy as cross_entropy_of_torch

from classmix_core.config import WEIGHTS
from classmix_core.constants import IGNORE_INDEX
from classmix_core.losses import consistency_loss, consistency_weight, labelled_loss, pixel_loss, sigmoid_ramp

B, K, H, W = 5, 4, 3, 7
PIXELS = list(product(range(B), range(H), range(W)))


@pytest.fixture
def logits() -> Tensor:
    return (3 * torch.randn(B, K, H, W, generator=torch.Generator().manual_seed(2))).requires_grad_()


@pytest.fixture
def label() -> Tensor:
    """The first image without an ignored pixel, the last with nothing else."""
    draw = torch.Generator().manual_seed(3)
    label_BHW = torch.randint(0, K, (B, H, W), generator=draw)
    label_BHW[torch.rand(B, H, W, generator=draw) < 0.3] = IGNORE_INDEX
    label_BHW[0], label_BHW[-1] = 1, IGNORE_INDEX
    return label_BHW


@pytest.fixture
def confident(label: Tensor) -> Tensor:
    """About half of the pixels that are not ignored."""
    return (torch.rand(B, H, W, generator=torch.Generator().manual_seed(4)) < 0.5) & (label != IGNORE_INDEX)


def cross_entropy(logits: Tensor, label: Tensor, b: int, y: int, x: int) -> float:
    if label[b, y, x] == IGNORE_INDEX:
        return 0.0
    values = logits[b, :, y, x].tolist()
    return math.log(sum(math.exp(value) for value in values)) - values[int(label[b, y, x])]


def share_of(confident: Tensor, label: Tensor, images: list[int]) -> float:
    """Confident among the pixels of some images that are not ignored; 0 where all are."""
    places = [place for place in PIXELS if place[0] in images and label[place] != IGNORE_INDEX]
    return sum(bool(confident[place]) for place in places) / max(len(places), 1)


def weight_by_loops(kind: str, confident: Tensor, label: Tensor, ramp: float, place: tuple[int, int, int]) -> float:
    return {
        "image": lambda: share_of(confident, label, [place[0]]),
        "batch": lambda: share_of(confident, label, list(range(B))),
        "pixel": lambda: float(confident[place]),
        "ramp": lambda: ramp,
        "constant": lambda: 1.0,
    }[kind]()


def weight_of(kind: str, confident: Tensor, label: Tensor, ramp: float = 0.3) -> Tensor:
    valid = label != IGNORE_INDEX
    return consistency_weight(kind, confident, valid, confident.sum() / valid.sum().clamp(min=1), ramp)


def test_pixel_loss_is_the_cross_entropy_of_each_pixel_and_0_where_ignored(logits: Tensor, label: Tensor) -> None:
    loss = pixel_loss(logits, label).detach()
    assert loss.shape == (B, H, W)
    for place in PIXELS:
        assert float(loss[place]) == pytest.approx(cross_entropy(logits, label, *place), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_pixel_loss_and_its_gradient_are_those_of_torch(logits: Tensor, label: Tensor, scale: float) -> None:
    logits = (logits.detach() * scale).requires_grad_()
    theirs = logits.detach().clone().requires_grad_()
    weight = torch.rand(B, H, W, generator=torch.Generator().manual_seed(5))
    loss = pixel_loss(logits, label)
    expected = cross_entropy_of_torch(theirs, label, ignore_index=IGNORE_INDEX, reduction="none")
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    (weight * loss).sum().backward()
    (weight * expected).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, theirs.grad, rtol=0, atol=3e-7)


def test_the_gradient_of_pixel_loss_is_taken_once(logits: Tensor, label: Tensor) -> None:
    loss = pixel_loss(logits, label).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_labelled_loss_is_the_mean_over_the_pixels_that_are_not_ignored(
    logits: Tensor, label: Tensor, dtype: torch.dtype
) -> None:
    counted = [cross_entropy(logits, label, *place) for place in PIXELS if label[place] != IGNORE_INDEX]
    loss = labelled_loss(pixel_loss(logits, label.to(dtype)), (label != IGNORE_INDEX).sum())
    assert loss.item() == pytest.approx(sum(counted) / len(counted), rel=1e-5)


def test_one_pixel_among_several_workers_counts_in_full(logits: Tensor) -> None:
    """Of two workers one has a single labelled pixel, the other none: their mean number is a half."""
    label = torch.full(logits[:, 0].shape, IGNORE_INDEX)
    label[0, 0, 0] = 1
    expected = -logits[0, :, 0, 0].log_softmax(0)[1]
    for worker_loss in (
        labelled_loss(pixel_loss(logits, label), torch.tensor(0.5)),
        consistency_loss(pixel_loss(logits, label), torch.ones(()), torch.tensor(0.5)),
    ):
        torch.testing.assert_close(worker_loss / 2, expected)


def test_an_ignored_pixel_moves_no_logit(logits: Tensor, label: Tensor) -> None:
    labelled_loss(pixel_loss(logits, label), (label != IGNORE_INDEX).sum()).backward()
    assert logits.grad is not None
    moved = logits.grad.abs().sum(1) > 0
    assert torch.equal(moved, label != IGNORE_INDEX)


def test_a_batch_without_any_label_has_loss_0_and_a_finite_gradient(logits: Tensor, label: Tensor) -> None:
    nothing = torch.full_like(label, IGNORE_INDEX)
    pixels = pixel_loss(logits, nothing)
    loss = labelled_loss(pixels, torch.zeros(())) + consistency_loss(
        pixels, weight_of("image", torch.zeros(B, H, W, dtype=torch.bool), nothing), torch.zeros(())
    )
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("kind", WEIGHTS)
def test_lambda_is_what_its_kind_says(kind: str, confident: Tensor, label: Tensor) -> None:
    weight = weight_of(kind, confident, label).expand(B, H, W)
    for place in PIXELS:
        expected = weight_by_loops(kind, confident, label, 0.3, place)
        if label[place] != IGNORE_INDEX:  # what lies on an ignored pixel multiplies a loss of 0
            assert float(weight[place]) == pytest.approx(expected, rel=1e-6)
    assert 0 <= weight.min() <= weight.max() <= 1


@pytest.mark.parametrize("kind", WEIGHTS)
def test_consistency_loss_is_the_mean_of_lambda_times_cross_entropy(
    kind: str, logits: Tensor, confident: Tensor, label: Tensor
) -> None:
    counted = [
        weight_by_loops(kind, confident, label, 0.3, place) * cross_entropy(logits, label, *place)
        for place in PIXELS
        if label[place] != IGNORE_INDEX
    ]
    loss = consistency_loss(pixel_loss(logits, label), weight_of(kind, confident, label), (label != IGNORE_INDEX).sum())
    assert loss.item() == pytest.approx(sum(counted) / len(counted), rel=1e-5)


@pytest.mark.parametrize("kind", ["image", "batch", "pixel"])
@pytest.mark.parametrize("all_confident", [False, True])
def test_lambda_is_0_with_no_confident_pixel_and_1_with_all(kind: str, all_confident: bool, label: Tensor) -> None:
    confident = (label != IGNORE_INDEX) & all_confident
    weight = weight_of(kind, confident, label).expand(B, H, W)
    assert (weight[label != IGNORE_INDEX] == float(all_confident)).all()


def test_padding_changes_no_lambda(label: Tensor) -> None:
    """The same image, wider by ignored pixels, has the same share of confident ones."""
    label = label[1:2]
    confident = (label != IGNORE_INDEX) & (torch.arange(W) < 3)
    pad = torch.nn.functional.pad
    for kind in ("image", "batch"):
        narrow = weight_of(kind, confident, label)
        wide = weight_of(kind, pad(confident, (0, 9)), pad(label, (0, 9), value=IGNORE_INDEX))
        torch.testing.assert_close(narrow, wide)


def test_no_gradient_reaches_lambda(logits: Tensor, confident: Tensor, label: Tensor) -> None:
    for kind in WEIGHTS:
        assert not weight_of(kind, confident, label).requires_grad


def test_the_losses_are_float32_for_logits_of_half_precision(logits: Tensor, label: Tensor) -> None:
    assert pixel_loss(logits.bfloat16(), label).dtype == torch.float32


@pytest.mark.parametrize(
    ("progress", "ramp"), [(-1, math.exp(-5)), (0, math.exp(-5)), (0.5, math.exp(-1.25)), (1, 1), (7, 1)]
)
def test_sigmoid_ramp_rises_from_exp_minus_5_to_1_and_stays(progress: float, ramp: float) -> None:
    assert sigmoid_ramp(progress) == pytest.approx(ramp, rel=1e-12)
