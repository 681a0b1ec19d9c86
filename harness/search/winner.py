"""What is left of a race: the winner's best network as a model, and pictures of it beside the baseline's."""

import base64
from collections.abc import Collection, Sequence
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
from harness.inference.class_names import CLASSES, write_classes
from harness.inference.loaded_model import LoadedModel, load_run_dir
from harness.inference.registry import publish
from harness.search.confirmation import Answer, Candidate, Confirmation
from harness.search.trial_store import TrialRecord
from harness.tracking.names import RUN_ID
from harness.tracking.outbox import OUTBOX
from harness.tracking.run import Run
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
    model: str | None
    """URI of its version in MLflow's registry; None: it will have one when the store is back."""
    pictures: Sequence[Picture]
    """Those where it differs most from the baseline, the gains first; none without a baseline."""


def best_run(race: Confirmation, one: Candidate, seeds: Collection[int] | None = None) -> TrialRecord | None:
    """By val, of those that got to their end; None: none did.

    Args:
        seeds: those that count.
    """
    sign, metric = race.search.sign, race.search.metric
    runs = [record for seed, record in race.runs(one).items() if seeds is None or seed in seeds]
    ended = [record for record in runs if record.state == "complete" and metric in record.metrics]
    return max(ended, key=lambda record: sign * record.metrics[metric], default=None)


def publish_winner(race: Confirmation, answer: Answer, folder: Path, parent: Run) -> Winner | None:
    """Register the winner's best network, and let go of all others but two that are compared: the winner's and the
    baseline's from one seed, so with the same labelled images and the same val.

    Args:
        folder: of the study.
        parent: its run in MLflow.

    Returns:
        None: its weights are not there, as those of a study over recorded trainings.
    """
    best = best_run(race, answer.chosen)
    baseline = next((race.runs(one) for one in race.field if one.baseline), {})
    both = {seed for seed, record in baseline.items() if record.state == "complete"}
    alike = best if best is not None and best.values["seed"] in both else best_run(race, answer.chosen, both)
    plain = baseline[alike.values["seed"]] if alike else None

    def home(record: TrialRecord) -> Path:
        return race.store.trial_folder(record.number)

    kept = [home(record) for record in (best, alike, plain) if record is not None]
    for record in race.store.records:
        if home(record) not in kept:
            (home(record) / checkpoint.BEST).unlink(missing_ok=True)
    if best is None or not all((one / checkpoint.BEST).is_file() for one in kept):
        return None
    config = load_config(home(best) / "config.yaml")
    splits = splits_of(home(best), folder)
    data = load_data_once(config.data, ("val",), splits)
    for one in kept:
        write_classes(one, data)
    own = any((home(best) / name).exists() for name in (RUN_ID, OUTBOX))  # else MLflow's store was lost in between
    run = Run(parent.uri, None, home(best)) if own else parent
    run.file(home(best) / "config.yaml")
    run.file(home(best) / CLASSES)
    model = publish(run, home(best), best.metrics["val/miou"], splits)
    if own:
        run.close()
    pictures: list[Picture] = []
    if alike and plain:
        config = load_config(home(alike) / "config.yaml")
        val = load_data_once(config.data, ("val",), splits_of(home(alike), folder)).val
        assert val is not None
        pictures = compare(load_run_dir(home(plain)), load_run_dir(home(alike)), val, config)
    return Winner(home(best), best.values["seed"], model, pictures)


def splits_of(home: Path, folder: Path) -> Path:
    """Lists of images: a run's own, or those of its study."""
    own = home / run_dir.SPLITS
    return own if own.is_dir() else folder / run_dir.SPLITS


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
