"""Which images are labelled: by number or share with a seed, or by a list of names; and which are held out, each by a
hash of its own name."""

import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from classmix_core.config import DataConfig
from classmix_core.data.samples import Samples
from classmix_core.errors import DataError, require

PAIR = re.compile(r"(.+\.(?:jpe?g|png|webp))\s+.+\.png", re.IGNORECASE)  # a name may hold spaces
KEPT = "train"
"""What is not held out."""


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


def hash_fraction(name: str, seed: int) -> float:
    """A number in [0, 1) that a name and a seed decide, on every machine and whatever else is there."""
    text = f"{seed}/{unicodedata.normalize('NFC', name)}"  # macOS stores letters and their accents apart
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def role_by_name(name: str, seed: int, holdout: float, bands: Mapping[str, int]) -> str:
    """The role whose band the name's hash lies in: band n is [n, n + 1) times `holdout`; KEPT for none."""
    place = hash_fraction(name, seed)
    return next((role for role, band in bands.items() if band * holdout <= place < (band + 1) * holdout), KEPT)


def hold_out(
    names: Sequence[str], config: DataConfig, bands: Mapping[str, int], keep: int
) -> tuple[dict[str, list[int]], tuple[str, ...]]:
    """Hold images out by their names, so that another image, or another label, never moves one of them.

    Where a role would be empty, an image of another stands in: the one with the lowest hash (kept: the highest).

    Args:
        bands: of the roles to hold out; see `role_by_name`.
        keep: how many are kept at least.

    Returns:
        numbers of the images by role (KEPT: the others), and a warning if some stand in.

    Raises:
        InvalidValue: fewer images than that takes.
    """
    least = {**dict.fromkeys(bands, 1), KEPT: keep}
    rule = f"holdout has {sum(least.values())} images or more to take {' and '.join(bands)} from"
    require(len(names) >= sum(least.values()), "holdout", rule, len(names))
    roles = [role_by_name(name, config.split_seed, config.holdout, bands) for name in names]
    order = sorted(range(len(names)), key=lambda index: (hash_fraction(names[index], config.split_seed), names[index]))
    count, moved = Counter(roles), []
    for role, wanted in least.items():
        for index in reversed(order) if role == KEPT else order:
            if count[role] < wanted and count[roles[index]] > least[roles[index]]:
                count.update({role: 1, roles[index]: -1})
                roles[index] = role
                moved.append(f"{names[index]} stands in for {role}")
    warnings: tuple[str, ...] = ()
    if moved:
        advice = seed_without_stand_ins(names, config.holdout, bands, least)
        warnings = (f"too few images have a role by their names: {', '.join(moved)} until there are more, {advice}.",)
    return {role: [index for index, own in enumerate(roles) if own == role] for role in least}, warnings


def seed_without_stand_ins(
    names: Sequence[str], holdout: float, bands: Mapping[str, int], least: Mapping[str, int]
) -> str:
    """Names the split_seed under which none stands in and the numbers are nearest to the shares."""
    shares = {**dict.fromkeys(bands, holdout), KEPT: 1 - len(bands) * holdout}
    found = []
    tried = min(1000, 100_000 // len(names) + 1)  # seconds at most
    for seed in range(tried):
        count = Counter(role_by_name(name, seed, holdout, bands) for name in names)
        if all(count[role] >= wanted for role, wanted in least.items()):
            found.append((sum(abs(count[role] - share * len(names)) for role, share in shares.items()), seed, count))
    if not found:
        return f"and no data.split_seed below {tried} does without"
    _, seed, count = min(found, key=lambda one: one[:2])
    counts = ", ".join(f"{role} {count[role]}" for role in (KEPT, *bands))
    return f"which may move images; under data.split_seed {seed} none ever moves ({counts})"


def split_and_hold_out(train: Samples, config: DataConfig) -> tuple[list[int], list[int], list[int], tuple[str, ...]]:
    """Numbers of the training images that are val, of those that keep their labels, and of the others; warnings.

    val does not depend on how many images are labelled; but a split file says which images are labelled, and val is
    taken from the others then.

    Raises:
        InvalidValue: none is left for val; see `split_labelled`.
    """
    if config.split_file is None:
        numbers, warnings = hold_out(train.names, config, {"val": 0}, keep=1)
        kept = numbers[KEPT]
        labelled, rest = split_labelled(train.subset(kept), config, len(kept))
        return numbers["val"], [kept[i] for i in labelled], [kept[i] for i in rest], warnings
    labelled, others = split_labelled(train, config, len(train.names))
    numbers, warnings = hold_out([train.names[i] for i in others], config, {"val": 0}, keep=0)
    return [others[i] for i in numbers["val"]], labelled, [others[i] for i in numbers[KEPT]], warnings
