"""What can be configured in the core, each field with its meaning, unit and range. torch is not imported here, so that
`--help` need not wait for it."""

from dataclasses import dataclass
from typing import Literal, get_args

from classmix_core.constants import IGNORE_INDEX
from classmix_core.errors import require

Size = tuple[int, int]
"""Height and width in pixels."""
Mix = Literal["class", "cut", "cow", "none"]
MIXES = get_args(Mix)
Weight = Literal["image", "batch", "pixel", "ramp", "constant"]
WEIGHTS = get_args(Weight)
BatchNormMode = Literal["trained", "frozen_affine", "frozen"]
OWN_NETWORKS = ("unet", "deeplabv2")
TORCHVISION_NETWORKS = (
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "deeplabv3_mobilenet_v3_large",
    "fcn_resnet50",
    "fcn_resnet101",
    "lraspp_mobilenet_v3_large",
)
ASPP_DILATIONS = (6, 12, 18, 24)
"""Of DeepLab-v2's branches, the atrous spatial pyramid."""


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
    """Text file with the names of the labelled images, one a line (or UniMatch's "image mask" lines)."""
    split_seed: int = 0
    """Seed of the drawing of the labelled images, and of the hash of their names by which some are held out."""
    holdout: float = 0.2
    """folder: share of the labelled images that stands in for a missing val/, and again for a missing test/.
    cityscapes, voc: share of the training images that is val (with a split file, of those that it does not name);
    their own val is test. A hash of its name decides for each image, so that labelling more never moves one; of few
    images the share is met roughly."""
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
    """Range of the random zoom of training images, above 0 and up to 8; below 1 pads, above 1 cuts."""
    batch_labelled: int | None = None
    """Labelled images a step, over all workers, which share them evenly. Unset: 4 for each worker."""
    batch_unlabelled: int | None = None
    """Unlabelled images a step, over all workers; as many mixed ones come of them. Unset: 4 for each worker."""
    loader_workers: int = 0
    """Loader processes for each of labelled and unlabelled images, on each worker; 0 loads in the training process."""
    cache: Literal["none", "disk"] = "none"
    """Keep decoded, resized images and labels on disk, for all processes of the machine, until you delete them."""
    cache_dir: str | None = None
    """Folder of the cache. Unset: classmix_harness in the user's cache folder."""

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
        rule = (
            "split_file is a text file of names (of ClassMix's pickles for VOC it is made by: "
            "python -m classmix_core.data.convert_split FILE.pkl --root ROOT --labelled N > labelled.txt)"
        )
        require(not (self.split_file or "").endswith(".pkl"), "split_file", rule, self.split_file)
        if self.labelled is not None:
            valid = self.labelled >= 1 if isinstance(self.labelled, int) else 0 < self.labelled <= 1
            require(valid, "labelled", "labelled is a count >= 1 or a share in (0, 1]", self.labelled)
        require(0 < self.holdout < 0.5, "holdout", "0 < holdout < 0.5", self.holdout)
        require(0 <= self.ignore_value <= 255, "ignore_value", "0 <= ignore_value <= 255", self.ignore_value)
        for name in ("resize", "crop"):
            size = getattr(self, name)
            require(size is None or min(size) >= 8, name, f"{name} >= 8 pixels each way", size)
        low, high = self.scale
        require(0 < low <= high <= 8, "scale", "0 < low <= high <= 8", self.scale)
        value = self.batch_labelled
        require(value is None or value >= 1, "batch_labelled", "batch_labelled >= 1", value)
        rule, value = "batch_unlabelled >= 2 (one image is pasted onto another)", self.batch_unlabelled
        require(value is None or value >= 2, "batch_unlabelled", rule, value)
        require(self.loader_workers >= 0, "loader_workers", "loader_workers >= 0", self.loader_workers)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    name: str = "unet"
    """unet (small, for CPUs), deeplabv2 (over ResNet-101, the paper's), one of torchvision's (deeplabv3_resnet50,
    fcn_resnet50, lraspp_mobilenet_v3_large, ...), or smp/DECODER/ENCODER of segmentation_models_pytorch (the extra
    `smp`) over an encoder of its own or of timm, such as smp/DeepLabV3Plus/tf_efficientnet_lite0."""
    weights: str | None = None
    """Where training starts: a file of weights (safetensors, or what torch.save wrote) of this network or of its
    encoder alone, or a download such as torchvision:ResNet101_Weights.IMAGENET1K_V2 or timm:tf_efficientnet_lite0.
    Unset: from scratch."""
    width: int = 16
    """unet: channels at half resolution, a multiple of 4."""
    depth: int = 3
    """unet: how often half resolution is halved again, at least 1."""
    norm: Literal["batch", "group"] = "batch"
    """unet: batch norm, or group norm, which does not see the rest of the batch."""
    aspp_branches: int = len(ASPP_DILATIONS)
    """deeplabv2: branches of its pyramid that count, 1 to 4 (dilations 6, 12, 18, 24); the authors' code runs 2."""
    batch_norm: BatchNormMode = "trained"
    """deeplabv2 and torchvision's, batch norms of the backbone: trained; frozen_affine, weight and bias frozen and the
    batch's statistics used (the authors' code); frozen, all as in `weights`."""
    sync_bn: bool = False
    """Batch norms use the statistics of all workers' images, not of each worker's own; slower. No effect on one
    worker, nor across the pieces of `accumulate`."""

    def __post_init__(self) -> None:
        known = self.name in OWN_NETWORKS + TORCHVISION_NETWORKS or (
            self.name.startswith("smp/") and self.name.count("/") == 2
        )
        require(
            known, "name", f"name in ({', '.join(OWN_NETWORKS + TORCHVISION_NETWORKS)}, smp/DECODER/ENCODER)", self.name
        )
        require(self.weights != "", "weights", "weights names a file or a download", self.weights)
        require(self.width > 0 and self.width % 4 == 0, "width", "width is a positive multiple of 4", self.width)
        require(self.depth >= 1, "depth", "depth >= 1", self.depth)
        branches, modes = len(ASPP_DILATIONS), get_args(BatchNormMode)
        rule = f"1 <= aspp_branches <= {branches}"
        require(1 <= self.aspp_branches <= branches, "aspp_branches", rule, self.aspp_branches)
        rule = f"aspp_branches == {branches} unless name == deeplabv2 (here {self.name})"
        require(self.aspp_branches == branches or self.name == "deeplabv2", "aspp_branches", rule, self.aspp_branches)
        require(self.batch_norm in modes, "batch_norm", f"batch_norm in ({', '.join(modes)})", self.batch_norm)
        freezable = self.name in ("deeplabv2", *TORCHVISION_NETWORKS)
        rule = f"batch_norm == trained unless name is deeplabv2 or one of torchvision's (here {self.name})"
        require(self.batch_norm == "trained" or freezable, "batch_norm", rule, self.batch_norm)
        rule = "batch_norm != frozen unless weights are given: fresh statistics normalise nothing"
        require(self.batch_norm != "frozen" or self.weights is not None, "batch_norm", rule, self.batch_norm)


@dataclass(frozen=True, kw_only=True)
class ClassMixConfig:
    """Semi-supervised learning: how unlabelled images are labelled, mixed and weighted."""

    tau: float = 0.968
    """Confidence from which a pseudo-label counts towards lambda, 0..1."""
    ema_decay: float = 0.99
    """Decay of the teacher's moving average, 0 <= decay < 1; the first steps use min(1 - 1 / (step + 1), decay)."""
    mix: Mix = "class"
    """Mask: half of the classes of an image (ClassMix), a box (CutMix), blobs (CowMix), or none."""
    weight: Weight = "image"
    """Lambda: share of confident pixels per image (the paper) or per batch (the authors' code), 0/1 per pixel, a
    sigmoid ramp over time, or constant 1."""
    ramp_fraction: float = 0.25
    """Share of all steps after which the ramp of `weight: ramp` has reached 1, above 0 and up to 1."""
    unlabelled_weight: float = 1.0
    """Factor of the unlabelled loss; 0 is the supervised baseline, which runs no teacher pass."""
    teacher_mode: Literal["train", "eval"] = "train"
    """Batch norm of the teacher when it labels: batch statistics (as the authors do) or running ones."""
    jitter: float = 0.25
    """Strength of the colour jitter on mixed images, 0..0.5; 0 turns it off."""
    jitter_probability: float = 0.8
    """Probability of the colour jitter, per image."""
    blur: float = 1.15
    """Largest sigma of the blur on mixed images, 0.15..3 pixels; 0 turns it off."""
    blur_probability: float = 0.5
    """Probability of the blur, per image."""

    def __post_init__(self) -> None:
        for name, choices in (("mix", MIXES), ("weight", WEIGHTS), ("teacher_mode", ("train", "eval"))):
            require(getattr(self, name) in choices, name, f"{name} in {choices}", getattr(self, name))
        require(0 <= self.tau <= 1, "tau", "0 <= tau <= 1", self.tau)
        require(0 <= self.ema_decay < 1, "ema_decay", "0 <= ema_decay < 1", self.ema_decay)
        require(0 < self.ramp_fraction <= 1, "ramp_fraction", "0 < ramp_fraction <= 1", self.ramp_fraction)
        require(self.unlabelled_weight >= 0, "unlabelled_weight", "unlabelled_weight >= 0", self.unlabelled_weight)
        require(0 <= self.jitter <= 0.5, "jitter", "0 <= jitter <= 0.5", self.jitter)
        rule = "blur == 0 or 0.15 <= blur <= 3"
        require(self.blur == 0 or 0.15 <= self.blur <= 3, "blur", rule, self.blur)
        for name in ("jitter_probability", "blur_probability"):
            value = getattr(self, name)
            require(0 <= value <= 1, name, f"0 <= {name} <= 1", value)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser of the student."""

    name: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum (the paper) or AdamW."""
    lr: float = 0.1
    """Learning rate at the start, above 0. Scale it with the batch size."""
    head_lr_scale: float = 1.0
    """Factor of the learning rate of the last layers, above 0; 10 is usual over a pretrained encoder."""
    lr_scales: Literal["uniform", "authors"] = "uniform"
    """Rates within the body: uniform; or, for deeplabv2, those of the authors' code, which lists a parameter once for
    each module around it: 3 times `lr` in the blocks, 4 times on their shortcuts, 1 time in the first layer."""
    momentum: float = 0.9
    """Momentum of SGD, 0 <= momentum < 1; AdamW has its own."""
    weight_decay: float = 5e-4
    """L2 penalty, at least 0."""
    power: float = 0.9
    """Exponent of the schedule: lr * (1 - step / steps) ** power; 0 keeps the rate constant."""

    def __post_init__(self) -> None:
        require(self.name in ("sgd", "adamw"), "name", "name in (sgd, adamw)", self.name)
        require(self.lr > 0, "lr", "lr > 0", self.lr)
        require(self.head_lr_scale > 0, "head_lr_scale", "head_lr_scale > 0", self.head_lr_scale)
        rule = "lr_scales in (uniform, authors)"
        require(self.lr_scales in ("uniform", "authors"), "lr_scales", rule, self.lr_scales)
        require(0 <= self.momentum < 1, "momentum", "0 <= momentum < 1", self.momentum)
        require(self.weight_decay >= 0, "weight_decay", "weight_decay >= 0", self.weight_decay)
        require(self.power >= 0, "power", "power >= 0", self.power)


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """The passes over which the logits of an image are averaged."""

    window: Size | None = None
    """Height and width of the windows, cut down to the image where that is smaller; None: the whole image at once."""
    stride: Size | None = None
    """Steps down and right from window to window, at most the window; None: 2/3 of it."""
    batch: int = 16
    """Windows in one forward pass."""
    flip: bool = False
    """Average with the logits of the mirrored image."""
    scales: tuple[float, ...] = (1.0,)
    """Factors by which the image is resized, a pass for each."""

    def __post_init__(self) -> None:
        require(self.batch >= 1, "batch", "batch >= 1", self.batch)
        require(self.window is None or min(self.window) >= 8, "window", "window >= 8 pixels each way", self.window)
        if self.stride is not None:
            require(self.window is not None, "stride", "window is set where stride is", self.stride)
            inside = all(1 <= step <= side for step, side in zip(self.stride, self.window or (0, 0), strict=True))
            require(inside, "stride", f"1 <= stride <= window {self.window}, or pixels are left out", self.stride)
        valid = len(self.scales) > 0 and all(0 < scale <= 8 for scale in self.scales)
        require(valid, "scales", "scales holds at least one factor, each in (0, 8]", self.scales)
