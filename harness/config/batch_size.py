"""The size of a batch over all workers: filled in where it is not given, and how many workers can share it."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.config.parser import replace_flags
from harness.config.train import TrainConfig
from harness.errors import UserError

PER_WORKER = 4
"""Labelled images, and unlabelled ones, of each worker where the configuration does not say."""
SIZES = ("batch_labelled", "batch_unlabelled")


def with_batch_size(config: TrainConfig, workers: int) -> TrainConfig:
    """The configuration with the sizes that it leaves open filled in: what is stored means the same everywhere."""
    data, default = config.data, PER_WORKER * workers
    labelled = default if data.batch_labelled is None else data.batch_labelled
    unlabelled = default if data.batch_unlabelled is None else data.batch_unlabelled
    return replace(config, data=replace(data, batch_labelled=labelled, batch_unlabelled=unlabelled))


def used_sizes(config: TrainConfig) -> dict[str, int]:
    """The sizes that are given, by name; unlabelled images that are not looked at are left out."""
    names = SIZES if config.ssl.unlabelled_weight else SIZES[:1]
    sizes = {name: getattr(config.data, name) for name in names}
    return {name: size for name, size in sizes.items() if size is not None}


def divides(config: TrainConfig, workers: int) -> bool:
    """Whether so many workers, and their `accumulate` pieces, can share the batch evenly."""
    return all(size % (workers * config.accumulate) == 0 for size in used_sizes(config).values())


def most_workers(config: TrainConfig, at_most: int) -> int:
    """The largest number of workers that can share the batch; 1 if none can."""
    return next((workers for workers in range(at_most, 1, -1) if divides(config, workers)), 1)


def sharing_numbers(config: TrainConfig, fewest: int, most: int) -> tuple[int, ...]:
    """The numbers of workers, the fewest first, that can share evenly the batch that `most` workers share."""
    filled = with_batch_size(config, most)
    return tuple(workers for workers in range(fewest, most + 1) if divides(filled, workers))


def require_divisible(config: TrainConfig, workers: int, gpus: int = 0, words: Sequence[str] | None = None) -> None:
    """
    Args:
        words: of the command line of a training; with them the message has the two commands that work.

    Raises:
        UserError: so many workers cannot share the batch evenly.
    """
    filled, parts = with_batch_size(config, workers), workers * config.accumulate
    if divides(filled, workers):
        return
    name, size = next((name, size) for name, size in used_sizes(filled).items() if size % parts)
    rule = f"data.{name}: `{name} % (workers * accumulate) == 0` must hold"
    got = f"but got {size} for {workers} worker(s) and accumulate {config.accumulate}"
    raise UserError(f"{rule}, {got}" + ("." if words is None else f"; {ways_out(config, workers, gpus, words)}"))


def ways_out(config: TrainConfig, workers: int, gpus: int, words: Sequence[str]) -> str:
    """The command with fewer workers, and, for what is not a resume, the one with a larger batch."""
    given, config = used_sizes(config), with_batch_size(config, workers)
    parts, fewer = workers * config.accumulate, most_workers(config, workers - 1)
    count: dict[str, object] = {"--gpus": fewer if gpus else 0}
    count |= {"--workers": fewer} if config.workers is not None or not gpus else {}
    count |= {} if divides(config, fewer) else {"--accumulate": 1}
    sizes = used_sizes(config)
    count |= {f"--data.{name}": size for name, size in sizes.items() if name not in given}  # else they are smaller
    same = f"the same training on fewer workers: {train_command(words, count)}"
    if "--resume" in words:
        return same
    larger = {name: math.ceil(size / parts) * parts for name, size in sizes.items()}
    growth = max(larger[name] / sizes[name] for name in sizes)
    rate = config.optim.lr * (growth if config.optim.name == "sgd" else math.sqrt(growth))
    flags = {**{f"--data.{name}": size for name, size in larger.items()}, "--optim.lr": f"{rate:.4g}"}
    law = "in proportion to the batch" if config.optim.name == "sgd" else "with the root of the batch"
    return (
        f"{same} or another one, with a larger batch for which optim.lr "
        f"{config.optim.lr:g} was not tuned (as a rule it grows {law}): {train_command(words, flags)}"
    )


def train_command(words: Sequence[str], flags: Mapping[str, object]) -> str:
    """What was typed, with other flags."""
    return shlex.join(["python", "-m", "harness.train", *replace_flags(words, flags)])
