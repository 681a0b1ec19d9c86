"""One optimiser step of ClassMix, in the order of the paper's algorithm 1.

Shapes: L labelled, U unlabelled (and so mixed) images, C = 3 channels, K classes, H W image.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from classmix_core.augment import color_jitter, flip, gaussian_blur, to_float
from classmix_core.config import ClassMixConfig
from classmix_core.constants import IGNORE_INDEX
from classmix_core.ema import update_teacher_, warmed_up_decay
from classmix_core.losses import consistency_loss, consistency_weight, labelled_loss, sigmoid_ramp
from classmix_core.mixing import paste, sample_mask


class Batch(NamedTuple):
    """What one step learns from, on one worker. Unlabelled tensors are None for the supervised baseline."""

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
    """Image B, float 0..1: the next one of the batch."""
    mask_UHW: Tensor
    """bool, True where A shows."""
    image_UCHW: Tensor
    """The mix, jittered and blurred, float 0..1."""
    pseudo_label_UHW: Tensor
    """int64, 0..K-1 or IGNORE_INDEX."""
    confidence_UHW: Tensor
    """float32 0..1, the teacher's probability of the pseudo-label."""


class StepResult(NamedTuple):
    """Detached scalars on the device; reading one waits for it."""

    loss: Tensor
    loss_labelled: Tensor
    loss_unlabelled: Tensor
    lambda_: Tensor
    """Mean weight of the valid pixels of the mixed images of this worker."""


@torch.no_grad()
def pseudo_label(teacher: nn.Module, image_UCHW: Tensor) -> tuple[Tensor, Tensor]:
    """The teacher's label (int64) and its probability (float32), both (U, H, W), of float images in 0..1."""
    logits_UKHW = teacher(image_UCHW).float()
    top_UHW, label_UHW = logits_UKHW.max(1)
    return label_UHW, (top_UHW - logits_UKHW.logsumexp(1)).exp()


@torch.no_grad()
def mix_unlabelled(
    teacher: nn.Module,
    image_UCHW: Tensor,
    padding_UHW: Tensor,
    num_classes: int,
    config: ClassMixConfig,
    generator: torch.Generator,
) -> Mixed:
    """Steps 1 to 3 of algorithm 1: label, draw, paste image i onto image i + 1 (cyclic), then jitter and blur.

    Args:
        image_UCHW: float 0..1.
        padding_UHW: integer, IGNORE_INDEX where the image is padding.
    """
    label_UHW, confidence_UHW = pseudo_label(teacher, image_UCHW)
    label_UHW = label_UHW.masked_fill(padding_UHW == IGNORE_INDEX, IGNORE_INDEX)
    mask_UHW = sample_mask(config.mix, label_UHW, num_classes, generator)
    target_UCHW = image_UCHW.roll(-1, 0)
    mixed_UCHW = paste(image_UCHW, target_UCHW, mask_UHW)
    with torch.autocast(image_UCHW.device.type, enabled=False):  # images stay float32 under bf16
        if config.jitter:
            mixed_UCHW = color_jitter(mixed_UCHW, config.jitter, config.jitter_probability, generator)
        if config.blur:
            mixed_UCHW = gaussian_blur(mixed_UCHW, config.blur, config.blur_probability, generator)
    return Mixed(
        image_UCHW,
        target_UCHW,
        mask_UHW,
        mixed_UCHW,
        paste(label_UHW, label_UHW.roll(-1, 0), mask_UHW),
        paste(confidence_UHW, confidence_UHW.roll(-1, 0), mask_UHW),
    )


def weak_augment(
    image_BCHW: Tensor, label_BHW: Tensor, flips: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """uint8 images to float 0..1, flipped together with their labels. (The random zoom and crop come earlier, when
    an image is loaded.)"""
    image_BCHW = to_float(image_BCHW)
    if flips:
        image_BCHW, label_BHW = flip(image_BCHW, label_BHW, generator)
    return image_BCHW, label_BHW


class ClassMix:
    """The training step over a student and its teacher.

    Args:
        student: maps float RGB images 0..1 (B, 3, H, W) to logits (B, K, H, W); may be wrapped for data parallelism.
        teacher: a copy of the bare student.
        optimizer, schedule: of the student; the schedule counts steps.
        num_classes: K.
        config: what is learnt from unlabelled images.
        steps: length of the whole training, which the ramp refers to.
        generator: on the student's device; everything random in a step comes from it.
        flips: whether labelled and unlabelled images are mirrored at random.
        precision: bf16 runs the networks under autocast; losses are float32 always.
        mean_over_workers: averages a small tensor over all workers; by default there is one.
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
        generator: torch.Generator,
        flips: bool = True,
        precision: Literal["fp32", "bf16"] = "fp32",
        mean_over_workers: Callable[[Tensor], Tensor] = lambda value: value,
    ) -> None:
        self.student, self.teacher, self.optimizer, self.schedule = student, teacher, optimizer, schedule
        self.num_classes, self.config, self.steps, self.generator = num_classes, config, steps, generator
        self.flips, self.precision = flips, precision
        self.mean_over_workers = mean_over_workers
        self.train_mode()

    def train_mode(self) -> None:
        """Put both networks into the modes they train in; the teacher drops nothing out in either mode."""
        self.student.train()
        self.teacher.eval()
        if self.config.teacher_mode == "train":
            for module in self.teacher.modules():
                if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
                    module.train()

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.generator.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def augment(self, image_BCHW: Tensor, label_BHW: Tensor) -> tuple[Tensor, Tensor]:
        return weak_augment(image_BCHW, label_BHW, self.flips, self.generator)

    def mix(self, image_UCHW: Tensor, padding_UHW: Tensor) -> Mixed:
        """Augment, label and mix unlabelled uint8 images."""
        weak_UCHW, padding_UHW = self.augment(image_UCHW, padding_UHW)
        with self.autocast():
            return mix_unlabelled(self.teacher, weak_UCHW, padding_UHW, self.num_classes, self.config, self.generator)

    def step(self, batch: Batch, index: int) -> StepResult:
        """Learn from one batch; `index` counts optimiser steps from 0. Nothing here waits for the device."""
        image_LCHW, label_LHW = self.augment(batch.image_LCHW, batch.label_LHW)
        if self.config.unlabelled_weight == 0 or batch.image_UCHW is None or batch.padding_UHW is None:
            losses = self.supervised_loss(image_LCHW, label_LHW)
            own_batch_statistics = False
        else:
            mixed = self.mix(batch.image_UCHW, batch.padding_UHW)
            losses = self.semi_supervised_loss(image_LCHW, label_LHW, mixed, index)
            own_batch_statistics = self.config.teacher_mode == "train"
        self.optimizer.zero_grad(set_to_none=True)
        losses.loss.backward()
        self.optimizer.step()
        self.schedule.step()
        decay = warmed_up_decay(index, self.config.ema_decay)
        update_teacher_(self.teacher, self.student, decay, average_buffers=not own_batch_statistics)
        return StepResult(*(value.detach() for value in losses))

    def supervised_loss(self, image_LCHW: Tensor, label_LHW: Tensor) -> StepResult:
        valid_pixels = self.mean_over_workers((label_LHW != IGNORE_INDEX).sum().float())
        with self.autocast():
            logits_LKHW = self.student(image_LCHW)
        loss = labelled_loss(logits_LKHW, label_LHW, valid_pixels)
        zero = torch.zeros_like(loss)
        return StepResult(loss, loss, zero, zero)

    def semi_supervised_loss(self, image_LCHW: Tensor, label_LHW: Tensor, mixed: Mixed, index: int) -> StepResult:
        """Step 4 of algorithm 1. Labelled and mixed images go through the student in one pass (one batch norm)."""
        valid_UHW = mixed.pseudo_label_UHW != IGNORE_INDEX
        confident_UHW = (mixed.confidence_UHW >= self.config.tau) & valid_UHW
        counts = torch.stack(((label_LHW != IGNORE_INDEX).sum(), valid_UHW.sum(), confident_UHW.sum())).float()
        valid_labelled, valid_mixed, confident = self.mean_over_workers(counts).unbind()
        ramp = sigmoid_ramp(index / (self.config.ramp_fraction * self.steps))
        share = confident / valid_mixed.clamp(min=1)
        lambda_ = consistency_weight(self.config.weight, confident_UHW, valid_UHW, share, ramp)

        with self.autocast():
            logits_BKHW = self.student(torch.cat((image_LCHW, mixed.image_UCHW)))
        logits_LKHW, logits_UKHW = logits_BKHW.split((len(image_LCHW), len(mixed.image_UCHW)))
        labelled = labelled_loss(logits_LKHW, label_LHW, valid_labelled)
        unlabelled = consistency_loss(logits_UKHW, mixed.pseudo_label_UHW, lambda_, valid_mixed)
        loss = labelled + self.config.unlabelled_weight * unlabelled
        mean_lambda = (lambda_ * valid_UHW).sum() / valid_UHW.sum().clamp(min=1)
        return StepResult(loss, labelled, unlabelled, mean_lambda)
