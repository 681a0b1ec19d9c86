"""What mixing costs, against copying the bytes that it cannot but read and write.

    python benchmarks/mixing.py [--images 4] [--size 512 1024] [--classes 19] [--rounds 30] [--device cuda]

mixing     the class mask of the teacher's labels, and image (float32), label (uint8) and confidence (float32) pasted
           onto the next image's.
its bytes  the label read twice for the mask (which classes there are, and where), which is written once and read three
           times; two images, two labels and two confidences read, and one of each written.

Their time is that of copying as many bytes from one tensor to another that is there. Then each part of the step's
unlabelled branch, as a ratio to the same copy: the pseudo-label from logits that are there, mask, paste, jitter and
blur. By turns, medians; in brackets between which values half of the rounds lie. One thread on a CPU.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from timing import by_turns, quotients, told
from torch import Tensor, nn

from classmix_core.allocator import keep_freed_memory
from classmix_core.augment import color_jitter, gaussian_blur
from classmix_core.batch_generator import BatchGenerator
from classmix_core.config import ClassMixConfig
from classmix_core.mixing import paste, sample_mask
from classmix_core.pseudo_label import pseudo_label


class Logits(nn.Module):
    """A teacher that has answered before."""

    def __init__(self, logits_UKHW: Tensor) -> None:
        super().__init__()
        self.kept, self.logits = logits_UKHW, logits_UKHW.clone()

    def forward(self, image_UCHW: Tensor) -> Tensor:
        return self.logits


def parts(given: argparse.Namespace) -> tuple[dict[str, Callable[[], object]], int]:
    """What is timed, and the bytes of mixing."""
    config, device, images = ClassMixConfig(), given.device, given.images
    generator = BatchGenerator(device).manual_seed(0)
    shape = tuple(given.size)
    blocks = torch.randn(images, given.classes, 8, 16, device=device)
    teacher = Logits(nn.functional.interpolate(blocks, shape, mode="bilinear"))
    image_UCHW = torch.rand(images, 3, *shape, device=device)
    label_UHW, confidence_UHW = pseudo_label(teacher, image_UCHW)
    following = [value.roll(-1, 0) for value in (image_UCHW, label_UHW, confidence_UHW)]
    mask_UHW = sample_mask("class", label_UHW, given.classes, generator)

    def mix() -> list[Tensor]:
        mask_UHW = sample_mask("class", label_UHW, given.classes, generator)
        weight_UHW = mask_UHW.float()
        masks = (image_UCHW, weight_UHW), (label_UHW, mask_UHW), (confidence_UHW, weight_UHW)
        return [paste(value, target, mask) for (value, mask), target in zip(masks, following, strict=True)]

    moved = 3 * sum(value.nbytes for value in following) + 2 * label_UHW.nbytes + 4 * mask_UHW.nbytes
    source = torch.ones(moved // 8, device=device)  # a copy reads and writes 4 bytes each
    target = torch.zeros_like(source)
    functions = {
        "copy": lambda: target.copy_(source),
        "mixing": mix,
        "logits": lambda: teacher.logits.copy_(teacher.kept),
        "pseudo-label": lambda: pseudo_label(teacher, image_UCHW),
        "mask": lambda: sample_mask("class", label_UHW, given.classes, generator),
        "paste of the image": lambda: paste(image_UCHW, following[0], mask_UHW),
        "jitter": lambda: color_jitter(image_UCHW, config.jitter, config.jitter_probability, generator),
        "blur": lambda: gaussian_blur(image_UCHW, config.blur, config.blur_probability, generator),
    }
    return functions, moved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=[512, 1024], metavar=("H", "W"))
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    functions, moved = parts(given)
    seconds = by_turns(functions, given.rounds, device=given.device)
    copy = seconds["copy"]
    print(f"{given.images} images of {given.size[0]} x {given.size[1]}, {given.classes} classes")
    print(f"  mixing / its {moved / 1e6:.1f} MB at copy bandwidth {told(quotients(seconds['mixing'], copy))}")
    for name in ("pseudo-label", "mask", "paste of the image", "jitter", "blur"):
        milliseconds = 1000 * statistics.median(seconds[name])
        print(f"  {name + ' / the same copy':34} {told(quotients(seconds[name], copy))}, {milliseconds:.2f} ms")
    print(f"copy bandwidth {moved / statistics.median(copy) / 1e9:.1f} GB/s, torch {torch.__version__}")


if __name__ == "__main__":
    main()
