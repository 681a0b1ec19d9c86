"""What data a run uses."""

from dataclasses import dataclass
from typing import Literal

from classmix_core.constants import IGNORE_INDEX
from classmix_core.errors import require


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The data set, how it is split, and what a batch holds."""

    name: Literal["scenes", "camvid", "cityscapes", "voc", "folder"] = "scenes"
    """scenes: embedded, generated; camvid: SegNet's layout; cityscapes; voc: VOC 2012 with SBD's labels; folder: your
    own images."""
    root: str | None = None
    """Folder of the data set; scenes has none."""
    labelled: int | float | None = None
    """How many images keep their labels: a count, or a share below 1.0; the rest serve unlabelled. Unset: all that
    have one (scenes: 8)."""
    split_file: str | None = None
    """Text file with the names of the labelled images, one a line (or UniMatch's "image mask" lines). voc: or one of
    ClassMix's pickles (.pkl), of which the first `labelled` count."""
    split_seed: int = 0
    """Seed of the drawing of the labelled images and of the hold-out."""
    holdout: float = 0.2
    """folder: share of the labelled images that stands in for a missing val/, and again for a missing test/.
    cityscapes, voc: share of the training images that is val (with a split file, of those that it does not name);
    their own val is test."""
    extra_unlabelled: bool = False
    """cityscapes: the images of train_extra serve unlabelled too."""
    ignore_value: int = IGNORE_INDEX
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
    cache: Literal["none", "ram", "disk"] = "none"
    """Keep decoded, resized images and labels for all processes of the machine: in memory until the last of them ends,
    or on disk until you delete them."""
    cache_dir: str | None = None
    """Folder of the cache on disk. Unset: classmix_harness in the user's cache folder."""

    def __post_init__(self) -> None:
        if self.name != "scenes":
            require(self.root is not None, "root", f"root is set for name={self.name}", self.root)
        else:
            rule = "root is set for a data set of files alone (name is scenes)"
            require(self.root is None, "root", rule, self.root)
            require(self.cache == "none", "cache", "cache is none for name=scenes, which is in memory", self.cache)
        rule = "extra_unlabelled is for name=cityscapes alone"
        require(not self.extra_unlabelled or self.name == "cityscapes", "extra_unlabelled", rule, self.extra_unlabelled)
        rule = "cache_dir is set for cache=disk alone"
        require(self.cache_dir is None or self.cache == "disk", "cache_dir", rule, self.cache_dir)
        self.check_pickle()
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

    @property
    def pickled(self) -> bool:
        """Whether the split file is one of ClassMix's pickles."""
        return self.split_file is not None and self.split_file.endswith(".pkl")

    def check_pickle(self) -> None:
        if not self.pickled:
            return
        why = "numbers the lines of VOC's list"
        if self.name == "cityscapes":
            why = "numbers an unsorted walk over folders, which no other machine repeats"
        rule = f"split_file is a text file of names for name={self.name}: a pickle {why}"
        require(self.name == "voc", "split_file", rule, self.split_file)
        rule = "labelled is set where split_file is a pickle, of which the first `labelled` keep their labels"
        require(self.labelled is not None, "labelled", rule, self.labelled)
