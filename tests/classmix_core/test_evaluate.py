"""Running a network over a set.

Shapes: B batch, K classes, H W image.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classmix_core.constants import IGNORE_INDEX
from classmix_core.data.transforms import resize_image
from classmix_core.evaluate import evaluate, predict
from classmix_core.metrics import confusion_matrix

CPU = torch.device("cpu")
CLASSES = 4


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(11)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Dropout(0.5), nn.Conv2d(6, CLASSES, 1))


def images(batch: int, height: int, width: int) -> Tensor:
    draw = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=draw)


def labels(batch: int, height: int, width: int) -> Tensor:
    draw = torch.Generator().manual_seed(height)
    label = torch.randint(0, CLASSES, (batch, height, width), dtype=torch.uint8, generator=draw)
    return label.masked_fill(torch.rand(label.shape, generator=draw) < 0.2, IGNORE_INDEX)


def logits_of(network: nn.Module, image: Tensor) -> Tensor:
    return network.eval()(image / 255)


def test_predict_is_the_argmax_over_the_image_in_0_to_1(network: nn.Module) -> None:
    image = images(5, 7, 11)
    assert torch.equal(predict(network.eval(), image), logits_of(network, image).argmax(1))


def test_predict_resizes_the_logits_before_the_argmax(network: nn.Module) -> None:
    image, size = images(2, 7, 11), (15, 18)
    expected = F.interpolate(logits_of(network, image), size, mode="bilinear").argmax(1)
    assert torch.equal(predict(network.eval(), image, size), expected)
    assert torch.equal(predict(network.eval(), image, (7, 11)), predict(network.eval(), image))


class Ideal(nn.Module):
    """Makes no mistake: where class 0 is black and class 1 is white, the logits are how much there is of each."""

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return torch.stack((1 - image_BCHW[:, 0], image_BCHW[:, 0]), 1)


@pytest.mark.parametrize(("factor", "slope", "kept"), [(6, 0.0, 0.0), (2, 0.3, 0.05), (6, 0.3, 0.25)])
def test_a_network_without_mistakes_loses_nothing_or_little_by_shrinking_the_images(
    factor: int, slope: float, kept: float
) -> None:
    """Stripes whose borders lie between pixels, also of the small image: upright ones, and slanting ones, of which a
    small image cannot say all. `kept` is the share of the loss that is left, against aligned corners."""
    height, width = 96, 144
    row_H1, column_W = torch.arange(height)[:, None], torch.arange(width)
    label_HW = ((column_W + slope * row_H1) // 12 % 2).long()
    small = resize_image(label_HW.byte().mul(255).expand(3, -1, -1), (height // factor, width // factor))[None]
    aligned = F.interpolate(Ideal()(small / 255), label_HW.shape, mode="bilinear", align_corners=True).argmax(1)
    wrong_before = int((aligned[0] != label_HW).sum())
    wrong = int((predict(Ideal(), small, (height, width))[0] != label_HW).sum())
    assert wrong_before > 0
    assert wrong <= kept * wrong_before


def test_evaluate_counts_every_batch_at_the_size_of_its_labels(network: nn.Module) -> None:
    sizes = [((2, 7, 11), (2, 7, 11)), ((1, 9, 8), (1, 18, 24))]
    batches = [(images(*image), labels(*label)) for image, label in sizes]
    expected = sum(
        confusion_matrix(predict(network.eval(), image, tuple(label.shape[1:])), label, CLASSES)
        for image, label in batches
    )
    matrix = evaluate(network.train(), iter(batches), CLASSES, CPU)
    assert matrix.dtype == torch.int64
    assert torch.equal(matrix, expected)
    assert matrix.sum() == sum(int((label != IGNORE_INDEX).sum()) for _, label in batches)


def test_evaluate_leaves_the_network_in_evaluation_mode_with_its_statistics_untouched(network: nn.Module) -> None:
    before = network[1].running_mean.clone()
    evaluate(network.train(), [(images(2, 7, 11), labels(2, 7, 11))], CLASSES, CPU)
    assert not any(module.training for module in network.modules())
    assert torch.equal(network[1].running_mean, before)


def test_how_images_are_batched_changes_no_count(network: nn.Module) -> None:
    image, label = images(6, 7, 11), labels(6, 7, 11)
    whole = evaluate(network, [(image, label)], CLASSES, CPU)
    parts = evaluate(network, zip(image.split(4), label.split(4), strict=True), CLASSES, CPU)
    assert torch.equal(whole, parts)


def test_an_empty_set_counts_nothing(network: nn.Module) -> None:
    assert torch.equal(evaluate(network, [], CLASSES, CPU), torch.zeros(CLASSES, CLASSES, dtype=torch.int64))


def test_bf16_counts_the_same_pixels(network: nn.Module) -> None:
    batch = (images(3, 7, 11), labels(3, 7, 11))
    half, full = (evaluate(network, [batch], CLASSES, CPU, precision) for precision in ("bf16", "fp32"))
    assert torch.equal(half.sum(1), full.sum(1))
    assert (half - full).abs().sum() <= 0.05 * full.sum()
