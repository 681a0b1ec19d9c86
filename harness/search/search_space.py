"""The axes of a search: which key, over which values, drawn how."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from harness.config.batch_size import SIZES, require_divisible
from harness.config.parser import naming
from harness.config.search import TRIALS, SearchConfig
from harness.config.train import TrainConfig, Values, check_types, flatten, nested, override, plain
from harness.errors import UserError

Scale = Literal["linear", "log", "log_complement"]
PROBES = 64
"""Parts that a range is divided into, to try whether all of it is allowed."""
COMPLEMENT = "1 - "
"""Prefix of the name under which the sampler sees a log_complement parameter: it draws 1 - x on a log scale."""


@dataclass(frozen=True)
class SearchParameter:
    """One axis of the search: a dotted key, and how it is drawn."""

    key: str
    name: str
    """What the sampler calls it."""
    distribution: BaseDistribution

    def encode(self, value: Any) -> Any:
        """A value as the sampler's; one that lies on a bound stays there in spite of rounding."""
        if self.name == self.key:
            return value
        assert isinstance(self.distribution, FloatDistribution)
        return min(max(1 - value, self.distribution.low), self.distribution.high)

    def decode(self, value: Any) -> Any:
        return 1 - value if self.name != self.key else value

    def drawn_at(self, share: float) -> float:
        """What the sampler draws at a share, 0 to 1, of a range, on the scale that it is drawn on."""
        low, high, log = self.ends
        return low * (high / low) ** share if log else low + (high - low) * share

    def share_of(self, value: Any) -> float:
        """Where a value lies in the range, 0 to 1: the inverse of `drawn_at`, after `encode`."""
        low, high, log = self.ends
        drawn = self.encode(value)
        return math.log(drawn / low) / math.log(high / low) if log else (drawn - low) / (high - low)

    @property
    def ends(self) -> tuple[float, float, bool]:
        """Low, high and whether the scale is logarithmic, of a range."""
        drawn = self.distribution
        assert isinstance(drawn, FloatDistribution | IntDistribution)
        return drawn.low, drawn.high, drawn.log


def search_parameters(search: SearchConfig, base: TrainConfig, source: Path) -> list[SearchParameter]:
    """The axes of a search over `base`.

    Raises:
        UserError: a key that TrainConfig has not, low >= high, a value of the axis that the key's own rule refuses, a
            start point that lacks a key or lies outside.
    """
    known = flatten(base)
    found = []
    for key, spec in search.space.items():
        where = f"{source}: space.{key}"
        if key not in known:
            raise UserError(f"{where}: must be a key of TrainConfig, such as ssl.tau, but got {key!r}.")
        if key in ("gpus", "workers"):
            raise UserError(f"{where}: what a trial runs on is set by resources, but got {key!r} as an axis.")
        parameter = read_parameter(key, spec, known[key], where)
        for value in bounds(spec):
            check_value(base, key, value, where)
        check_inside(base, parameter, where)
        found.append(parameter)
    check_batches(found, base, search.resources.workers_per_trial, f"{source}: space")
    for number, point in enumerate(search.start):
        check_start(point, found, f"{source}: start[{number}]")
    return found


def refuse_fixed_axes(search: SearchConfig, words: Sequence[str], source: Path) -> None:
    """
    Raises:
        UserError: a flag on the command line has one value for what is searched.
    """
    for key in search.space:
        if any(word.partition("=")[0] == f"--train.{key}" for word in words):
            raise UserError(f"--train.{key}: must be left out where it is searched (space.{key} of {source}).")


def supervised_axes(axes: Sequence[SearchParameter]) -> list[SearchParameter]:
    """Those that mean something without unlabelled images."""
    return [axis for axis in axes if not axis.key.startswith("ssl.") and axis.key != "data.batch_unlabelled"]


def supervised_points(points: Sequence[Values], axes: Sequence[SearchParameter]) -> list[Values]:
    """What is left of start points without unlabelled images, each once."""
    left = [{axis.key: point[axis.key] for axis in supervised_axes(axes)} for point in points]
    return [point for place, point in enumerate(left) if point not in left[:place]]


def bounds(spec: Mapping[str, Any]) -> Sequence[Any]:
    return spec["values"] if "values" in spec else (spec["low"], spec["high"])


def read_parameter(key: str, spec: Any, default: Any, where: str) -> SearchParameter:
    names = set(spec) if isinstance(spec, dict) else set()
    if names == {"values"}:
        values = spec["values"]
        if not isinstance(values, list) or not values:
            raise UserError(f"{where}.values: must be a list of at least one value, but got {values!r}.")
        if not all(value is None or isinstance(value, str | int | float) for value in values):
            raise UserError(f"{where}.values: must be plain values, no lists or mappings, but got {values!r}.")
        return SearchParameter(key, key, CategoricalDistribution(values))
    if not {"low", "high"} <= names <= {"low", "high", "scale"}:
        raise UserError(f"{where}: must be {{low, high, scale}} or {{values}}, but got {spec!r}.")
    low, high, scale = spec["low"], spec["high"], spec.get("scale", "linear")
    for name in ("low", "high"):
        number = isinstance(spec[name], int | float) and not isinstance(spec[name], bool)
        if not number or not math.isfinite(spec[name]):
            raise UserError(f"{where}.{name}: must be a finite number, but got {spec[name]!r}.")
    if scale not in get_args(Scale):
        raise UserError(f"{where}.scale: must be linear, log or log_complement, but got {scale!r}.")
    if not low < high:
        raise UserError(f"{where}: `low < high` must hold, but got low={low}, high={high}.")
    if scale == "log" and low <= 0:
        raise UserError(f"{where}.low: `low > 0` must hold for scale: log, but got {low}.")
    if scale == "log_complement" and high >= 1:
        raise UserError(f"{where}.high: `high < 1` must hold for scale: log_complement, but got {high}.")
    if scale == "log_complement":
        return SearchParameter(key, COMPLEMENT + key, FloatDistribution(1 - high, 1 - low, log=True))
    if isinstance(low, int) and isinstance(high, int) and not isinstance(default, float):
        return SearchParameter(key, key, IntDistribution(low, high, log=scale == "log"))
    return SearchParameter(key, key, FloatDistribution(low, high, log=scale == "log"))


def check_value(base: TrainConfig, key: str, value: object, where: str) -> None:
    """Whether TrainConfig takes the value: its type and its rule."""
    typed = flatten(check_types(nested({key: value}, plain(dataclasses.asdict(base))), where))[key]
    if isinstance(value, str) and not isinstance(typed, str):  # the parser reads '0.1' as a number
        raise UserError(f"{where}: must be of type {type(typed).__name__}, but got the text {value!r}.")


def check_inside(base: TrainConfig, axis: SearchParameter, where: str) -> None:
    """Whether TrainConfig's rules take what may be drawn between the bounds, tried at many places.

    Raises:
        UserError: they do not, such as those of ssl.blur between 0 and 0.15.
    """
    for value in probes(axis):
        try:
            override(base, {axis.key: value})
        except UserError as error:
            rule = "every value from low to high must be allowed"
            raise UserError(f"{where}: {rule}, but one is not: {error}") from error


def check_batches(axes: Sequence[SearchParameter], base: TrainConfig, workers: int, where: str) -> None:
    """Whether the workers of a trial can share each batch that may be drawn.

    Raises:
        UserError: they cannot.
    """
    sizes = [axis for axis in axes if axis.key in ("accumulate", *(f"data.{name}" for name in SIZES))]
    for values in itertools.product(*(possible_values(axis) for axis in sizes)):
        point = {axis.key: value for axis, value in zip(sizes, values, strict=True)}
        with naming(f"{where}, {point}"):
            require_divisible(override(base, point), workers)


def possible_values(axis: SearchParameter) -> Sequence[Any]:
    """All values of a list, many of a range."""
    drawn = axis.distribution
    if isinstance(drawn, CategoricalDistribution):
        return drawn.choices
    assert isinstance(drawn, FloatDistribution | IntDistribution)
    return [drawn.low, *probes(axis), drawn.high]


def probes(axis: SearchParameter) -> list[Any]:
    """Values between the bounds of a range, evenly spaced on the scale that it is drawn on; none of a list.

    Of integers the next ones as well, so that a rule such as `a multiple of 4` is not met by the spacing alone.
    """
    drawn = axis.distribution
    if not isinstance(drawn, FloatDistribution | IntDistribution):
        return []
    spaced = [axis.drawn_at(place / PROBES) for place in range(1, PROBES)]
    if isinstance(drawn, IntDistribution):
        whole = {round(value) + step for value in spaced for step in (0, 1)}
        return sorted(value for value in whole if drawn.low < value < drawn.high)
    return [axis.decode(value) for value in spaced]


def check_start(point: Mapping[str, Any], axes: Sequence[SearchParameter], where: str) -> None:
    keys = {axis.key for axis in axes}
    if set(point) != keys:
        wrong = sorted(set(point) ^ keys)
        raise UserError(f"{where}: must give just the keys of space, but differs in {', '.join(wrong)}.")
    for axis in axes:
        value = point[axis.key]
        distribution = axis.distribution
        if isinstance(distribution, CategoricalDistribution):
            inside = value in distribution.choices
        else:
            low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
            numeric = isinstance(value, int | float) and not isinstance(value, bool)
            inside = numeric and low - 1e-12 <= axis.encode(value) <= high + 1e-12
            inside = inside and (isinstance(value, int) or not isinstance(distribution, IntDistribution))
        if not inside:
            raise UserError(f"{where}.{axis.key}: must lie in the space of {axis.key}, but got {value!r}.")


def initial_points(search: SearchConfig, axes: Sequence[SearchParameter], source: Path) -> tuple[int, list[Values]]:
    """How many trials a search has, and the points that are tried first: of a grid, all.

    Raises:
        UserError: a grid over an axis that is a range, or with a number of trials.
    """
    if search.sampler != "grid":
        return search.trials or TRIALS, search.start[: search.trials]
    for axis in axes:
        if not isinstance(axis.distribution, CategoricalDistribution):
            spec = search.space[axis.key]
            raise UserError(f"{source}: space.{axis.key}: must be {{values}} for sampler: grid, but got {spec!r}.")
    values = [list(dict.fromkeys(search.space[axis.key]["values"])) for axis in axes]
    grid = [dict(zip(search.space, point, strict=True)) for point in itertools.product(*values)]
    points = search.start + [point for point in grid if point not in search.start]
    if search.trials not in (None, len(points)):
        rule = f"trials must be left out: a grid tries each of its {len(points)} points once"
        raise UserError(f"{source}: trials: {rule}, but got {search.trials}.")
    return len(points), points


def encode(axes: Sequence[SearchParameter], values: Mapping[str, Any]) -> Values:
    """Values by dotted key as the sampler's."""
    return {axis.name: axis.encode(values[axis.key]) for axis in axes}


def decode(axes: Sequence[SearchParameter], sampler_params: Mapping[str, Any]) -> Values:
    """The sampler's values by dotted key."""
    return {axis.key: axis.decode(sampler_params[axis.name]) for axis in axes}


def flatten_search(search: SearchConfig) -> Values:
    """A search as MLflow's parameters: `search.KEY`, and `space.KEY` for each axis."""
    apart = ("train", "space", "start", "known")
    settings = {key: value for key, value in dataclasses.asdict(search).items() if key not in apart}
    axes = {key: yaml.safe_dump(spec, default_flow_style=True).strip() for key, spec in search.space.items()}
    return {f"search.{key}": value for key, value in settings.items()} | {
        f"space.{key}": text for key, text in axes.items()
    }
