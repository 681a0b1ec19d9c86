"""What networks score on val and test, over all workers, and what is logged of it."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from classmix_core.data import Data
from classmix_core.data.loader import evaluation_batches, prefetch
from classmix_core.data.samples import Samples
from classmix_core.evaluate import evaluate
from classmix_core.metrics import class_iou, mean_iou, pixel_accuracy
from harness.config.train import TrainConfig
from harness.errors import Interrupted
from harness.tracking.run import Run
from harness.training.checkpoint import load_weights
from harness.training.context import TrainContext
from harness.training.drawing import confusion_figure

T = TypeVar("T")


class Evaluator:
    """Evaluation as a run's configuration says, shared by the workers of a context."""

    def __init__(self, config: TrainConfig, data: Data, context: TrainContext) -> None:
        self.config, self.data, self.context = config, data, context

    def confusion_matrix(self, samples: Samples | None, network: nn.Module) -> Tensor:
        """The confusion matrix over all workers; the network is left in evaluation mode.

        Raises:
            Interrupted: `context.stopping` said so.
        """
        assert samples is not None, "a role that this job may not see"
        config, context = self.config, self.context
        batches = evaluation_batches(
            samples,
            config.eval.batch,
            resize=config.data.resize,
            resize_labels=config.eval.resize_labels,
            rank=context.rank,
            world_size=context.world_size,
        )
        classes, inference = len(self.data.classes), config.eval.inference()
        shared = self.until_stopped(prefetch(batches, context.device.type == "cuda"), len(samples.names))
        matrix = evaluate(network, shared, classes, context.device, config.precision, inference=inference)
        return (context.mean(matrix.double()) * context.world_size).round().long()

    def until_stopped(self, batches: Iterator[T], images: int) -> Iterator[T]:
        """The batches of this worker. Of several, all ask equally often whether to stop: as often as the first, which
        has the most images, has batches."""
        left = math.ceil(math.ceil(images / self.context.world_size) / self.config.eval.batch)

        def ask() -> None:
            if self.context.stopping():
                raise Interrupted

        for batch in batches:
            if left > 0 or self.context.world_size == 1:  # a batch of images of several sizes comes in parts
                ask()
            left -= 1
            yield batch
        for _ in range(left):
            ask()

    def metrics(self, role: str, matrix: Tensor) -> dict[str, float]:
        """The metrics of a role, by name."""
        values = {f"{role}/miou": mean_iou(matrix), f"{role}/accuracy": pixel_accuracy(matrix)}
        ious = class_iou(matrix).tolist()
        return values | {f"{role}/iou/{name}": iou for name, iou in zip(self.data.classes, ious, strict=True)}

    def report_on_test(
        self, networks: Mapping[str, nn.Module], best_files: Mapping[str, Path]
    ) -> tuple[dict[str, float], Tensor]:
        """Score student and teacher, of the last step and of the best one on val, whose weights they have after it.

        Returns:
            the metrics (test/miou and its like are of `eval.network` at the best step), and their confusion matrix.
        """
        figures, chosen = {}, self.config.eval.network
        for name, network in networks.items():
            figures[f"test/final_{name}_miou"] = mean_iou(self.confusion_matrix(self.data.test, network))
            load_weights(best_files[name], network)
            matrix = self.confusion_matrix(self.data.test, network)
            figures[f"test/best_{name}_miou"] = mean_iou(matrix)
            if name == chosen:
                result = matrix
        figures["test/final_miou"] = figures[f"test/final_{chosen}_miou"]
        return figures | self.metrics("test", result), result

    def log(self, run: Run, role: str, matrix: Tensor) -> None:
        """The table of classes and the confusion matrix."""
        classes = self.data.classes
        share = (matrix.sum(1).double() / matrix.sum()).tolist()
        table = {"class": classes, "iou": class_iou(matrix).tolist(), "share_of_pixels": share}
        run.table(f"{role}/classes.json", table)
        run.figure(f"{role}/confusion_matrix.png", confusion_figure(matrix, classes))
