"""What is left of a race: the winner's best network as a model, and pictures of it beside the baseline's."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.io import encode_jpeg

from classmix_core.constants import IGNORE_INDEX
from classmix_core.data.samples import Samples
from classmix_core.metrics import class_iou
from harness import run_dir
from harness.config.train import TrainConfig, load_config
from harness.inference.class_names import write_classes
from harness.inference.loaded_model import LoadedModel, load_run_dir
from harness.inference.registry import publish
from harness.search.confirmation import Answer, Candidate, Confirmation
from harness.search.trial_store import MLFLOW_RUN, TrialRecord
from harness.tracking import Run
from harness.training import checkpoint
from harness.training.dataloaders import load_data_once
from harness.training.drawing import Palette, colour_labels, grid

COMPARED, SHOWN = 32, 4
"""Images of val that both label, and of which so many are shown."""


@dataclass(frozen=True)
class Picture:
    """An image of val: as it is, its truth, without unlabelled images, and with them."""

    name: str
    without: float
    """mIoU over the classes that are in it, 0 to 1, as the next one."""
    with_unlabelled: float
    jpeg: bytes

    @property
    def source(self) -> str:
        """Of an <img>."""
        return f"data:image/jpeg;base64,{base64.b64encode(self.jpeg).decode()}"


@dataclass(frozen=True)
class Winner:
    """The best run of the chosen configuration, by val."""

    folder: Path
    seed: int
    model: str
    """URI of its version in MLflow's registry."""
    pictures: Sequence[Picture]
    """Those where it differs most from the baseline, the gains first; none without a baseline."""


def best_run(race: Confirmation, one: Candidate) -> TrialRecord | None:
    """By val, of those that got to their end; None: none did."""
    sign, metric = race.search.sign, race.search.metric
    ended = [record for record in race.runs(one).values() if record.state == "complete" and metric in record.metrics]
    return max(ended, key=lambda record: sign * record.metrics[metric], default=None)


def publish_winner(race: Confirmation, answer: Answer, folder: Path, uri: str) -> Winner | None:
    """Register the winner's best network, and let go of all others but the baseline's best.

    Args:
        folder: of the study.
        uri: of MLflow's store.

    Returns:
        None: its weights are not there, as those of a study over recorded trainings.
    """
    best = best_run(race, answer.chosen)
    baseline = next((one for one in race.field if one.baseline), None)
    plain = best_run(race, baseline) if baseline else None
    kept = [race.store.trial_folder(record.number) for record in (best, plain) if record is not None]
    for record in race.store.records:
        if (home := race.store.trial_folder(record.number)) not in kept:
            (home / checkpoint.BEST).unlink(missing_ok=True)
    if best is None or not (kept[0] / checkpoint.BEST).is_file():
        return None
    config = load_config(kept[0] / "config.yaml")
    splits = kept[0] / run_dir.SPLITS
    splits = splits if splits.is_dir() else folder / run_dir.SPLITS
    data = load_data_once(config.data, ("val",), splits)
    assert data.val is not None
    for home in kept:
        write_classes(home, data)
    run = Run(uri, (kept[0] / MLFLOW_RUN).read_text())
    model = publish(run, config, kept[0], best.metrics["val/miou"], splits)
    pictures: list[Picture] = []
    if len(kept) > 1 and kept[0] != kept[1] and (kept[1] / checkpoint.BEST).is_file():
        pictures = compare(load_run_dir(kept[1]), load_run_dir(kept[0]), data.val, config)
    return Winner(kept[0], best.values["seed"], model, pictures)


def compare(without: LoadedModel, with_unlabelled: LoadedModel, val: Samples, config: TrainConfig) -> list[Picture]:
    """The images of val on which two networks differ most, the largest gain first."""
    count, palette = len(val.names), with_unlabelled.classes.palette
    found = []
    for place in np.linspace(0, count - 1, min(count, COMPARED)).round().astype(int).tolist():
        image, truth = val.image(place), val.label(place)
        size, passes = config.data.resize, config.eval.inference()
        labels = [one.label_image(image, size, passes) for one in (without, with_unlabelled)]
        before, after = (miou_of_image(label, truth, len(palette)) for label in labels)
        found.append((after - before, Picture(val.names[place], before, after, draw(image, truth, labels, palette))))
    found.sort(key=lambda one: -one[0])
    return [picture for _, picture in found[: SHOWN - 1] + found[SHOWN - 1 :][-1:]]


def miou_of_image(label: Tensor, truth: Tensor, classes: int) -> float:
    """Over the classes that are there or predicted; 0 where nothing is labelled."""
    known = truth != IGNORE_INDEX
    pairs = truth[known].long() * classes + label[known].long()
    matrix = torch.bincount(pairs, minlength=classes * classes).view(classes, classes)
    return float(class_iou(matrix).nanmean().nan_to_num())


def draw(image: Tensor, truth: Tensor, labels: Sequence[Tensor], palette: Palette) -> bytes:
    """Image, truth and predictions side by side, as JPEG."""
    coloured = [colour_labels(each[None], palette) for each in (truth, *labels)]
    return bytes(encode_jpeg(grid([image[None], *coloured]), quality=85).numpy().tobytes())
