"""Search-space YAML: what is searched over, and how.

metric: val/miou            mode: max
trials: 16                  seed: 0
sampler: tpe                # or random
early_stopping: {grace_steps: 100, reduction_factor: 2}     # or null
resources: {cpus: 1, gpus: 0}                              # of each trial; gpus may be a fraction
train: {steps: 500}                                        # TrainConfig that all trials share
start:                                                     # tried first
  - {ssl.tau: 0.968, optim.lr: 0.1}
space:
  ssl.tau: {low: 0.5, high: 0.99}                          # scale: linear, log or log_complement
  optim.lr: {low: 0.005, high: 0.2, scale: log}
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from classmix_core.errors import require
from harness.config import (
    ConfigError,
    TrainConfig,
    add_train_config,
    flatten,
    from_mapping,
    make_parser,
    plain,
    train_config,
)

Scale = Literal["linear", "log", "log_complement"]
COMPLEMENT = "1 - "
"""Prefix of the name under which the sampler sees a log_complement parameter: it draws 1 - x on a log scale."""

NUMBER = "trial"
"""Name under which a trial's number travels with what the sampler drew."""


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Tune's ASHA: at growing numbers of steps, only the best share of the trials goes on."""

    grace_steps: int = 100
    """Steps that every trial gets."""
    reduction_factor: int = 2
    """One in so many goes on at each rung, and the next rung is so many times further, at least 2."""

    def __post_init__(self) -> None:
        require(self.grace_steps >= 1, "grace_steps", "grace_steps >= 1", self.grace_steps)
        require(self.reduction_factor >= 2, "reduction_factor", "reduction_factor >= 2", self.reduction_factor)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What each trial gets."""

    cpus: int = 1
    """Cores."""
    gpus: float = 0
    """GPUs, or a fraction of one: 0.25 runs four trials on a GPU."""

    def __post_init__(self) -> None:
        require(self.cpus >= 1, "cpus", "cpus >= 1", self.cpus)
        require(0 <= self.gpus <= 1, "gpus", "0 <= gpus <= 1", self.gpus)


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """A search."""

    metric: str = "val/miou"
    """What is sought, at the last step of a trial; any metric of val."""
    mode: Literal["max", "min"] = "max"
    """Whether more or less of it is better."""
    trials: int = 16
    """How many configurations are tried."""
    seed: int = 0
    """Seed of the sampler. (All trials train with `train.seed`.)"""
    sampler: Literal["tpe", "random"] = "tpe"
    """Optuna's tree-structured Parzen estimator, or uniform sampling."""
    early_stopping: EarlyStopping | None = field(default_factory=EarlyStopping)
    """ASHA's settings; null lets every trial run to its end."""
    resources: Resources = field(default_factory=Resources)
    train: dict[str, Any] = field(default_factory=dict)
    """TrainConfig that all trials share, as in a run configuration."""
    start: list[dict[str, Any]] = field(default_factory=list)
    """Points tried first; each gives every key of `space`."""
    space: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Dotted key of TrainConfig to {low, high, scale} or {values}."""

    def __post_init__(self) -> None:
        require(self.metric.startswith("val/"), "metric", "metric is one of val (test is for reporting)", self.metric)
        require(self.trials >= 1, "trials", "trials >= 1", self.trials)
        require(bool(self.space), "space", "space names at least one key", self.space)


@dataclass(frozen=True)
class Parameter:
    """One axis of the search: a dotted key, and how it is drawn."""

    key: str
    name: str
    """What the sampler calls it."""
    distribution: BaseDistribution

    def encode(self, value: Any) -> Any:
        return 1 - value if self.name != self.key else value

    decode = encode


def read_space(path: Path) -> SearchConfig:
    """Read a search-space file.

    Raises:
        ConfigError: no such file, an unknown key, a wrong type, a broken rule.
    """
    if not path.is_file():
        raise ConfigError(f"--space: must be an existing file, but got {str(path)!r}.")
    parser = make_parser("space", "")
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(SearchConfig, None)
    try:
        return search_config(parser.read([f"--config={path}"]).as_dict())
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def search_config(values: Mapping[str, Any]) -> SearchConfig:
    known = {item.name for item in dataclasses.fields(SearchConfig)}
    chosen = {key: value for key, value in values.items() if key in known}
    stopping = chosen.pop("early_stopping", None)
    if stopping is not None:
        settings = stopping if isinstance(stopping, dict) else dataclasses.asdict(stopping)
        stopping = from_mapping(EarlyStopping, settings, "early_stopping.")
    start = [dict(point) for point in chosen.pop("start", [])]
    config = from_mapping(SearchConfig, chosen)
    return dataclasses.replace(config, early_stopping=stopping, start=start)


def parameters(search: SearchConfig, base: TrainConfig, source: Path) -> list[Parameter]:
    """The axes of a search over `base`.

    Raises:
        ConfigError: a key that TrainConfig has not, low >= high, a bound or value that the key's own rule refuses, a
            start point that lacks a key or lies outside.
    """
    known = flatten(base)
    found = []
    for key, spec in search.space.items():
        where = f"{source}: space.{key}"
        if key not in known:
            raise ConfigError(f"{where}: must be a key of TrainConfig, such as ssl.tau, but got {key!r}.")
        if key in ("gpus", "workers"):
            raise ConfigError(f"{where}: what a trial runs on is set by resources, but got {key!r} as an axis.")
        parameter = read_parameter(key, spec, known[key], where)
        for value in bounds(spec):
            check_value(base, key, value, where)
        found.append(parameter)
    for number, point in enumerate(search.start):
        check_start(point, found, f"{source}: start[{number}]")
    return found


def bounds(spec: Mapping[str, Any]) -> Sequence[Any]:
    return spec["values"] if "values" in spec else (spec["low"], spec["high"])


def read_parameter(key: str, spec: Any, default: Any, where: str) -> Parameter:
    names = set(spec) if isinstance(spec, dict) else set()
    if names == {"values"}:
        values = spec["values"]
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{where}.values: must be a list of at least one value, but got {values!r}.")
        if not all(value is None or isinstance(value, str | int | float) for value in values):
            raise ConfigError(f"{where}.values: must be plain values, no lists or mappings, but got {values!r}.")
        return Parameter(key, key, CategoricalDistribution(values))
    if not {"low", "high"} <= names <= {"low", "high", "scale"}:
        raise ConfigError(f"{where}: must be {{low, high, scale}} or {{values}}, but got {spec!r}.")
    low, high, scale = spec["low"], spec["high"], spec.get("scale", "linear")
    for name in ("low", "high"):
        if isinstance(spec[name], bool) or not isinstance(spec[name], int | float):
            raise ConfigError(f"{where}.{name}: must be a number, but got {spec[name]!r}.")
    if scale not in get_args(Scale):
        raise ConfigError(f"{where}.scale: must be linear, log or log_complement, but got {scale!r}.")
    if not low < high:
        raise ConfigError(f"{where}: `low < high` must hold, but got low={low}, high={high}.")
    if scale == "log" and low <= 0:
        raise ConfigError(f"{where}.low: `low > 0` must hold for scale: log, but got {low}.")
    if scale == "log_complement" and high >= 1:
        raise ConfigError(f"{where}.high: `high < 1` must hold for scale: log_complement, but got {high}.")
    if scale == "log_complement":
        return Parameter(key, COMPLEMENT + key, FloatDistribution(1 - high, 1 - low, log=True))
    if isinstance(low, int) and isinstance(high, int) and not isinstance(default, float):
        return Parameter(key, key, IntDistribution(low, high, log=scale == "log"))
    return Parameter(key, key, FloatDistribution(low, high, log=scale == "log"))


def check_value(base: TrainConfig, key: str, value: Any, where: str) -> None:
    """Whether TrainConfig takes the value: its type, by the parser, and its rule."""
    parser = make_parser("space", "")
    add_train_config(parser)
    try:
        words = [f"--{key}={yaml.safe_dump(plain(value), default_flow_style=True).splitlines()[0]}"]
        typed = parser.read(words).as_dict()
        own_defaults = {name: typed[name] for name in typed if name == key.split(".")[0]}
        train_config(merge(dataclasses.asdict(base), own_defaults, key))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def merge(values: dict[str, Any], typed: dict[str, Any], key: str) -> dict[str, Any]:
    """`values` with the one key taken from `typed`."""
    *path, last = key.split(".")
    target, source = values, typed
    for name in path:
        target, source = target[name], source[name]
    target[last] = source[last]
    return values


def check_start(point: Mapping[str, Any], axes: Sequence[Parameter], where: str) -> None:
    keys = {axis.key for axis in axes}
    if set(point) != keys:
        wrong = sorted(set(point) ^ keys)
        raise ConfigError(f"{where}: must give just the keys of space, but differs in {', '.join(wrong)}.")
    for axis in axes:
        value = point[axis.key]
        distribution = axis.distribution
        if isinstance(distribution, CategoricalDistribution):
            inside = value in distribution.choices
        else:
            low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
            numeric = isinstance(value, int | float) and not isinstance(value, bool)
            inside = numeric and low - 1e-12 <= axis.encode(value) <= high + 1e-12
        if not inside:
            raise ConfigError(f"{where}.{axis.key}: must lie in the space of {axis.key}, but got {value!r}.")


def encode(axes: Sequence[Parameter], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted key as the sampler's."""
    return {axis.name: axis.encode(values[axis.key]) for axis in axes}


def decode(axes: Sequence[Parameter], drawn: Mapping[str, Any]) -> dict[str, Any]:
    """The sampler's values by dotted key."""
    return {axis.key: axis.decode(drawn[axis.name]) for axis in axes}
