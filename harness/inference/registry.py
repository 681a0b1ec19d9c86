"""The best network of a run as an MLflow model: safetensors and code, a signature, a version in the registry."""

import hashlib
import json
import logging
import math
import re
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.pyfunc import save_model
from mlflow.types import Schema, TensorSpec

from classmix_core.config import DataConfig
from classmix_core.data import EVALUATED, Data
from classmix_core.data.samples import Samples
from harness.config.train import TrainConfig, load_config
from harness.inference.class_names import CLASSES
from harness.storage import local_copy
from harness.tracking.patience import is_passing
from harness.tracking.run import Run
from harness.tracking.store import store_lock
from harness.tracking.writer import Writer
from harness.training import checkpoint
from harness.training.dataloaders import load_data_once

MODEL = "model"
"""Folder of a run's artefacts."""
PUBLISH = "publish"
"""A call of `harness.sync`'s."""
CHAMPION = "champion"
"""Alias of the version that did best on val, among those of one name."""
VAL = "val_miou"
INVALID_CHARS = re.compile(r"""[/:'"%]""")
"""In a name, as MLflow's registry or its queries take them."""
IMPORTED = (
    "mlflow",
    "torch",
    "torchvision",
    "numpy",
    "jsonargparse[signatures]",
    "pyyaml",
    "safetensors",
)
"""By pyfunc_model.py and what it imports."""

SIGNATURE = ModelSignature(
    Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))]),
    Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1))]),
)


def publish(run: Run, folder: Path, val_miou: float, splits: Path) -> str | None:
    """The best network of a finished training into MLflow: a model of the run, and a version in the registry.

    Args:
        folder: of the training.
        splits: with the lists of images.

    Returns:
        the URI of the version; None: the store is away, and `harness.sync` will do it (`publish_kept`).
    """
    run.adopt()
    if run.settle() is None:
        try:
            return publish_at_once(run.writer, folder, val_miou, splits)
        except Exception as error:
            if not is_passing(error, run.uri):
                raise
    run.call(PUBLISH, folder=way_to(folder, run.home), val_miou=val_miou, splits=way_to(splits, run.home))
    return None


def publish_kept(writer: Writer, folder: str, val_miou: float, splits: str) -> None:
    """What `publish` has left to do."""
    publish_at_once(writer, follow(writer.home, folder), val_miou, follow(writer.home, splits))


def way_to(path: Path, home: Path) -> str:
    """The words that lead to a path from a folder beside it or above it, which may be moved together."""
    up = next(number for number, one in enumerate((home, *home.parents)) if path.is_relative_to(one))
    return "/".join([".."] * up + list(path.relative_to((home, *home.parents)[up]).parts))


def follow(home: Path, way: str) -> Path:
    """Where `way_to` leads."""
    for word in filter(None, way.split("/")):
        home = home.parent if word == ".." else home / word
    return home


def publish_at_once(writer: Writer, folder: Path, val_miou: float, splits: Path) -> str:
    config = load_config(folder / "config.yaml")
    data = load_data_once(config.data, EVALUATED, splits)
    assert data.val is not None
    log_model(writer, folder, data.val, smp=config.model.name.startswith("smp/"))
    measured = measured_on(config, data)
    return register(writer, model_name(config.data, measured), val_miou, measured_tags(measured))


def log_model(writer: Writer, folder: Path, val: Samples, smp: bool) -> None:
    """Log the network of a run folder; images of val serve as the input example.

    Args:
        folder: with config.yaml, classes.json and best.safetensors.
        smp: whether it is one of segmentation_models_pytorch's.
    """
    package = Path(__file__).parents[1]
    with TemporaryDirectory() as home, warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore")

        def uri(name: str) -> str:
            return stack.enter_context(local_copy(folder / name)).absolute().as_uri()

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        save_model(
            f"{home}/{MODEL}",
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            artifacts={  # which are read as URIs
                "config": uri("config.yaml"),
                "classes": uri(CLASSES),
                "weights": uri(checkpoint.BEST),
            },
            code_paths=[str(package), str(package.parent / "classmix_core")],
            pip_requirements=requirements(smp),
            signature=SIGNATURE,
            input_example=example(val),
        )
        writer.folder(Path(home) / MODEL, MODEL)


def requirements(smp: bool) -> list[str]:
    """What the code that goes with the model imports, as installed here; the project itself is on no index."""
    names = [*IMPORTED, *(["segmentation-models-pytorch", "timm"] if smp else [])]
    return [f"{name}=={version(name.split('[')[0])}" for name in names]


def measured_on(config: TrainConfig, data: Data) -> dict[str, Any]:
    """What a score on val depends on besides the network. The labels of val are read, so that relabelling counts."""
    assert data.val is not None
    labels = hashlib.sha256()
    for index in range(len(data.val.names)):
        label = data.val.label(index)
        labels.update(f"{tuple(label.shape)}".encode() + label.numpy().tobytes())
    names = ("window", "stride", "flip", "scales")
    return {
        "classes": data.classes,
        "val": tuple(data.val.names),
        "labels": labels.hexdigest(),
        "size": config.data.resize if config.eval.resize_labels else None,
        **{name: getattr(config.eval, name) for name in names},
    }


def identity(measured: Mapping[str, Any]) -> str:
    """A digest: where it is the same, scores on val can be compared."""
    return hashlib.sha256(json.dumps(measured, sort_keys=True).encode()).hexdigest()


def measured_tags(measured: Mapping[str, Any]) -> dict[str, str]:
    """The identity of a version, and what it stands for in words."""
    size, window, stride = (
        f"{of[0]}x{of[1]}" if (of := measured[name]) else "" for name in ("size", "window", "stride")
    )
    words = [
        f"{len(measured['classes'])} classes",
        f"{len(measured['val'])} images of val",
        f"labels resized to {size}" if size else "labels of their own size",
        f"windows of {window}{f' every {stride}' if stride else ''}" if window else "whole images",
        *(["mirrored too"] if measured["flip"] else []),
        f"scales {', '.join(map(str, measured['scales']))}",
    ]
    return {"identity": identity(measured), "measured_on": ", ".join(words)}


def model_name(config: DataConfig, measured: Mapping[str, Any]) -> str:
    """Under which a network is registered: its data set, and 8 digits of what it was measured on.

    So champions compete where their scores can be compared alone.
    """
    name = f"folder-{Path(config.root).name}" if config.name == "folder" and config.root else config.name
    return f"classmix-{INVALID_CHARS.sub('_', name)}-{identity(measured)[:8]}"


def example(val: Samples) -> np.ndarray:
    """Two small images, uint8 (2, H, W, 3): corners of the first ones."""
    images = [val.image(index % len(val.names))[:, :48, :64] for index in range(2)]
    height, width = (min(image.shape[axis] for image in images) for axis in (1, 2))
    return np.stack([image[:, :height, :width].permute(1, 2, 0).numpy() for image in images])


def register(writer: Writer, name: str, val_miou: float, tags: Mapping[str, str]) -> str:
    """A version of the registered model `name`, one a run; the champion if none did better on val.

    Returns:
        its URI, by the alias if it is the champion.
    """
    client, run_id = writer.client, writer.run_id
    with store_lock(writer.uri):  # of two that end at once, the second shall see the first
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{client.get_run(run_id).info.artifact_uri}/{MODEL}"
        known = client.search_model_versions(f"name='{name}' and run_id='{run_id}'")  # if it was killed after it
        all_tags = {VAL: repr(val_miou), **tags}
        made = known[0] if known else client.create_model_version(name, source, run_id, tags=all_tags)
        if worth(val_miou) < champion_score(client, name):
            return f"models:/{name}/{made.version}"
        client.set_registered_model_alias(name, CHAMPION, made.version)
        return f"models:/{name}@{CHAMPION}"


def worth(val_miou: float) -> float:
    """Where no pixel of val is labelled, mIoU is NaN: less than anything."""
    return float("-inf") if math.isnan(val_miou) else val_miou


def champion_score(client: MlflowClient, name: str) -> float:
    """The champion's mIoU on val; below all if there is none."""
    try:
        return worth(float(client.get_model_version_by_alias(name, CHAMPION).tags.get(VAL, "-inf")))
    except MlflowException as error:
        if error.error_code not in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):  # there is none yet
            raise
        return float("-inf")
