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
    valid = label != IGNORE_INDEX
    index = label[valid].long() * num_classes + prediction[valid].long()
    return torch.bincount(index, minlength=num_classes**2).view(num_classes, num_classes)


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
