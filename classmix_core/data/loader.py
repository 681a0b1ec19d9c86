"""Endless, resumable batches for training; sharded batches for evaluation."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from classmix_core.config import Size
from classmix_core.data.sampler import EndlessSampler
from classmix_core.data.samples import Samples
from classmix_core.data.transforms import random_crop, resize_image, resize_label, zoom


class TrainingSet(Dataset[tuple[Tensor, Tensor]]):
    """Resized, zoomed, cropped samples. Zoom and crop depend on the seed and the position alone, whoever loads it.

    Args:
        resize: H, W of all images; None: as they are.
        crop: H, W of a random window, taken after the zoom; None: as large as before the zoom.
        scale: range of the random zoom. What it makes smaller than the window is padded, as in the authors' VOC reader.

    Yields uint8 (3, H, W) and uint8 (H, W): the label, or without labels 0; IGNORE_INDEX where the image is padded.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        labels: bool,
        resize: Size | None,
        crop: Size | None,
        seed: int,
        scale: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        self.samples, self.labels, self.resize, self.crop, self.seed = samples, labels, resize, crop, seed
        self.scale = scale

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, Tensor]:
        index, position = item
        image = resize_image(self.samples.image(index), self.resize)
        if self.labels:
            label = resize_label(self.samples.label(index), self.resize)
        else:
            label = torch.zeros(image.shape[1:], dtype=torch.uint8)
        if self.crop is None and self.scale == (1.0, 1.0):
            return image, label
        rng = np.random.default_rng((self.seed, position))
        size = self.crop or (image.shape[1], image.shape[2])
        if self.scale != (1.0, 1.0):
            image, label = zoom(image, label, rng.uniform(*self.scale))
        return random_crop(image, label, size, rng)


def ignore_interrupt(worker: int) -> None:
    """A terminal sends Ctrl-C to the loader processes as well; the training process decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def training_batches(
    data: TrainingSet,
    batch: int,
    *,
    seed: int,
    rank: int,
    world_size: int,
    first_step: int,
    loader_workers: int,
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of uint8 images (B, 3, H, W) and labels (B, H, W) on the device, from step `first_step` on."""
    count = len(data.samples.names)
    sampler = EndlessSampler(count, batch, seed=seed, rank=rank, world_size=world_size, first_step=first_step)
    loader = DataLoader(
        data,
        batch_sampler=sampler,
        num_workers=loader_workers,
        # fork is not safe beside Ray's and torch's threads
        multiprocessing_context="forkserver" if loader_workers else None,
        worker_init_fn=ignore_interrupt if loader_workers else None,
        pin_memory=device.type == "cuda",
        generator=torch.Generator().manual_seed(seed),  # else the loader draws from the global generator
    )
    for images, labels in loader:
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def prefetch(batches: Iterator[tuple[Tensor, Tensor]], pin: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """The same, each loaded in a thread while the one before is worked on; with `pin` in pinned memory, for a GPU."""

    def load() -> tuple[Tensor, Tensor] | None:
        batch = next(batches, None)
        return (batch[0].pin_memory(), batch[1].pin_memory()) if batch and pin else batch

    with ThreadPoolExecutor(1, "prefetch") as thread:
        loaded = thread.submit(load)
        while (batch := loaded.result()) is not None:
            loaded = thread.submit(load)
            yield batch


def evaluation_batches(
    samples: Samples, batch: int, *, resize: Size | None, resize_labels: bool, rank: int, world_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every `world_size`-th sample from `rank` on, in order, in batches of neighbours of the same size.

    Args:
        resize: H, W of the images; None: as they are.
        resize_labels: whether labels are resized too.

    Yields:
        uint8 images (B, 3, H, W) and uint8 labels (B, H, W) with 0..K-1 or IGNORE_INDEX.
    """
    shard = iter(range(rank, len(samples.names), world_size))
    while indices := list(islice(shard, batch)):
        groups: dict[tuple[torch.Size, torch.Size], list[tuple[Tensor, Tensor]]] = {}
        for index in indices:
            image = resize_image(samples.image(index), resize)
            label = resize_label(samples.label(index), resize if resize_labels else None)
            groups.setdefault((image.shape, label.shape), []).append((image, label))
        for group in groups.values():
            images, labels = zip(*group, strict=True)
            yield torch.stack(images), torch.stack(labels)
