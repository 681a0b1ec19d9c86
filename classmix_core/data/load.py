"""From a configuration to the four sets of images."""

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from classmix_core.config import DataConfig
from classmix_core.data import splits
from classmix_core.data.cache import CachedSamples, open_cache
from classmix_core.data.datasets import camvid, cityscapes, folder, scenes, voc
from classmix_core.data.samples import ArraySamples, FileSamples, Samples
from classmix_core.data.split_pickle import read_permutation
from classmix_core.errors import DataError, InvalidValue, require


@dataclass(frozen=True)
class Data:
    """A data set, split."""

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    labelled: Samples
    unlabelled: Samples
    val: Samples | None
    """None: not asked for."""
    test: Samples | None

    def roles(self) -> dict[str, Samples]:
        roles = {"labelled": self.labelled, "unlabelled": self.unlabelled, "val": self.val, "test": self.test}
        return {role: samples for role, samples in roles.items() if samples is not None}


Role = Literal["val", "test"]
EVALUATED: tuple[Role, ...] = ("val", "test")


def load_data(config: DataConfig, roles: Sequence[Role] = EVALUATED) -> Data:
    """List (scenes: draw) the images of the roles; files are not opened yet.

    Args:
        roles: which of val and test are wanted; the files of one that is not are never looked for.

    Raises:
        DataError: something is missing in the folder.
        InvalidValue: more labelled images asked for than there are, or a bad split file.
    """
    if config.name == "scenes":
        train = scenes.load_split("train")
        labelled, rest = split_labelled(train, config, scenes.LABELLED)
        drawn = [scenes.load_split(role) if role in roles else None for role in EVALUATED]
        return Data(scenes.CLASSES, scenes.PALETTE, train.subset(labelled), train.subset(rest), *drawn)
    assert config.root is not None
    load = {"camvid": load_camvid, "cityscapes": load_cityscapes, "voc": load_voc, "folder": load_folder}[config.name]
    data = load(Path(config.root), config, roles)
    return data if config.cache == "none" else with_cache(data, config.cache, config)


def load_camvid(root: Path, config: DataConfig, roles: Sequence[Role]) -> Data:
    photos = camvid.load_split(root, "train")
    labelled, rest = split_labelled(photos, config, len(photos.names))
    unlabelled = photos.without_labels().subset(rest)
    listed = [camvid.load_split(root, role) if role in roles else None for role in EVALUATED]
    return Data(camvid.CLASSES, camvid.PALETTE, photos.subset(labelled), unlabelled, *listed)


def load_cityscapes(root: Path, config: DataConfig, roles: Sequence[Role]) -> Data:
    photos = cityscapes.load_split(root, "train")
    held, labelled, rest = split_and_hold_out(photos, config)
    unlabelled = photos.without_labels().subset(rest)
    if config.extra_unlabelled:
        unlabelled = merge(unlabelled, cityscapes.load_extra(root))
    val = photos.subset(held) if "val" in roles else None
    test = cityscapes.load_split(root, "val") if "test" in roles else None
    return Data(cityscapes.CLASSES, cityscapes.PALETTE, photos.subset(labelled), unlabelled, val, test)


def load_voc(root: Path, config: DataConfig, roles: Sequence[Role]) -> Data:
    photos = voc.load_train(root)
    order = voc.list_order(root, photos.names) if config.pickled else None
    held, labelled, rest = split_and_hold_out(photos, config, order)
    unlabelled = photos.without_labels().subset(rest)
    val = photos.subset(held) if "val" in roles else None
    test = voc.load_val(root) if "test" in roles else None
    return Data(voc.CLASSES, voc.PALETTE, photos.subset(labelled), unlabelled, val, test)


def load_folder(root: Path, config: DataConfig, roles: Sequence[Role]) -> Data:
    classes = folder.read_classes(root)
    pool = folder.load_labelled(root, config.ignore_value)
    missing = [part for part in ("val", "test") if not (root / part).is_dir()]
    if missing and len(pool.names) < 2 + len(missing):
        folders = " and ".join(f"{part}/" for part in missing)
        rule = f"must label {2 + len(missing)} images or more where {folders} is missing"
        raise DataError(f"{root / 'labels'}: {rule}, not {len(pool.names)}.")
    parts: dict[Role, FileSamples] = {}
    for seed, part in enumerate(EVALUATED):
        if part in missing:  # held out even if it is not wanted: what is learnt from must not depend on that
            amount = max(1, round(config.holdout * len(pool.names)))
            held, kept = splits.choose(len(pool.names), amount, config.split_seed + seed)
            parts[part], pool = pool.subset(held), pool.subset(kept)
        elif part in roles:
            parts[part] = folder.load_part(root, part, config.ignore_value)
    labelled, rest = split_labelled(pool, config, len(pool.names))
    unlabelled = merge(pool.subset(rest), folder.load_unlabelled(root))
    val, test = (parts[role] if role in roles else None for role in EVALUATED)
    return Data(classes, folder.palette(len(classes)), pool.subset(labelled), unlabelled, val, test)


def merge(first: FileSamples, second: FileSamples) -> FileSamples:
    """The images of both, sorted by name, without labels."""
    names, paths = [*first.names, *second.names], [*first.image_paths, *second.image_paths]
    pairs = sorted(zip(names, paths, strict=True))
    return FileSamples([name for name, _ in pairs], [path for _, path in pairs], None)


def split_labelled(
    train: Samples, config: DataConfig, default: int, order: Sequence[int] | None = None
) -> tuple[list[int], list[int]]:
    """Numbers of the images that keep their labels, and of the others.

    Args:
        default: how many keep them where the configuration does not say.
        order: for a pickle, the image of each number in it.

    Raises:
        InvalidValue: more than there are, or another number than a list names.
    """
    count = len(train.names)
    wanted = default if config.labelled is None else config.labelled
    if config.split_file is None:
        return splits.choose(count, splits.resolve_amount(wanted, count, "labelled"), config.split_seed)
    path = Path(config.split_file)
    if order is None:
        labelled = splits.find_names(splits.read_names(path), train.names, path)
        rule = f"labelled is unset where split_file is a list, or as many as the {len(labelled)} that it names"
        require(config.labelled in (None, len(labelled)), "labelled", rule, config.labelled)
    else:
        splits.require_file(path)
        first = read_permutation(path, count)[: splits.resolve_amount(wanted, count, "labelled")]
        labelled = sorted(order[number] for number in first)
    return labelled, sorted(set(range(count)) - set(labelled))


def split_and_hold_out(
    train: Samples, config: DataConfig, order: Sequence[int] | None = None
) -> tuple[list[int], list[int], list[int]]:
    """Numbers of the training images that are val, of those that keep their labels, and of the others.

    val is drawn first, so that it does not depend on how many images are labelled; but a split file says which
    images are labelled, and val is drawn from the others then.

    Raises:
        InvalidValue: a split file that names so many that too few are left for val.
    """
    count = len(train.names)
    amount = max(1, round(config.holdout * count))
    if config.split_file is None:
        held, kept = splits.choose(count, amount, config.split_seed)
        labelled, rest = split_labelled(train.subset(kept), config, len(kept))
        return held, [kept[i] for i in labelled], [kept[i] for i in rest]
    labelled, others = split_labelled(train, config, count, order)
    rule = f"holdout leaves val at most the {len(others)} training images that split_file does not name"
    require(amount <= len(others), "holdout", rule, config.holdout)
    drawn, rest = splits.choose(len(others), amount, config.split_seed)
    return [others[i] for i in drawn], labelled, [others[i] for i in rest]


def with_cache(data: Data, kind: Literal["ram", "disk"], config: DataConfig) -> Data:
    """The same, read through a cache. Labels of val and test stay as large as they are."""
    folder = open_cache(kind, config.cache_dir)

    def cached(samples: Samples | None, resize_labels: bool) -> CachedSamples:
        assert isinstance(samples, FileSamples)
        return CachedSamples(samples, folder, config.resize, resize_labels)

    labelled, unlabelled = cached(data.labelled, True), cached(data.unlabelled, True)
    val, test = (None if samples is None else cached(samples, False) for samples in (data.val, data.test))
    return replace(data, labelled=labelled, unlabelled=unlabelled, val=val, test=test)


def check_data(data: Data, config: DataConfig, roles: Collection[str]) -> Iterator[tuple[int, int]]:
    """Read every image and label once, so that a bad file is found before a long training, not in it.

    Args:
        roles: of labelled, unlabelled, val and test those that will be used.

    Yields:
        how many are read, of how many.

    Raises:
        DataError: with the first file that breaks a rule.
        InvalidValue: there is no unlabelled image, or sizes differ and neither resize nor crop is set.
    """
    if "unlabelled" in roles and not data.unlabelled.names:
        rule = "labelled leaves images that serve unlabelled (or ssl.unlabelled_weight is 0)"
        raise InvalidValue("labelled", rule, config.labelled)
    if isinstance(data.labelled, ArraySamples):
        return
    used = [(role, samples) for role, samples in data.roles().items() if role in roles]
    jobs = [(role, samples, index) for role, samples in used for index in range(len(samples.names))]
    sizes = set()
    with ThreadPoolExecutor() as pool:
        try:
            found = pool.map(lambda job: (job[0], job[1].check(job[2], len(data.classes))), jobs)
            for done, (role, size) in enumerate(found, 1):
                yield done, len(jobs)
                if role in ("labelled", "unlabelled"):
                    sizes.add(size)
        except DataError:
            pool.shutdown(cancel_futures=True)
            raise
    if len(sizes) > 1 and config.resize is None and config.crop is None:
        first, second = sorted(sizes)[:2]
        rule = f"resize or crop is set where images differ in size ({first} and {second} do)"
        raise InvalidValue("resize", rule, None)
