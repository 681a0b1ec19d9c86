"""What an evaluation costs besides its forward passes, and what counting pixels does.

    python benchmarks/evaluate.py [--name camvid --root DIR --resize 180 240] [--images 50] [--rounds 15]
        [--device cuda]

evaluation / bare forwards  over val: images and labels decoded from their files (without a cache), the default network,
                            predictions, confusion matrix; against the same passes on float images that are there.
confusion matrix            nanoseconds a pixel (19 classes, a tenth of the pixels IGNORE_INDEX, two images of
                            512 x 1024), and the time of the usual way, which picks the valid pixels by a mask and
                            counts by bincount, over it.

By turns, medians; in brackets between which values half of the rounds lie. One thread on a CPU, and one that loads.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator

import torch
from data_arguments import add_data_arguments, data_config
from timing import by_turns, quotients, told
from torch import Tensor

from classmix_core.allocator import keep_freed_memory
from classmix_core.augment import to_float
from classmix_core.config import DataConfig, ModelConfig
from classmix_core.constants import IGNORE_INDEX
from classmix_core.data import load_data
from classmix_core.data.loader import evaluation_batches, prefetch
from classmix_core.evaluate import evaluate
from classmix_core.metrics import confusion_matrix
from classmix_core.models import build_model

CLASSES, SHAPE = 19, (2, 512, 1024)
BATCH = 16


def by_mask(prediction: Tensor, label: Tensor) -> Tensor:
    valid = label != IGNORE_INDEX
    index = label[valid].long() * CLASSES + prediction[valid]
    return torch.bincount(index, minlength=CLASSES**2).view(CLASSES, CLASSES)


def matrices(device: str) -> dict[str, Callable[[], Tensor]]:
    prediction = torch.randint(0, CLASSES, SHAPE, device=device)
    label = torch.randint(0, CLASSES, SHAPE, dtype=torch.uint8, device=device)
    label[torch.rand(SHAPE, device=device) < 0.1] = IGNORE_INDEX
    assert torch.equal(by_mask(prediction, label), confusion_matrix(prediction, label, CLASSES))
    return {
        "matrix": lambda: confusion_matrix(prediction, label, CLASSES),
        "by mask": lambda: by_mask(prediction, label),
    }


def evaluations(config: DataConfig, count: int, device: str) -> dict[str, Callable[[], object]]:
    data = load_data(config)
    assert data.val is not None
    samples = data.val.subset(range(min(count, len(data.val.names))))
    network = build_model(ModelConfig(), len(data.classes)).to(device).eval()

    def from_files() -> Iterator[tuple[Tensor, Tensor]]:
        batches = evaluation_batches(samples, BATCH, resize=config.resize, resize_labels=True, rank=0, world_size=1)
        return prefetch(batches, pin=device == "cuda")

    kept = [to_float(image.to(device)) for image, _ in from_files()]

    @torch.no_grad()
    def forwards() -> None:
        for images in kept:
            network(images)

    return {
        "evaluation": lambda: evaluate(network, from_files(), len(data.classes), torch.device(device)).tolist(),
        "forwards": forwards,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_arguments(parser)
    parser.add_argument("--images", type=int, default=50, help="Of val, at most.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.device == "cpu":
        keep_freed_memory()  # as a training does
    seconds = by_turns(evaluations(data_config(given), given.images, given.device), given.rounds, device=given.device)
    ratio = told(quotients(seconds["evaluation"], seconds["forwards"]))
    print(f"{given.name}, at most {given.images} images of val: evaluation / bare forwards {ratio}")
    seconds = by_turns(matrices(given.device), given.rounds, device=given.device)
    nanoseconds = 1e9 * statistics.median(seconds["matrix"]) / torch.Size(SHAPE).numel()
    print(f"confusion matrix: {nanoseconds:.1f} ns a pixel; by mask and bincount / ours", end=" ")
    print(told(quotients(seconds["by mask"], seconds["matrix"])))


if __name__ == "__main__":
    main()
