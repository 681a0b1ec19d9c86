"""The confusion matrix, and the scores that follow from it."""

import torch
from torch import Tensor

from classmix_core.constants import IGNORE_INDEX


def confusion_matrix(prediction: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Count pixels by (label, prediction).

    Args:
        prediction: integer, any shape, 0..K-1.
        label: integer, the same shape, 0..K-1 or IGNORE_INDEX, which is not counted.

    Returns:
        int64 (K, K): row label, column prediction.
    """
    # IGNORE_INDEX has a row too, cut off at the end: both a mask over pixels and bincount would wait for the device
    index_N = torch.add(prediction.long(), label, alpha=num_classes).flatten()
    count = torch.zeros((IGNORE_INDEX + 1) * num_classes, dtype=torch.int64, device=label.device)
    count.scatter_add_(0, index_N, torch.ones((), dtype=torch.int64, device=label.device).expand_as(index_N))
    return count.view(-1, num_classes)[:num_classes]


def class_iou(matrix_KK: Tensor) -> Tensor:
    """Intersection over union of each class, float64 (K,) 0..1, NaN for a class neither present nor predicted."""
    matrix = matrix_KK.double()
    intersection = matrix.diagonal()
    return intersection / (matrix.sum(0) + matrix.sum(1) - intersection)


def mean_iou(matrix_KK: Tensor) -> float:
    """Mean IoU over the classes that are present or predicted, 0..1."""
    return float(class_iou(matrix_KK).nanmean())


def pixel_accuracy(matrix_KK: Tensor) -> float:
    """Share of labelled pixels that are predicted right, 0..1."""
    return float(matrix_KK.diagonal().sum() / matrix_KK.sum())
