"""One optimiser step of ClassMix, in the order of the paper's algorithm 1.

Shapes: L labelled, U unlabelled (and so mixed) images, C = 3 channels, K classes, H W image.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from classmix_core.augment import color_jitter, flip, gaussian_blur, to_float
from classmix_core.batch_generator import BatchGenerator
from classmix_core.config import ClassMixConfig
from classmix_core.ema import MovingAverage, warmed_up_decay
from classmix_core.losses import (
    consistency_loss,
    consistency_weight,
    is_valid,
    labelled_loss,
    pixel_loss,
    sigmoid_ramp,
)
from classmix_core.mixing import paste, sample_mask
from classmix_core.pseudo_label import pseudo_label
from classmix_core.workers import Awaited, already, next_of_batch


class Batch(NamedTuple):
    """What one step learns from: the part of the batch that one worker has. Unlabelled tensors are None for the
    supervised baseline."""

    image_LCHW: Tensor
    """uint8 RGB."""
    label_LHW: Tensor
    """uint8, 0..K-1 or IGNORE_INDEX."""
    image_UCHW: Tensor | None = None
    """uint8 RGB, of the same size as the labelled ones."""
    padding_UHW: Tensor | None = None
    """uint8, IGNORE_INDEX where the image is padding, else 0."""


class Mixed(NamedTuple):
    """Unlabelled images, labelled by the teacher and mixed; everything on the device."""

    source_UCHW: Tensor
    """Image A, float 0..1."""
    target_UCHW: Tensor
    """Image B, float 0..1: the next one of the batch of all workers."""
    mask_UHW: Tensor
    """bool, True where A shows."""
    image_UCHW: Tensor
    """The mix, jittered and blurred, float 0..1."""
    pseudo_label_UHW: Tensor
    """uint8, 0..K-1 or IGNORE_INDEX."""
    confidence_UHW: Tensor
    """float32 0..1, the teacher's probability of the pseudo-label."""


class Targets(NamedTuple):
    """What the student shall learn: a whole part of a batch, or a piece of it for one forward and backward pass."""

    image_LCHW: Tensor
    """Float 0..1."""
    label_LHW: Tensor
    image_UCHW: Tensor | None = None
    """Mixed, float 0..1. It and the next two are None for the supervised baseline."""
    pseudo_label_UHW: Tensor | None = None
    confident_UHW: Tensor | None = None
    """bool, valid and with a confidence of at least tau."""

    def split(self, pieces: int) -> list["Targets"]:
        """Equal pieces, each with as many labelled and mixed images as any other."""
        if pieces == 1:
            return [self]
        parts = [[value] * pieces if value is None else value.split(len(value) // pieces) for value in self]
        return [Targets(*piece) for piece in zip(*parts, strict=True)]


class PixelCounts(NamedTuple):
    """Of all of a step, which its losses are means over."""

    wait: Awaited
    """float (3,): mean numbers over all workers of the pixels that are not IGNORE_INDEX, labelled and mixed, and of
    those mixed ones that are confident."""
    ramp: float = 0.0
    """Of `consistency_weight`."""


class StepResult(NamedTuple):
    """Detached scalars on the device; reading one waits for it. Their means over all workers are those of the batch."""

    loss: Tensor
    loss_labelled: Tensor
    loss_unlabelled: Tensor
    lambda_: Tensor
    """Mean weight of the valid pixels of the mixed images."""


def joined(labelled: Tensor, unlabelled: Tensor | None) -> Tensor:
    return labelled if unlabelled is None else torch.cat((labelled, unlabelled))


@torch.no_grad()
def mix_unlabelled(
    teacher: nn.Module,
    image_UCHW: Tensor,
    padding_UHW: Tensor,
    num_classes: int,
    config: ClassMixConfig,
    generator: BatchGenerator,
    *,
    pieces: int = 1,
    from_next_worker: Callable[[Tensor], Awaited] = already,
) -> Mixed:
    """Steps 1 to 3 of algorithm 1: label, draw, paste image i onto image i + 1 (cyclic), then jitter and blur.

    Args:
        image_UCHW: float 0..1.
        padding_UHW: uint8, IGNORE_INDEX where the image is padding, else 0.
        pieces: the teacher labels so many equal pieces one after the other.
        from_next_worker: begins to fetch the tensor that the next worker passes; by default there is one worker.
    """
    next_image = from_next_worker(image_UCHW[:1])  # on its way while the teacher labels
    labelled = [pseudo_label(teacher, piece) for piece in image_UCHW.chunk(pieces)]
    label_UHW, confidence_UHW = labelled[0] if pieces == 1 else map(torch.cat, zip(*labelled, strict=True))
    label_UHW = torch.maximum(label_UHW, padding_UHW)
    next_label = from_next_worker(torch.stack((label_UHW[:1].float(), confidence_UHW[:1])))
    mask_UHW = sample_mask(config.mix, label_UHW, num_classes, generator)
    weight_UHW = mask_UHW.float()
    target_UCHW = next_of_batch(image_UCHW, next_image())
    mixed_UCHW = paste(image_UCHW, target_UCHW, weight_UHW)
    with torch.autocast(image_UCHW.device.type, enabled=False):  # images stay float32 under bf16
        if config.jitter:
            mixed_UCHW = color_jitter(mixed_UCHW, config.jitter, config.jitter_probability, generator)
        if config.blur:
            mixed_UCHW = gaussian_blur(mixed_UCHW, config.blur, config.blur_probability, generator)
    next_label_1HW, next_confidence_1HW = next_label()
    return Mixed(
        image_UCHW,
        target_UCHW,
        mask_UHW,
        mixed_UCHW,
        paste(label_UHW, next_of_batch(label_UHW, next_label_1HW.to(label_UHW.dtype)), mask_UHW),
        paste(confidence_UHW, next_of_batch(confidence_UHW, next_confidence_1HW), weight_UHW),
    )


def weak_augment(
    image_BCHW: Tensor, label_BHW: Tensor, flips: bool, generator: BatchGenerator
) -> tuple[Tensor, Tensor]:
    """uint8 images to float 0..1, flipped together with their labels. (The random zoom and crop come earlier, when
    an image is loaded.)"""
    if flips:
        image_BCHW, label_BHW = flip(image_BCHW, label_BHW, generator)
    return to_float(image_BCHW), label_BHW


class ClassMix:
    """The training step over a student and its teacher.

    Args:
        student: maps float RGB images 0..1 (B, 3, H, W) to logits (B, K, H, W); may be wrapped for data parallelism.
        teacher: a copy of the bare student.
        optimizer, schedule: of the student; the schedule counts steps.
        num_classes: K.
        config: what is learnt from unlabelled images.
        steps: length of the whole training, which the ramp refers to.
        generator: on the student's device; everything random in a step comes from it, for the batch of all workers.
        flips: whether labelled and unlabelled images are mirrored at random.
        precision: bf16 runs the networks under autocast; losses are float32 always.
        accumulate: forward and backward passes of a step, each over an equal piece of this worker's part of the batch.
            The sum of their gradients is that of the whole part, but for batch norms, which see a piece alone.
        mean_later: begins to average a small tensor over all workers; by default there is one.
        from_next_worker: begins to fetch the tensor that the next worker passes, so that images are pasted across
            workers.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        *,
        num_classes: int,
        config: ClassMixConfig,
        steps: int,
        generator: BatchGenerator,
        flips: bool = True,
        precision: Literal["fp32", "bf16"] = "fp32",
        accumulate: int = 1,
        mean_later: Callable[[Tensor], Awaited] = already,
        from_next_worker: Callable[[Tensor], Awaited] = already,
    ) -> None:
        self.student, self.teacher, self.optimizer, self.schedule = student, teacher, optimizer, schedule
        self.num_classes, self.config, self.steps, self.generator = num_classes, config, steps, generator
        self.flips, self.precision, self.accumulate = flips, precision, accumulate
        self.mean_later, self.from_next_worker = mean_later, from_next_worker
        self.average = MovingAverage(teacher, student)
        self.train_mode()

    def train_mode(self) -> None:
        """Put both networks into the modes they train in; the teacher drops nothing out in either mode."""
        self.student.train()
        self.teacher.eval()
        if self.config.teacher_mode == "train":
            for module in self.teacher.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.train()

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.generator.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def augment(self, image_BCHW: Tensor, label_BHW: Tensor) -> tuple[Tensor, Tensor]:
        return weak_augment(image_BCHW, label_BHW, self.flips, self.generator)

    def mix(self, image_UCHW: Tensor, padding_UHW: Tensor) -> Mixed:
        """Augment, label and mix unlabelled uint8 images."""
        weak_UCHW, padding_UHW = self.augment(image_UCHW, padding_UHW)
        with self.autocast():
            return mix_unlabelled(
                self.teacher,
                weak_UCHW,
                padding_UHW,
                self.num_classes,
                self.config,
                self.generator,
                pieces=self.accumulate,
                from_next_worker=self.from_next_worker,
            )

    def step(self, batch: Batch, index: int) -> StepResult:
        """Learn from one batch; `index` counts optimiser steps from 0. Nothing here waits for the device."""
        image_LCHW, label_LHW = self.augment(batch.image_LCHW, batch.label_LHW)
        if self.config.unlabelled_weight == 0 or batch.image_UCHW is None or batch.padding_UHW is None:
            targets, counts = self.supervised_targets(image_LCHW, label_LHW)
            own_batch_statistics = False
        else:
            mixed = self.mix(batch.image_UCHW, batch.padding_UHW)
            targets, counts = self.semi_supervised_targets(image_LCHW, label_LHW, mixed, index)
            own_batch_statistics = self.config.teacher_mode == "train"
        self.optimizer.zero_grad(set_to_none=True)
        result = self.backward(targets, counts)
        self.optimizer.step()
        self.schedule.step()
        decay = warmed_up_decay(index, self.config.ema_decay)
        self.average.update_(decay, average_buffers=not own_batch_statistics)
        return result

    def backward(self, targets: Targets, counts: PixelCounts) -> StepResult:
        """Accumulate the gradients of all pieces, which workers average in the last one's backward pass."""
        pieces, results = targets.split(self.accumulate), []
        for number, piece in enumerate(pieces, 1):
            with nullcontext() if number == len(pieces) else self.without_averaging():
                losses = self.losses(piece, counts)
                losses.loss.backward()
            results.append([value.detach() for value in losses])
        return StepResult(*(values[0] if len(pieces) == 1 else sum(values) for values in zip(*results, strict=True)))

    def without_averaging(self) -> AbstractContextManager[None]:
        """Gradients stay on each worker while the block lasts."""
        student = self.student
        return student.no_sync() if isinstance(student, nn.parallel.DistributedDataParallel) else nullcontext()

    def supervised_targets(self, image_LCHW: Tensor, label_LHW: Tensor) -> tuple[Targets, PixelCounts]:
        labelled = is_valid(label_LHW).sum().float()
        none = torch.zeros_like(labelled)
        return Targets(image_LCHW, label_LHW), PixelCounts(self.mean_later(torch.stack((labelled, none, none))))

    def semi_supervised_targets(
        self, image_LCHW: Tensor, label_LHW: Tensor, mixed: Mixed, index: int
    ) -> tuple[Targets, PixelCounts]:
        """Step 4 of algorithm 1 up to what looks at all of the batch."""
        valid_UHW = is_valid(mixed.pseudo_label_UHW)
        confident_UHW = (mixed.confidence_UHW >= self.config.tau) & valid_UHW
        counts = torch.stack((is_valid(label_LHW).sum(), valid_UHW.sum(), confident_UHW.sum())).float()
        ramp = sigmoid_ramp(index / (self.config.ramp_fraction * self.steps))
        targets = Targets(image_LCHW, label_LHW, mixed.image_UCHW, mixed.pseudo_label_UHW, confident_UHW)
        return targets, PixelCounts(self.mean_later(counts), ramp)

    def losses(self, targets: Targets, counts: PixelCounts) -> StepResult:
        """The losses of a piece, which add up to those of the batch. Labelled and mixed images go through the student
        in one pass (one batch norm)."""
        image_LCHW, label_LHW, image_UCHW, pseudo_label_UHW, confident_UHW = targets
        with self.autocast():
            logits_BKHW = self.student(joined(image_LCHW, image_UCHW))
        loss_BHW = pixel_loss(logits_BKHW, joined(label_LHW, pseudo_label_UHW))
        valid_labelled, valid_mixed, confident = counts.wait().unbind()
        labelled = labelled_loss(loss_BHW[: len(label_LHW)], valid_labelled)
        if pseudo_label_UHW is None or confident_UHW is None:
            zero = torch.zeros_like(labelled)
            return StepResult(labelled, labelled, zero, zero)
        valid_UHW = is_valid(pseudo_label_UHW)
        share = confident / valid_mixed.clamp(min=1)
        lambda_ = consistency_weight(self.config.weight, confident_UHW, valid_UHW, share, counts.ramp)
        unlabelled = consistency_loss(loss_BHW[len(label_LHW) :], lambda_, valid_mixed)
        loss = labelled + self.config.unlabelled_weight * unlabelled
        return StepResult(loss, labelled, unlabelled, (lambda_ * valid_UHW).sum() / valid_mixed.clamp(min=1))
