"""Which images are labelled: by number or share with a seed, or by a list of names; and which are held out."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from classmix_core.config import DataConfig
from classmix_core.data.samples import Samples
from classmix_core.errors import DataError, require

PAIR = re.compile(r"(.+\.(?:jpe?g|png|webp))\s+.+\.png", re.IGNORECASE)  # a name may hold spaces


def choose(count: int, amount: int, seed: int) -> tuple[list[int], list[int]]:
    """Draw `amount` of `count` numbers by a seed.

    Returns:
        the drawn and the others, both sorted.
    """
    order = np.random.default_rng(seed).permutation(count)
    return sorted(order[:amount].tolist()), sorted(order[amount:].tolist())


def resolve_amount(wanted: int | float, available: int, field: str) -> int:
    """A count or a share (float, up to 1) as a count.

    Raises:
        InvalidValue: more than there are.
    """
    amount = wanted if isinstance(wanted, int) else max(1, math.floor(wanted * available + 0.5))
    rule = f"{field} <= {available} (the labelled images that the data set has)"
    require(amount <= available, field, rule, wanted)
    return amount


def read_names(path: Path) -> list[str]:
    """The first column of a text file: one name a line, or UniMatch's "image mask" lines.

    Raises:
        InvalidValue: there is no such file, or it names nothing.
    """
    require(path.is_file(), "split_file", "split_file is an existing file", str(path))
    lines = [
        line.strip() for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines() if line.strip()
    ]
    pairs = [PAIR.fullmatch(line) for line in lines]
    names = [pair[1] if pair else line for pair, line in zip(pairs, lines, strict=True)]
    require(bool(names), "split_file", "split_file names at least one image", str(path))
    return names


def find_names(wanted: Sequence[str], names: Sequence[str], source: Path) -> list[int]:
    """Numbers of the wanted names, sorted.

    Raises:
        DataError: a name is not in the data set, or is there twice.
    """
    number = {name: index for index, name in enumerate(names)}
    for name in wanted:
        if name not in number:
            raise DataError(f"{source}: names must be in the data set (such as {names[0]!r}), but got {name!r}.")
    if len(set(wanted)) < len(wanted):
        raise DataError(f"{source}: a name must be there once, but {len(wanted) - len(set(wanted))} are there again.")
    return sorted(number[name] for name in wanted)


def split_labelled(train: Samples, config: DataConfig, default: int) -> tuple[list[int], list[int]]:
    """Numbers of the images that keep their labels, and of the others.

    Args:
        default: how many keep them where the configuration does not say.

    Raises:
        InvalidValue: more than there are, or a split file that is missing, empty or of another number of names.
        DataError: the split file names an image twice, or one that the data set does not have.
    """
    count = len(train.names)
    if config.split_file is None:
        wanted = default if config.labelled is None else config.labelled
        return choose(count, resolve_amount(wanted, count, "labelled"), config.split_seed)
    path = Path(config.split_file)
    labelled = find_names(read_names(path), train.names, path)
    rule = f"labelled is unset where split_file is set, or as many as the {len(labelled)} that it names"
    require(config.labelled in (None, len(labelled)), "labelled", rule, config.labelled)
    return labelled, sorted(set(range(count)) - set(labelled))


def split_and_hold_out(train: Samples, config: DataConfig) -> tuple[list[int], list[int], list[int]]:
    """Numbers of the training images that are val, of those that keep their labels, and of the others.

    val is drawn first, so that it does not depend on how many images are labelled; but a split file says which
    images are labelled, and val is drawn from the others then.

    Raises:
        InvalidValue: a split file that names so many that too few are left for val; see `split_labelled`.
    """
    count = len(train.names)
    amount = max(1, round(config.holdout * count))
    if config.split_file is None:
        held, kept = choose(count, amount, config.split_seed)
        labelled, rest = split_labelled(train.subset(kept), config, len(kept))
        return held, [kept[i] for i in labelled], [kept[i] for i in rest]
    labelled, others = split_labelled(train, config, count)
    rule = f"holdout leaves val at most the {len(others)} training images that split_file does not name"
    require(amount <= len(others), "holdout", rule, config.holdout)
    drawn, rest = choose(len(others), amount, config.split_seed)
    return [others[i] for i in drawn], labelled, [others[i] for i in rest]
