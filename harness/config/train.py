"""TrainConfig: the core's configurations and the settings of a run; from YAML and flags to frozen dataclasses."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args

import yaml

from classmix_core.config import ClassMixConfig, DataConfig, InferenceConfig, ModelConfig, OptimConfig
from classmix_core.errors import InvalidValue, require
from harness.config.parser import Parser, make_parser, naming
from harness.errors import UserError

T = TypeVar("T")
Values = dict[str, Any]
"""Of a configuration, by dotted key: what YAML can hold."""
DOWNLOADS = ("torchvision:", "timm:")
"""Prefixes of `model.weights` that name a download; anything else is a file."""


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Evaluation on val and test."""

    network: Literal["student", "teacher"] = "student"
    """Whose predictions count."""
    resize_labels: bool = True
    """Compare at `data.resize` (the paper's protocol); off: logits are resized to the labels' own size."""
    batch: int = 16
    """Images, or windows of one image, a forward pass."""
    window: tuple[int, int] | None = None
    """Height and width of windows that slide over each image, so that images of any size fit into memory. Unset: the
    whole image at once."""
    stride: tuple[int, int] | None = None
    """Steps down and right from window to window. Unset: 2/3 of the window."""
    flip: bool = False
    """Average the logits with those of the mirrored image, at twice the cost."""
    scales: tuple[float, ...] = (1.0,)
    """Average the logits over the image resized by these factors."""

    def __post_init__(self) -> None:
        self.inference()  # which checks its fields

    def inference(self) -> InferenceConfig:
        """How each image is looked at.

        Raises:
            InvalidValue: a field breaks a rule.
        """
        return InferenceConfig(
            window=self.window, stride=self.stride, batch=self.batch, flip=self.flip, scales=self.scales
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run."""

    seed: int = 0
    """Seed of weights, sampling and augmentation, at least 0."""
    steps: int = 500
    """Optimiser steps."""
    eval_every: int = 50
    """Steps between evaluations on val; the last step is evaluated always."""
    checkpoint_every: int | None = None
    """Steps between checkpoints. Unset: one at each evaluation."""
    log_every: int = 10
    """Steps between two points of the training curves, which are means over these steps."""
    gpus: int | None = None
    """GPUs to train on, one worker each. Unset: all that the machine has; 0: CPU."""
    workers: int | None = None
    """Data parallel workers, which share each batch. Unset: one a GPU, or one on CPU."""
    min_workers: int | None = None
    """Elastic training: as few workers will do while machines come and go, with the same batch and result. `--workers
    1:8` and `--gpus 1:8` set it as well. Unset: no fewer than there shall be."""
    accumulate: int = 1
    """Forward and backward passes a step, each over an equal piece of a worker's share of the batch: for batches that
    do not fit into memory."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the networks under autocast."""
    channels_last: bool = False
    """Memory format of the networks; faster for convolutions on GPUs."""
    compile: bool = False
    """torch.compile the networks."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    ssl: ClassMixConfig = field(default_factory=ClassMixConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", "seed >= 0", self.seed)
        for name in ("steps", "eval_every", "log_every", "accumulate"):
            value = getattr(self, name)
            require(value >= 1, name, f"{name} >= 1", value)
        for name in ("checkpoint_every", "workers", "min_workers"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, f"{name} >= 1", value)
        require(self.gpus is None or self.gpus >= 0, "gpus", "gpus >= 0", self.gpus)
        most = self.gpus or self.workers
        if self.min_workers is not None and most is not None:
            name = "gpus" if self.gpus else "workers"
            require(self.min_workers <= most, "min_workers", f"min_workers <= {name} ({most})", self.min_workers)
        rule = "optim.lr_scales == uniform unless model.name == deeplabv2"
        fits = self.optim.lr_scales == "uniform" or self.model.name == "deeplabv2"
        require(fits, "optim.lr_scales", rule, self.optim.lr_scales)
        if self.gpus and self.workers is not None:
            require(self.workers == self.gpus, "workers", f"workers == gpus ({self.gpus}), one on each", self.workers)


def from_mapping(config_class: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """Build a configuration out of nested, type-checked mappings.

    Raises:
        UserError: a value breaks a rule; the message starts with the key's full path.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{prefix.rstrip('.')}: must be a mapping of keys to values, but got {values!r}.")
    arguments = {}
    for item in dataclasses.fields(config_class):  # type: ignore[arg-type]
        if item.name not in values:
            continue
        value = values[item.name]
        absent = value is None and NoneType in get_args(item.type)
        if dataclasses.is_dataclass(default := item_default(item)) and not absent:
            value = from_mapping(type(default), value, f"{prefix}{item.name}.")
        elif isinstance(value, list):
            value = tuple(value)
        arguments[item.name] = value
    try:
        return config_class(**arguments)
    except InvalidValue as error:
        raise UserError(f"{prefix}{error.field}: {error}") from error


def item_default(item: dataclasses.Field[Any]) -> object:
    return item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default


def flatten(config: object, prefix: str = "") -> dict[str, Any]:
    """A configuration's values by dotted key."""
    flat: dict[str, Any] = {}
    for item in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{item.name}.")
        else:
            flat[f"{prefix}{item.name}"] = value
    return flat


def to_yaml(config: object) -> str:
    """A configuration as YAML that `--config` reads back."""
    return yaml.safe_dump(plain(dataclasses.asdict(config)), sort_keys=False)  # type: ignore[call-overload]


def plain(value: Any) -> Any:
    """Tuples as lists, all the way down: what safe YAML can write."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value


def add_train_config(parser: Parser) -> None:
    parser.add_argument("--config", action="config", help="YAML file, or shipped recipe, with any of the keys below.")
    parser.add_class_arguments(TrainConfig, None)


def train_config(values: Mapping[str, Any], prefix: str = "") -> TrainConfig:
    """The TrainConfig among parsed values, its paths absolute: workers may run elsewhere.

    Raises:
        UserError: see `from_mapping`.
    """
    config = from_mapping(TrainConfig, values, prefix)
    root, split_file, cache_dir = map(absolute, (config.data.root, config.data.split_file, config.data.cache_dir))
    data = dataclasses.replace(config.data, root=root, split_file=split_file, cache_dir=cache_dir)
    weights = config.model.weights
    if weights is not None and not weights.startswith(DOWNLOADS):
        weights = absolute(weights)
    return dataclasses.replace(config, data=data, model=dataclasses.replace(config.model, weights=weights))


def absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).absolute())


@cache
def config_parser() -> Parser:
    """For a TrainConfig alone, in files and mappings."""
    parser = make_parser("config", "")
    parser.add_class_arguments(TrainConfig, None)
    return parser


def check_types(values: Mapping[str, Any], source: str, prefix: str = "") -> TrainConfig:
    """A TrainConfig of nested values as YAML gives them.

    Args:
        source: named in errors.
        prefix: of the keys in errors.

    Raises:
        UserError: see `Parser.read` and `from_mapping`.
    """
    parsed = config_parser().read_mapping(values, f"{source}: {prefix.rstrip('.')}".rstrip(": "))
    with naming(source):
        return train_config(parsed.as_dict(), prefix)


def load_config(path: Path) -> TrainConfig:
    """Read a run configuration.

    Raises:
        UserError: as `check_types`.
    """
    with naming(str(path)):
        return train_config(config_parser().read_file(path).as_dict())


def override(config: T, values: Mapping[str, Any]) -> T:
    """The configuration with values by dotted key replaced.

    Raises:
        UserError: a value breaks a rule.
    """
    plain_values: Values = dataclasses.asdict(config)  # type: ignore[call-overload]
    return from_mapping(type(config), nested(values, plain_values))


def nested(values: Mapping[str, Any], into: Values) -> Values:
    """Values by dotted key entered into nested ones, in place."""
    for key, value in values.items():
        *path, last = key.split(".")
        target = into
        for name in path:
            target = target.setdefault(name, {})
        target[last] = value
    return into
