"""From a configuration to the four sets of images."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from classmix_core.data import camvid, folder, scenes, splits
from classmix_core.data.samples import ArraySamples, FileSamples, Samples
from classmix_core.errors import DataError, InvalidValue, require
from classmix_core.mixing import IGNORE


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The data set, how it is split, and what a batch holds."""

    name: Literal["scenes", "camvid", "folder"] = "scenes"
    """scenes: embedded, generated; camvid: SegNet's layout; folder: your own images."""
    root: str | None = None
    """Folder of the data set; scenes has none."""
    labelled: int | float | None = None
    """How many images keep their labels: a count, or a share below 1.0; the rest serve unlabelled. Unset: all that
    have one (scenes: 8)."""
    split_file: str | None = None
    """Text file with the names of the labelled images, one a line (or UniMatch's "image mask" lines)."""
    split_seed: int = 0
    """Seed of the drawing of the labelled images and of the hold-out."""
    holdout: float = 0.2
    """folder: share of the labelled images that stands in for a missing val/, and again for a missing test/."""
    ignore_value: int = IGNORE
    """folder: label value that is ignored, besides 255."""
    resize: tuple[int, int] | None = None
    """Height and width that images are resized to on loading."""
    crop: tuple[int, int] | None = None
    """Height and width of the random training crop, after resizing."""
    flip: bool = True
    """Mirror training images at random."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Range of the random zoom of training images; below 1 pads, above 1 cuts."""
    batch_labelled: int = 4
    """Labelled images a step, on each worker."""
    batch_unlabelled: int = 4
    """Unlabelled images a step, on each worker; as many mixed ones come of them."""
    loader_workers: int = 0
    """Loader processes for each of labelled and unlabelled images, on each worker; 0 loads in the training process."""

    def __post_init__(self) -> None:
        if self.name != "scenes":
            require(self.root is not None, "root", f"root is set for name={self.name}", self.root)
        else:
            require(
                self.root is None, "root", "root is set for name camvid or folder alone (name is scenes)", self.root
            )
        if self.labelled is not None:
            valid = self.labelled >= 1 if isinstance(self.labelled, int) else 0 < self.labelled <= 1
            require(valid, "labelled", "labelled is a count >= 1 or a share in (0, 1]", self.labelled)
        require(0 < self.holdout < 0.5, "holdout", "0 < holdout < 0.5", self.holdout)
        require(0 <= self.ignore_value <= 255, "ignore_value", "0 <= ignore_value <= 255", self.ignore_value)
        for name in ("resize", "crop"):
            size = getattr(self, name)
            require(size is None or min(size) >= 8, name, f"{name} >= 8 pixels each way", size)
        low, high = self.scale
        require(0 < low <= high, "scale", "0 < low <= high", self.scale)
        require(self.batch_labelled >= 1, "batch_labelled", "batch_labelled >= 1", self.batch_labelled)
        rule = "batch_unlabelled >= 2 (one image is pasted onto another)"
        require(self.batch_unlabelled >= 2, "batch_unlabelled", rule, self.batch_unlabelled)
        require(self.loader_workers >= 0, "loader_workers", "loader_workers >= 0", self.loader_workers)


@dataclass(frozen=True)
class Data:
    """A data set, split."""

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    labelled: Samples
    unlabelled: Samples
    val: Samples
    test: Samples

    def roles(self) -> dict[str, Samples]:
        return {"labelled": self.labelled, "unlabelled": self.unlabelled, "val": self.val, "test": self.test}


def load_data(config: DataConfig) -> Data:
    """List (scenes: draw) the images of the four roles; files are not opened yet.

    Raises:
        DataError: something is missing in the folder.
        InvalidValue: more labelled images asked for than there are, or a bad split file.
    """
    if config.name == "scenes":
        train = scenes.load_split("train")
        labelled, rest = split_labelled(train, config, scenes.LABELLED)
        roles = train.subset(labelled), train.subset(rest), scenes.load_split("val"), scenes.load_split("test")
        return Data(scenes.CLASSES, scenes.PALETTE, *roles)
    assert config.root is not None
    root = Path(config.root)
    if config.name == "camvid":
        photos = camvid.load_split(root, "train")
        labelled, rest = split_labelled(photos, config, len(photos.names))
        unlabelled = photos.without_labels().subset(rest)
        val, test = camvid.load_split(root, "val"), camvid.load_split(root, "test")
        return Data(camvid.CLASSES, camvid.PALETTE, photos.subset(labelled), unlabelled, val, test)
    return load_folder(root, config)


def load_folder(root: Path, config: DataConfig) -> Data:
    classes = folder.read_classes(root)
    pool = folder.load_labelled(root, config.ignore_value)
    missing = [part for part in ("val", "test") if not (root / part).is_dir()]
    if missing and len(pool.names) < 2 + len(missing):
        folders = " and ".join(f"{part}/" for part in missing)
        rule = f"must label {2 + len(missing)} images or more where {folders} is missing"
        raise DataError(f"{root / 'labels'}: {rule}, not {len(pool.names)}.")
    parts: dict[str, FileSamples] = {}
    for seed, part in enumerate(("val", "test")):
        given = folder.load_part(root, part, config.ignore_value)
        if given is None:
            amount = max(1, round(config.holdout * len(pool.names)))
            held, kept = splits.choose(len(pool.names), amount, config.split_seed + seed)
            given, pool = pool.subset(held), pool.subset(kept)
        parts[part] = given
    labelled, rest = split_labelled(pool, config, len(pool.names))
    extra, unused = folder.load_unlabelled(root), pool.subset(rest)
    pairs = sorted(zip([*unused.names, *extra.names], [*unused.image_paths, *extra.image_paths], strict=True))
    unlabelled = FileSamples([name for name, _ in pairs], [path for _, path in pairs], None)
    return Data(classes, folder.palette(len(classes)), pool.subset(labelled), unlabelled, parts["val"], parts["test"])


def split_labelled(train: Samples, config: DataConfig, default: int) -> tuple[list[int], list[int]]:
    """Numbers of the images that keep their labels, and of the others."""
    count = len(train.names)
    if config.split_file is not None:
        path = Path(config.split_file)
        labelled = splits.find_names(splits.read_names(path), train.names, path)
        return labelled, sorted(set(range(count)) - set(labelled))
    wanted = default if config.labelled is None else config.labelled
    return splits.choose(count, splits.resolve_amount(wanted, count, "labelled"), config.split_seed)


def check_data(data: Data, config: DataConfig, unlabelled: bool) -> Iterator[tuple[int, int]]:
    """Read every image and label once, so that a bad file is found before a long training, not in it.

    Args:
        unlabelled: whether unlabelled images will be used.

    Yields:
        how many are read, of how many.

    Raises:
        DataError: with the first file that breaks a rule.
        InvalidValue: there is no unlabelled image, or sizes differ and neither resize nor crop is set.
    """
    if unlabelled and not data.unlabelled.names:
        rule = "labelled leaves images that serve unlabelled (or ssl.unlabelled_weight is 0)"
        raise InvalidValue("labelled", rule, config.labelled)
    if isinstance(data.labelled, ArraySamples):
        return
    roles = [(role, samples) for role, samples in data.roles().items() if unlabelled or role != "unlabelled"]
    jobs = [(role, samples, index) for role, samples in roles for index in range(len(samples.names))]
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
