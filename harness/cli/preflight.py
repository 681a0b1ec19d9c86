"""Checks before a run is made, so that bad input fails at once and not hours later: data files, network and weights,
metric, output folders."""

import os
from pathlib import Path

import torch
from torch import nn

from classmix_core.config import Size
from classmix_core.data import EVALUATED, Role, check_data, load_data
from classmix_core.data.image_io import image_files
from classmix_core.errors import DataError
from classmix_core.models import build_model
from harness import run_dir
from harness.cli.display import out, show_check, warn
from harness.config.batch_size import used_sizes, with_batch_size
from harness.config.parser import naming_keys
from harness.config.train import TrainConfig
from harness.errors import UserError
from harness.inference import gallery
from harness.training.dataloaders import image_size, load_data_once
from harness.training.networks import refusing_one_value
from harness.training.pretrained import load_weights_into

UNREAD = (".avif", ".bmp", ".gif", ".heic", ".heif", ".tif", ".tiff")
"""Images that are not read."""


def check_data_and_network(
    config: TrainConfig, workers: int, roles: tuple[Role, ...] = EVALUATED, splits: Path | None = None
) -> None:
    """Read the whole data set and build the network once.

    Args:
        workers: that share a batch.
        roles: which of val and test are looked at.
        splits: see `load_data_once`.

    Raises:
        UserError, DataError: with the key or file, the rule and what was found.
    """
    with naming_keys("data"):
        data = load_data_once(config.data, roles, splits)
        learnt = ("labelled", "unlabelled") if config.ssl.unlabelled_weight > 0 else ("labelled",)
        show_check(check_data(data, config.data, (*learnt, *roles)))
        for warning in data.warnings:
            warn(warning)
    with naming_keys("model"):
        # some of segmentation_models_pytorch's encoders compute while they are built
        with torch.device("cpu" if config.model.name.startswith("smp/") else "meta"):
            model = build_model(config.model, len(data.classes))
        if config.model.weights:
            out.print(str(load_weights_into(model, config.model.weights)), markup=False)
    size = image_size(config.data, data)  # which may have to open an image
    for name, images in images_of_a_pass(config, workers).items():
        check_batch_norm(model, images, size, name)


def images_of_a_pass(config: TrainConfig, workers: int) -> dict[str, int]:
    """How many images a batch norm sees at a time while it trains, by the size that is at fault if they are too few."""
    sizes = used_sizes(with_batch_size(config, workers))
    parts = (1 if config.model.sync_bn else workers) * config.accumulate
    passes = {"batch_labelled": sum(sizes.values()) // parts}  # of the student
    if config.ssl.teacher_mode == "train" and "batch_unlabelled" in sizes:
        passes["batch_unlabelled"] = sizes["batch_unlabelled"] // parts
    return passes


def check_batch_norm(model: nn.Module, images: int, size: Size, name: str = "batch_labelled") -> None:
    """Try whether the network can be trained on so many images at a time. It is of no use afterwards.

    A batch norm needs two values of each channel. One behind a pooling to 1 x 1, as in DeepLab-v3, has as many as there
    are images. On torch's device `meta`, where nothing is computed but shapes, a pass takes 0.2 s.

    Args:
        images: that go through the network in one pass, on one worker.
        size: H, W of them.
        name: of the batch size that says so.

    Raises:
        UserError: a batch norm would see one value.
    """
    if images > 1:
        return
    with refusing_one_value(f"data.{name}"):
        model.to("meta").train()(torch.zeros(images, 3, *size, device="meta"))


def check_same_images(config: TrainConfig, folder: Path, anew: str, roles: tuple[Role, ...] = EVALUATED) -> None:
    """That the data set gives each image the role that a run has stored for it; no file is opened.

    Args:
        folder: of the run.
        anew: the command that starts anew.
        roles: which of val and test are compared, if the run has stored them.

    Raises:
        UserError, DataError: it does not.
    """
    stored = run_dir.stored_roles(folder / run_dir.SPLITS)
    with naming_keys("data"):
        data = load_data(config.data, tuple(role for role in roles if role in stored))
    run_dir.require_same_images(folder, data, anew)


def warn_of_missing_test(config: TrainConfig) -> None:
    """A search needs no test, so it can start before that is there; better to hear of it now than in the end."""
    try:
        load_data_once(config.data, ("test",))  # which opens no file
    except DataError as error:
        warn(f"{error} The confirmation after the search will need it.")


def check_metric(metric: str, config: TrainConfig) -> None:
    """
    Raises:
        UserError: no evaluation on val gives such a metric.
    """
    classes = load_data_once(config.data, ("val",)).classes
    known = ["val/miou", "val/accuracy", *(f"val/iou/{name}" for name in classes)]
    if metric not in known:
        raise UserError(f"metric: must be one of {', '.join(known)}, but got {metric!r}.")


# -- of a prediction --------------------------------------------------------------------------------------------------


def check_output(images: Path, out: Path) -> None:
    """
    Raises:
        UserError: predictions would be written over images, or be read as images.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out: must be a folder, but {out} is a file.")
    for part in gallery.FOLDERS:
        if images.resolve().is_relative_to((out / part).resolve()):
            raise UserError(f"--out: its {part} would be written over --images, but got {out} and {images}.")
    if images.is_dir() and out.resolve().is_relative_to(images.resolve()):
        raise UserError(f"--out: must lie outside --images ({images}), or it would be read as images, but got {out}.")


def make_writable(folder: Path, flag: str) -> None:
    """Make the folder if need be.

    Raises:
        UserError: that is not allowed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{flag}: must lie in a folder that can be written, but got {folder}: {error.strerror}."
        ) from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"{flag}: must lie in a folder that can be written, but {folder} is not.")


def find_images(path: Path) -> dict[Path, Path]:
    """Files by the relative stem of what is written for them.

    Raises:
        UserError: there is nothing at `path`, or two images would be written under one name.
        DataError: the folder holds no image.
    """
    if not path.exists():
        raise UserError(f"--images: must be an image or a folder of images, but there is no {path}.")
    root = path if path.is_dir() else path.parent
    others = sorted(file for file in root.rglob("*") if file.suffix.lower() in UNREAD) if path.is_dir() else []
    if others:
        what = f"{len(others)} file(s) left out, such as {others[0]}: JPEG, PNG and WebP are read"
        warn(what)
    found: dict[Path, Path] = {}
    for file in image_files(path) if path.is_dir() else [path]:
        stem = file.relative_to(root).with_suffix("")
        if stem in found:
            raise UserError(f"--images: names must differ before their suffix, but got {found[stem]} and {file}.")
        found[stem] = file
    return found
