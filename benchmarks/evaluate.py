"""What counting pixels costs in an evaluation.

    python benchmarks/evaluate.py [--rounds 15] [--device cuda]

Nanoseconds a pixel of the confusion matrix (19 classes, a tenth of the pixels IGNORE_INDEX, two images of 512 x 1024),
and the time of the usual way, which picks the valid pixels by a mask and counts by bincount, over it. By turns,
medians; in brackets between which values half of the rounds lie. One thread on a CPU.
"""

import argparse
import statistics

import torch
from timing import by_turns, quotients, told
from torch import Tensor

from classmix_core.constants import IGNORE_INDEX
from classmix_core.metrics import confusion_matrix

CLASSES, SHAPE = 19, (2, 512, 1024)


def by_mask(prediction: Tensor, label: Tensor) -> Tensor:
    valid = label != IGNORE_INDEX
    index = label[valid].long() * CLASSES + prediction[valid]
    return torch.bincount(index, minlength=CLASSES**2).view(CLASSES, CLASSES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    prediction = torch.randint(0, CLASSES, SHAPE, device=given.device)
    label = torch.randint(0, CLASSES, SHAPE, dtype=torch.uint8, device=given.device)
    label[torch.rand(SHAPE, device=given.device) < 0.1] = IGNORE_INDEX
    assert torch.equal(by_mask(prediction, label), confusion_matrix(prediction, label, CLASSES))
    ways = {
        "ours": lambda: confusion_matrix(prediction, label, CLASSES),
        "by mask": lambda: by_mask(prediction, label),
    }
    seconds = by_turns(ways, given.rounds, device=given.device)
    nanoseconds = 1e9 * statistics.median(seconds["ours"]) / label.numel()
    print(f"confusion matrix: {nanoseconds:.1f} ns a pixel; by mask and bincount / ours", end=" ")
    print(told(quotients(seconds["by mask"], seconds["ours"])))


if __name__ == "__main__":
    main()
