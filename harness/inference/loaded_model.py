"""A trained network, from a run folder or from MLflow."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from classmix_core.config import InferenceConfig, Size
from classmix_core.data.transforms import resize_image
from classmix_core.evaluate import predict
from classmix_core.models import build_model
from harness.config.parser import naming_keys
from harness.config.train import TrainConfig, load_config
from harness.errors import UserError
from harness.inference.class_names import CLASSES, Classes, read_classes
from harness.training import checkpoint

CONFIG = "config.yaml"


@dataclass(frozen=True)
class LoadedModel:
    config: TrainConfig
    classes: Classes
    network: nn.Module
    """In evaluation mode; on the CPU at first."""

    @torch.no_grad()
    def label_image(self, image: Tensor, resize: Size | None, inference: InferenceConfig) -> Tensor:
        """Label a uint8 image (3, H, W): uint8 (H, W) on the CPU.

        Args:
            resize: H, W that the image is resized to; its labels are of its own size all the same.
            inference: the passes over it.
        """
        device = next(self.network.parameters()).device
        size = (image.shape[-2], image.shape[-1])
        batch = resize_image(image, resize)[None].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            return predict(self.network, batch, size, inference)[0].cpu()


def load_run_dir(folder: Path) -> LoadedModel:
    """The network of a run folder: config.yaml, classes.json, best.safetensors.

    Raises:
        UserError: one of them is missing or damaged, or they do not fit each other.
        UserError: config.yaml breaks a rule.
    """
    return load_files(folder / CONFIG, folder / CLASSES, folder / checkpoint.BEST)


def load_files(config_file: str | Path, classes_file: str | Path, weights_file: str | Path) -> LoadedModel:
    """The same from files anywhere."""
    given = (config_file, classes_file, weights_file)
    config_path, classes_path, weights = (Path(file) if isinstance(file, str) else file for file in given)
    for path in (config_path, weights):
        if not path.is_file():
            raise UserError(f"{path}: the file must exist in a run folder.")
    config, classes = load_config(config_path), read_classes(classes_path)
    with naming_keys("model"):
        network = build_model(config.model, len(classes.names))
    checkpoint.load_weights(weights, network)
    return LoadedModel(config, classes, network.eval())


def fetch(uri: str, run_id: str, target: Path) -> None:
    """Download what `load_run_dir` reads from a run's artefacts.

    Raises:
        UserError: no such store or run, or the run has not logged them.
    """
    import mlflow.artifacts
    from mlflow import MlflowClient

    from harness.tracking.patience import STORE_ERRORS
    from harness.tracking.store import require_answer, sqlite_file

    try:
        store = sqlite_file(uri)
        if store and not store.is_file():  # MLflow would make it
            raise UserError(f"--tracking-uri: must be an MLflow store, but there is no {store}.")
        require_answer(uri)
        run = MlflowClient(uri).get_run(run_id)
    except (*STORE_ERRORS, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--run: must be the id of a run in {uri}, but got {run_id!r}: {reason}") from error
    for name in (CONFIG, CLASSES, f"model/artifacts/{checkpoint.BEST}"):
        try:
            found = mlflow.artifacts.download_artifacts(
                run_id=run_id, artifact_path=name, dst_path=str(target), tracking_uri=uri
            )
        except STORE_ERRORS as error:
            rule = f"{run.info.run_name} must have logged {name}, as a finished training does"
            raise UserError(f"--run: {rule}, but it has not: {str(error).splitlines()[0]}") from error
        if Path(found).parent != target:
            shutil.move(found, target)
