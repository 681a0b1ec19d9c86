"""The batches of a run, for each of its workers, from any step on."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from classmix_core.classmix import Batch
from classmix_core.config import DataConfig, Size
from classmix_core.data import EVALUATED, Data, Role, load_data
from classmix_core.data.loader import TrainingSet, training_batches
from classmix_core.data.samples import Samples
from harness.config.train import TrainConfig
from harness.run_dir import read_splits
from harness.training.context import TrainContext


@lru_cache(maxsize=4)
def load_data_once(config: DataConfig, roles: tuple[Role, ...] = EVALUATED, splits: Path | None = None) -> Data:
    """The data set, kept for the next trial in this process.

    Args:
        splits: folder of the lists that say which images have which role; None: as the data set gives them now.

    Raises:
        DataError, InvalidValue: as `load_data`.
        UserError: as `read_splits`.
    """
    if splits is None:
        return load_data(config, roles)
    return load_data(config, roles, read_splits(splits, ("labelled", "unlabelled", *roles)))


def image_size(config: DataConfig, data: Data) -> Size:
    """H, W of training images; where they differ, of one."""
    if (size := config.crop or config.resize) is not None:
        return size
    height, width = data.labelled.image(0).shape[1:]
    return height, width


def training_set(config: DataConfig, samples: Samples, labels: bool, seed: int) -> TrainingSet:
    return TrainingSet(samples, labels=labels, resize=config.resize, crop=config.crop, seed=seed, scale=config.scale)


def train_dataloader(config: TrainConfig, data: Data, context: TrainContext, first_step: int) -> Iterator[Batch]:
    """Endless; without unlabelled images where they have no weight."""

    def stream(samples: Samples, labels: bool, batch: int | None, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        assert batch is not None, "with_batch_size comes first"
        return training_batches(
            training_set(config.data, samples, labels, seed),
            batch // context.world_size,
            seed=seed,
            rank=context.rank,
            world_size=context.world_size,
            first_step=first_step,
            loader_workers=config.data.loader_workers,
            device=context.device,
        )

    labelled = stream(data.labelled, True, config.data.batch_labelled, 2 * config.seed)
    if config.ssl.unlabelled_weight == 0:
        return (Batch(*batch) for batch in labelled)
    unlabelled = stream(data.unlabelled, False, config.data.batch_unlabelled, 2 * config.seed + 1)
    return (Batch(*pair[0], *pair[1]) for pair in zip(labelled, unlabelled, strict=True))
