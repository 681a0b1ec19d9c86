"""Confusion matrix and IoU, against scikit-learn."""

import math

import pytest
import torch
from torch import Tensor

from classmix_core.constants import IGNORE_INDEX
from classmix_core.metrics import class_iou, confusion_matrix, mean_iou, pixel_accuracy

CLASSES = 5


@pytest.fixture
def pixels() -> tuple[Tensor, Tensor]:
    """Predictions and labels (3, 7, 11): class 3 is never predicted, class 4 neither there nor predicted."""
    draw = torch.Generator().manual_seed(10)
    label = torch.randint(0, 4, (3, 7, 11), generator=draw)
    prediction = torch.where(torch.rand(3, 7, 11, generator=draw) < 0.6, label, label.roll(1, 2))
    prediction[prediction == 3] = 0
    label[torch.rand(3, 7, 11, generator=draw) < 0.2] = IGNORE_INDEX
    return prediction, label


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_confusion_matrix_agrees_with_sklearn(pixels: tuple[Tensor, Tensor], dtype: torch.dtype) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    prediction, label = pixels
    valid = label != IGNORE_INDEX
    expected = sklearn.confusion_matrix(label[valid], prediction[valid], labels=range(CLASSES))
    matrix = confusion_matrix(prediction, label.to(dtype), CLASSES)
    assert matrix.dtype == torch.int64
    assert matrix.tolist() == expected.tolist()


def test_class_iou_agrees_with_sklearns_jaccard_score_and_is_nan_for_an_absent_class(
    pixels: tuple[Tensor, Tensor],
) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    prediction, label = pixels
    valid = label != IGNORE_INDEX
    expected = sklearn.jaccard_score(label[valid], prediction[valid], labels=range(4), average=None)
    iou = class_iou(confusion_matrix(prediction, label, CLASSES))
    assert iou[:4].tolist() == pytest.approx(expected.tolist(), rel=1e-12)
    assert iou[3] == 0, "present and never predicted"
    assert math.isnan(iou[4])
    assert mean_iou(confusion_matrix(prediction, label, CLASSES)) == pytest.approx(expected.mean(), rel=1e-12)


def test_pixel_accuracy_agrees_with_sklearn(pixels: tuple[Tensor, Tensor]) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    prediction, label = pixels
    valid = label != IGNORE_INDEX
    expected = sklearn.accuracy_score(label[valid], prediction[valid])
    assert pixel_accuracy(confusion_matrix(prediction, label, CLASSES)) == pytest.approx(expected, rel=1e-6)


def test_rows_are_labels_and_columns_are_predictions() -> None:
    matrix = confusion_matrix(torch.tensor([1, 1, 2]), torch.tensor([0, 0, 2]), 3)
    assert matrix.tolist() == [[0, 2, 0], [0, 0, 0], [0, 0, 1]]


def test_a_perfect_prediction_scores_1_and_a_wholly_wrong_one_0() -> None:
    label = torch.tensor([0, 1, 2, 2])
    for prediction, score in ((label, 1.0), ((label + 1) % 3, 0.0)):
        matrix = confusion_matrix(prediction, label, 3)
        assert mean_iou(matrix) == score
        assert pixel_accuracy(matrix) == score


def test_matrices_of_parts_add_up_to_the_matrix_of_the_whole(pixels: tuple[Tensor, Tensor]) -> None:
    parts = [confusion_matrix(p, t, CLASSES) for p, t in zip(*pixels, strict=True)]
    assert torch.equal(sum(parts), confusion_matrix(*pixels, CLASSES))


def test_ignored_pixels_count_nowhere() -> None:
    assert confusion_matrix(torch.tensor([0, 1]), torch.tensor([IGNORE_INDEX, IGNORE_INDEX]), 2).sum() == 0
