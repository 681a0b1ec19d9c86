"""What MLflow serves: uint8 RGB images (N, H, W, 3) in, uint8 labels (N, H, W) out. MLflow runs this file itself.

mlflow models serve -m models:/classmix-scenes-bd0b952e@champion --env-manager local
"""

from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from harness.inference.loaded_model import load_files


class Segmentation(PythonModel):
    """The best network of a training run, looking at images as the run's evaluation did."""

    _skip_type_hint_validation = True  # MLflow's own switch; the signature says more than hints, of which it would warn

    def load_context(self, context: Any) -> None:
        files = context.artifacts
        self.model = load_files(files["config"], files["classes"], files["weights"])
        self.model.network.to("cuda" if torch.cuda.is_available() else "cpu")

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        images = torch.from_numpy(np.ascontiguousarray(model_input, dtype=np.uint8)).permute(0, 3, 1, 2)
        config = self.model.config
        labels = [self.model.label_image(image, config.data.resize, config.eval.inference()) for image in images]
        return torch.stack(labels).numpy()


set_model(Segmentation())
