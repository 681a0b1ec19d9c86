"""Draws what a run logs as pictures: a mix, predictions, labels over an image, the confusion matrix."""

from copy import copy, deepcopy
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classmix_core.batch_generator import BatchGenerator
from classmix_core.classmix import ClassMix, Mixed
from classmix_core.constants import IGNORE_INDEX
from classmix_core.data import Data
from classmix_core.data.loader import evaluation_batches
from classmix_core.evaluate import predict
from classmix_core.models.sync_norm import SyncBatchNorm
from classmix_core.workers import already
from harness.config.train import TrainConfig
from harness.training.dataloaders import training_set

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Palette = tuple[tuple[int, int, int], ...]
MIN_HEIGHT = 120


def colour_labels(label_BHW: Tensor, palette: Palette) -> Tensor:
    """Labels as uint8 RGB (B, 3, H, W); IGNORE_INDEX is black."""
    table = torch.zeros(256, 3, dtype=torch.uint8)
    table[: len(palette)] = torch.tensor(palette, dtype=torch.uint8)
    table[IGNORE_INDEX] = 0
    return table[label_BHW.cpu().long()].permute(0, 3, 1, 2)


def overlay(image_CHW: Tensor, label_HW: Tensor, palette: Palette) -> Tensor:
    """The classes' colours half over a uint8 RGB image: uint8 (3, H, W)."""
    colours = colour_labels(label_HW[None], palette)[0]
    return ((image_CHW.short() + colours) // 2).byte()


def grid(columns: list[Tensor]) -> Tensor:
    """uint8 images (B, 3, H, W), one column each, as one image (3, H', W'); small ones are magnified whole times."""
    rows_BNCHW = torch.stack([column.cpu() for column in columns], 1)
    zoom = max(1, round(MIN_HEIGHT / rows_BNCHW.shape[-2]))
    tiles = F.interpolate(rows_BNCHW.flatten(0, 1).float(), scale_factor=zoom)
    from torchvision.utils import make_grid  # a second, which a command that draws none need not wait

    return make_grid(tiles, nrow=len(columns), padding=4, pad_value=255).byte()


def to_bytes(image_BCHW: Tensor) -> Tensor:
    """Float 0..1 to uint8."""
    return (image_BCHW * 255).round().clamp(0, 255).byte()


def mix_panel(mixed: Mixed, palette: Palette, rows: int = 4) -> Tensor:
    """A, B, mask, mix and pseudo-label side by side, an image a row: uint8 (3, H', W')."""
    mask = (mixed.mask_UHW[:rows, None] * 255).byte().expand(-1, 3, -1, -1)
    pictures = [to_bytes(image[:rows]) for image in (mixed.source_UCHW, mixed.target_UCHW, mixed.image_UCHW)]
    return grid([*pictures[:2], mask, pictures[2], colour_labels(mixed.pseudo_label_UHW[:rows], palette)])


def prediction_panel(image_BCHW: Tensor, truth_BHW: Tensor, prediction_BHW: Tensor, palette: Palette) -> Tensor:
    """Image, truth and prediction side by side: uint8 (3, H', W')."""
    return grid([image_BCHW, colour_labels(truth_BHW, palette), colour_labels(prediction_BHW, palette)])


def confusion_figure(matrix_KK: Tensor, classes: tuple[str, ...]) -> "Figure":
    """The confusion matrix, each row as shares of the true class."""
    from matplotlib.figure import Figure
    from sklearn.metrics import ConfusionMatrixDisplay

    share = matrix_KK.double() / matrix_KK.sum(1, keepdim=True).clamp(min=1)
    side = 2.5 + 0.5 * len(classes)
    figure = Figure(figsize=(side, side), layout="constrained")
    ConfusionMatrixDisplay(share.cpu().numpy(), display_labels=classes).plot(
        ax=figure.add_subplot(),
        cmap="Blues",
        values_format=".2f",
        xticks_rotation=45,
        colorbar=False,
        im_kw={"vmin": 0, "vmax": 1},
        text_kw={"fontsize": 8},
    )
    return figure


# -- of a running training ---------------------------------------------------------------------------------------------

ROWS = 4


def draw_panels(classmix: ClassMix, network: nn.Module, config: TrainConfig, data: Data) -> dict[str, Tensor]:
    """uint8 images (3, H, W) by name; the training goes on as if they had not been drawn."""
    assert data.val is not None
    panels = {}
    if config.ssl.unlabelled_weight:
        panels["mix"] = mix_panel(mix_first_images(classmix, config, data), data.palette, ROWS)
    rows, size = data.val.subset(range(min(ROWS, len(data.val.names)))), config.data.resize
    image, truth = next(evaluation_batches(rows, ROWS, resize=size, resize_labels=True, rank=0, world_size=1))
    network.eval()
    prediction = predict(network, image.to(classmix.generator.device), inference=config.eval.inference())
    classmix.train_mode()
    panels["prediction"] = prediction_panel(image, truth, prediction, data.palette)
    return panels


def mix_first_images(classmix: ClassMix, config: TrainConfig, data: Data) -> Mixed:
    """A mix that leaves the training's random streams and the teacher's statistics as they are."""
    side, device = copy(classmix), classmix.generator.device
    side.teacher = deepcopy(classmix.teacher)
    side.generator = BatchGenerator(device).manual_seed(config.seed)
    side.accumulate, side.from_next_worker = 1, already
    for module in side.teacher.modules():
        if isinstance(module, SyncBatchNorm):
            module.mean_over_workers = lambda value: value
    samples = training_set(config.data, data.unlabelled, False, 0)
    count = len(data.unlabelled.names)
    rows = [row % count for row in range(min(ROWS, max(count, 2)))]  # two: a batch norm may see one value of each
    images, paddings = zip(*(samples[index, index] for index in rows), strict=True)
    return side.mix(torch.stack(images).to(device), torch.stack(paddings).to(device))
