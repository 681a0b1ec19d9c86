"""A step of ClassMix as the public code of its field does one: the same algorithm, in the habits that cost it time.

Written from a description of that code. It draws classes image by image on the host, mixes softmax maps of all classes,
blurs with a kernel of a tenth of the image, turns hues pixel by pixel in HSV, runs labelled and mixed images through
the student one after the other, picks labelled pixels by a mask, averages the teacher tensor by tensor, and reads
numbers from the device as it goes.
"""

import math
import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from classmix_core.classmix import Batch
from classmix_core.constants import IGNORE_INDEX


class ReferenceStep:
    """One step after the other over a student and its teacher.

    Args:
        schedule: of the learning rate, which counts steps.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        device: str,
        tau: float = 0.968,
        ema_decay: float = 0.99,
    ) -> None:
        self.student, self.teacher = student.train(), teacher.train()
        self.optimizer, self.schedule = optimizer, schedule
        self.device, self.tau, self.ema_decay = device, tau, ema_decay

    def step(self, batch: Batch, index: int) -> float:
        assert batch.image_UCHW is not None
        image_LCHW = batch.image_LCHW.float().div(255).to(self.device)
        label_LHW = batch.label_LHW.long().to(self.device)
        image_UCHW = batch.image_UCHW.float().div(255).to(self.device)
        self.optimizer.zero_grad()
        labelled = cross_entropy_of_labelled(self.student(image_LCHW), label_LHW)
        mixed_UCHW, label_UHW, confidence_UHW = self.mix(image_UCHW)
        mixed_UCHW = blur(jitter(mixed_UCHW))
        lambda_ = (confidence_UHW >= self.tau).sum().item() / label_UHW.numel()
        losses = F.cross_entropy(self.student(mixed_UCHW), label_UHW, reduction="none", ignore_index=IGNORE_INDEX)
        loss = labelled + (lambda_ * losses).mean()
        value = loss.item()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        decay = min(1 - 1 / (index + 1), self.ema_decay)
        for average, parameter in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            average.data[:] = decay * average[:].data[:] + (1 - decay) * parameter[:].data[:]
        return value

    def mix(self, image_UCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mixed images, their labels and confidences."""
        with torch.no_grad():
            probability_UKHW = torch.softmax(self.teacher(image_UCHW), 1)
        label_UHW = probability_UKHW.max(1)[1]
        images, probabilities = [], []
        for number in range(len(image_UCHW)):
            classes = torch.unique(label_UHW[number]).cpu().tolist()
            chosen = torch.tensor(random.sample(classes, len(classes) // 2), device=label_UHW.device)
            mask_HW = (label_UHW[number].unsqueeze(0) == chosen.view(-1, 1, 1)).sum(0).float()
            following = (number + 1) % len(image_UCHW)
            images.append(mask_HW * image_UCHW[number] + (1 - mask_HW) * image_UCHW[following])
            probabilities.append(mask_HW * probability_UKHW[number] + (1 - mask_HW) * probability_UKHW[following])
        confidence_UHW, mixed_label_UHW = torch.stack(probabilities).max(1)
        return torch.stack(images), mixed_label_UHW, confidence_UHW


def cross_entropy_of_labelled(logits_LKHW: Tensor, label_LHW: Tensor) -> Tensor:
    valid_LHW = (label_LHW >= 0) & (label_LHW != IGNORE_INDEX)
    logits_NK = logits_LKHW.permute(0, 2, 3, 1)[valid_LHW]
    return F.cross_entropy(logits_NK, label_LHW[valid_LHW])


def jitter(image_BCHW: Tensor, strength: float = 0.25) -> Tensor:
    """Brightness, contrast, saturation and hue, in four times of five, alike for all images."""
    if random.random() > 0.8:
        return image_BCHW
    brightness, contrast, saturation = (random.uniform(1 - strength, 1 + strength) for _ in range(3))
    image_BCHW = transforms.adjust_brightness(image_BCHW, brightness)
    image_BCHW = transforms.adjust_contrast(image_BCHW, contrast)
    image_BCHW = transforms.adjust_saturation(image_BCHW, saturation)
    return transforms.adjust_hue(image_BCHW, random.uniform(-strength, strength))


def blur(image_BCHW: Tensor) -> Tensor:
    """Every other time, alike for all images; a kernel of a tenth of the image each way, whatever the sigma."""
    if random.random() > 0.5:
        return image_BCHW
    sigma = random.uniform(0.15, 1.15)
    height, width = (math.ceil(0.1 * size) // 2 * 2 + 1 for size in image_BCHW.shape[-2:])
    rows, columns = (
        torch.exp(-((torch.arange(size, device=image_BCHW.device) - size // 2) ** 2) / (2 * sigma**2))
        for size in (height, width)
    )
    kernel = torch.outer(rows / rows.sum(), columns / columns.sum()).expand(3, 1, height, width)
    padded = F.pad(image_BCHW, (width // 2, width // 2, height // 2, height // 2), mode="reflect")
    return F.conv2d(padded, kernel, groups=3)
