"""The pictures that a run logs with its evaluations: the first unlabelled images mixed, the first of val predicted."""

from copy import copy, deepcopy

import torch
from torch import Tensor, nn

from classmix_core.classmix import ClassMix, Mixed
from classmix_core.data import Data
from classmix_core.data.loader import evaluation_batches
from classmix_core.evaluate import predict
from harness.config.train import TrainConfig
from harness.training.dataloaders import training_set
from harness.training.figures import mix_panel, prediction_panel

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
    side.generator = torch.Generator(device).manual_seed(config.seed)
    samples = training_set(config.data, data.unlabelled, False, 0)
    rows = range(min(ROWS, len(data.unlabelled.names)))
    images, paddings = zip(*(samples[index, index] for index in rows), strict=True)
    return side.mix(torch.stack(images).to(device), torch.stack(paddings).to(device))
