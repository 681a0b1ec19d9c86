"""A step of ClassMix against the bare passes of its networks, and against a loop in the habits of the field.

    python benchmarks/step.py [--cases small mobilenet large deeplabv2 deeplabv2-8] [--rounds 30] [--device cuda]
        [--precision bf16] [--channels-last] [--compile] [--plain-memory]

ours       ClassMix.step: augment, label, mix, jitter, blur, both losses, backward, optimiser, teacher.
bare       What no step can do without, on tensors that are there: the teacher's forward pass over the unlabelled
           images, the student's forward and backward pass over labelled and mixed ones at once, the optimiser.
reference  benchmarks/reference_step.py, always in float32 and eager.

One thread on a CPU. By turns, medians; in brackets between which values half of the rounds lie. FLOPs are those of the
bare passes (a multiplication and an addition count as two).
"""

import argparse
import resource
import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch
from reference_step import ReferenceStep
from timing import by_turns, quotients, told
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from classmix_core.allocator import keep_freed_memory
from classmix_core.batch_generator import BatchGenerator
from classmix_core.classmix import Batch, ClassMix
from classmix_core.config import ClassMixConfig, ModelConfig, OptimConfig
from classmix_core.ema import make_teacher
from classmix_core.models import build_model, head_prefixes
from classmix_core.optim import build_optimizer, build_schedule

STEPS = 40_000
"""Of the training that these would be steps of."""


class Case(NamedTuple):
    network: str
    height: int
    width: int
    images: int
    """Labelled ones, and unlabelled ones."""
    classes: int


CASES = {
    "small": Case("unet", 48, 96, 4, 6),
    "mobilenet": Case("deeplabv3_mobilenet_v3_large", 256, 512, 4, 19),
    "large": Case("unet", 512, 1024, 2, 19),
    "deeplabv2": Case("deeplabv2", 512, 1024, 2, 19),
    "deeplabv2-8": Case("deeplabv2", 512, 1024, 8, 19),
}


def random_batch(case: Case, device: str) -> Batch:
    """Images of noise, with labels in blocks of an eighth of the height."""
    shape = case.images, 3, case.height, case.width
    images = [torch.randint(0, 256, shape, dtype=torch.uint8, device=device) for _ in range(2)]
    blocks = torch.randint(0, case.classes, (case.images, 1, 8, 16), device=device).float()
    label = nn.functional.interpolate(blocks, (case.height, case.width)).squeeze(1).to(torch.uint8)
    label[:, :2] = 255
    return Batch(images[0], label, images[1], torch.zeros_like(label))


class Networks:
    """A student with all that trains it."""

    def __init__(self, case: Case, given: argparse.Namespace, plain: bool = False) -> None:
        torch.manual_seed(0)
        self.student = build_model(ModelConfig(name=case.network), case.classes).to(given.device)
        if given.channels_last and not plain:
            self.student.to(memory_format=torch.channels_last)
        self.teacher = make_teacher(self.student)
        if given.compile and not plain:
            self.student.compile()
            self.teacher.compile()
        self.optimizer = build_optimizer(self.student, head_prefixes(case.network), OptimConfig(lr=0.001))
        self.schedule = build_schedule(self.optimizer, STEPS, 0.9)


def our_step(case: Case, given: argparse.Namespace, batch: Batch) -> Callable[[], object]:
    networks = Networks(case, given)
    classmix = ClassMix(
        networks.student,
        networks.teacher,
        networks.optimizer,
        networks.schedule,
        num_classes=case.classes,
        config=ClassMixConfig(),
        steps=STEPS,
        generator=BatchGenerator(given.device).manual_seed(0),
        precision=given.precision,
    )
    return lambda: classmix.step(batch, 1000)


def bare_passes(case: Case, given: argparse.Namespace, batch: Batch) -> Callable[[], object]:
    networks = Networks(case, given)
    student, teacher = networks.student.train(), networks.teacher.train()
    unlabelled = torch.rand(batch.image_LCHW.shape, device=given.device)
    images = torch.rand(2 * case.images, 3, case.height, case.width, device=given.device)
    gradient: list[Tensor] = []

    def autocast() -> torch.autocast:
        return torch.autocast(given.device, torch.bfloat16, enabled=given.precision == "bf16")

    def passes() -> None:
        with torch.no_grad(), autocast():
            teacher(unlabelled)
        with autocast():
            logits = student(images)
        if not gradient:
            gradient.append(torch.randn_like(logits) / logits.numel())
        networks.optimizer.zero_grad(set_to_none=True)
        logits.backward(gradient[0])
        networks.optimizer.step()

    return passes


def reference(case: Case, given: argparse.Namespace, batch: Batch) -> Callable[[], object]:
    networks = Networks(case, given, plain=True)
    parts = networks.student, networks.teacher, networks.optimizer, networks.schedule
    loop = ReferenceStep(*parts, given.device)
    host = Batch(*(None if part is None else part.cpu() for part in batch))
    return lambda: loop.step(host, 1000)


def matmul_peak(device: str, precision: str) -> float:
    """FLOPs a second of a product of large matrices."""
    size = 8192 if device == "cuda" else 1024
    matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    found = by_turns({"product": lambda: matrix @ matrix}, rounds=10, device=device)["product"]
    return 2 * size**3 / min(found)


def measure(name: str, case: Case, given: argparse.Namespace) -> None:
    batch = random_batch(case, given.device)
    functions = {"ours": our_step(case, given, batch), "bare": bare_passes(case, given, batch)}
    if not given.no_reference:
        functions["reference"] = reference(case, given, batch)
    with FlopCounterMode(display=False) as counter:
        functions["bare"]()
    flops = counter.get_total_flops()
    seconds = by_turns(functions, given.rounds, device=given.device)
    ours = statistics.median(seconds["ours"])
    print(f"{name}: {case.network}, {case.images} + {case.images} images of {case.height} x {case.width}")
    print(f"  ours / bare passes {told(quotients(seconds['ours'], seconds['bare']))}")
    if "reference" in seconds:
        ratio = sum(seconds["reference"]) / sum(seconds["ours"])
        print(f"  reference / ours   {ratio:.3f} (of the times of all rounds, as its steps differ by what is drawn)")
    peak = matmul_peak(given.device, given.precision)
    share = f"{100 * flops / ours / peak:.0f}% of what a product of matrices reaches"
    print(f"  {1000 * ours:.1f} ms a step of ours, {flops / 1e9:.1f} GFLOP, {share}", flush=True)
    if given.device == "cuda":
        memory = torch.cuda.max_memory_allocated() / 2**30
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"  {memory:.1f} GiB at most, of all of them together")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=["small", "mobilenet", "large"], choices=list(CASES))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--no-reference", action="store_true")
    parser.add_argument("--plain-memory", action="store_true", help="Leave the C library as it is, on a CPU.")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.device == "cpu" and not given.plain_memory:
        keep_freed_memory()  # as a training does
    for name in given.cases:
        measure(name, CASES[name], given)
    where = torch.cuda.get_device_name() if given.device == "cuda" else "one thread of this CPU"
    print(f"{where}, {given.precision}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
