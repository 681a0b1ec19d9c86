"""Search-space YAML: what is searched over, and how.

metric: val/miou            mode: max
trials: 16                  seed: 0
sampler: tpe                # or random, or grid
early_stopping: {grace_steps: 100, reduction_factor: 2}     # or null
budget: {minutes: 30}                                      # of the search; also core_hours, gpu_hours
stop: {patience: null}                                     # trials without a new best after which it ends
baseline: {trials: 4}                                      # without unlabelled images; 0: none
confirm: {top: 4, seeds: [3, 8]}                           # rerun the best from so many new seeds, then report test
resources: {cpus: 1, gpus: 0, workers: 1}                  # of each trial; gpus may be a fraction
retries: 3                                                 # of a trial that failed by no fault of its own
train: {steps: 500}                                        # TrainConfig that all trials share
start:                                                     # tried first
  - {ssl.tau: 0.968, optim.lr: 0.1}
space:
  ssl.tau: {low: 0.5, high: 0.99}                          # scale: linear, log or log_complement
  optim.lr: {low: 0.005, high: 0.2, scale: log}
  ssl.mix: {values: [class, cut]}
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from classmix_core.config import DataConfig
from classmix_core.errors import require
from harness.config.parser import make_parser, naming
from harness.config.train import from_mapping
from harness.errors import UserError

TRIALS = 16
"""Of a search whose file does not say."""
SPLIT_SEED, UNLABELLED_WEIGHT = "data.split_seed", "ssl.unlabelled_weight"
"""Keys of TrainConfig that the search sets by itself."""
OWN_TEST = ("scenes", "camvid", "cityscapes", "voc")
"""Data sets whose test images are none of those that labelled ones are drawn from."""


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
class Baseline:
    """Supervised training (`ssl.unlabelled_weight: 0`), searched over the axes that mean something there, and part of
    the confirmation: what unlabelled images are worth is told by a baseline that was tuned as well."""

    trials: int | None = None
    """How many configurations of it are tried. Unset: a quarter of `trials`; 0: no baseline."""

    def __post_init__(self) -> None:
        require(self.trials is None or self.trials >= 0, "trials", "trials >= 0", self.trials)


@dataclass(frozen=True, kw_only=True)
class Confirm:
    """What follows a search: a race of its best, its start points and the best baseline, at full length, from new
    seeds. val decides it; test is reported, once, in the end."""

    top: int = 4
    """How many of the best take part, besides the start points and the baseline; 0: no confirmation."""
    seeds: int | tuple[int, int] = (3, 8)
    """The seeds that every one gets, and the most that one gets before the race is decided; one number: both. They are
    train.seed + 1, + 2 and so on; 0: no confirmation."""
    splits: bool | None = None
    """Whether each seed draws labelled images of its own (`data.split_seed`), so that the answer does not depend on the
    luck of one draw. Unset: where data.labelled is a part of a data set with a test set of its own."""

    def __post_init__(self) -> None:
        require(self.top >= 0, "top", "top >= 0", self.top)
        require(0 <= self.fewest <= self.most, "seeds", "0 <= fewest <= most, as in [3, 8]", self.seeds)

    @property
    def fewest(self) -> int:
        return self.seeds if isinstance(self.seeds, int) else self.seeds[0]

    @property
    def most(self) -> int:
        return self.seeds if isinstance(self.seeds, int) else self.seeds[1]

    @property
    def wanted(self) -> bool:
        return self.top > 0 and self.fewest > 0


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a search may take. Once it is spent no trial starts, and each that runs stops at its next evaluation;
    baseline and confirmation come on top."""

    minutes: float | None = None
    """Wall time."""
    core_hours: float | None = None
    """Time of all trials, by the cores that each keeps from others."""
    gpu_hours: float | None = None
    """The same, by GPUs."""

    def __post_init__(self) -> None:
        for name in ("minutes", "core_hours", "gpu_hours"):
            limit = getattr(self, name)
            require(limit is None or limit > 0, name, f"{name} > 0", limit)


@dataclass(frozen=True, kw_only=True)
class Stop:
    """When a search ends before its last trial, since no more gain is likely."""

    patience: int | None = None
    """After so many trials in a row without a new best no other starts; unset: never. Of use where `trials` is a
    hundred or more (docs/protocol.md)."""

    def __post_init__(self) -> None:
        require(self.patience is None or self.patience >= 1, "patience", "patience >= 1", self.patience)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What each trial gets."""

    cpus: int = 1
    """Cores, for each worker."""
    gpus: float = 0
    """GPUs: a fraction of one (0.25 runs four trials on a GPU), or a whole number, one for each worker."""
    workers: int | None = None
    """Data parallel workers of a trial. Unset: one a GPU, or one on CPU."""

    def __post_init__(self) -> None:
        require(self.cpus >= 1, "cpus", "cpus >= 1", self.cpus)
        valid = 0 <= self.gpus <= 1 or self.gpus == int(self.gpus) > 1
        require(valid, "gpus", "gpus is a share in [0, 1] of a GPU or a whole number of them", self.gpus)
        require(self.workers is None or self.workers >= 1, "workers", "workers >= 1", self.workers)
        if self.gpus and self.workers is not None:
            rule = f"workers == gpus ({self.gpus:g}), one on each, or 1 on a share of one"
            require(self.workers == max(1, self.gpus), "workers", rule, self.workers)

    @property
    def workers_per_trial(self) -> int:
        """Workers of a trial."""
        return self.workers or max(1, int(self.gpus))

    @property
    def all_cpus(self) -> int:
        """Cores of a trial."""
        return self.cpus * self.workers_per_trial


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """A search."""

    metric: str = "val/miou"
    """What is sought, at the last step of a trial; any metric of val."""
    mode: Literal["max", "min"] = "max"
    """Whether more or less of it is better."""
    trials: int | None = None
    """How many configurations are tried. Unset: 16; with sampler grid all of the grid, and no other number."""
    seed: int = 0
    """Seed of the sampler. (All trials train with `train.seed`.)"""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """Optuna's tree-structured Parzen estimator, uniform sampling, or every combination of the axes' values."""
    early_stopping: EarlyStopping | None = field(default_factory=EarlyStopping)
    """ASHA's settings; null lets every trial run to its end."""
    budget: Budget = field(default_factory=Budget)
    stop: Stop = field(default_factory=Stop)
    baseline: Baseline = field(default_factory=Baseline)
    confirm: Confirm = field(default_factory=Confirm)
    resources: Resources = field(default_factory=Resources)
    retries: int = 3
    """How often a trial that failed by no fault of its own (its process was killed, ...) is tried again, at least 0."""
    train: dict[str, Any] = field(default_factory=dict)
    """TrainConfig that all trials share, as in a run configuration."""
    start: list[dict[str, Any]] = field(default_factory=list)
    """Points tried first; each gives every key of `space`."""
    known: list[dict[str, Any]] = field(default_factory=list)
    """Trials of other studies, which `--warm-start` puts here: every key of `space`, and `score`, what they reached, in
    standard deviations of their study, more being better."""
    space: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Dotted key of TrainConfig to {low, high, scale} or {values}. With `seed` as an axis, results are mean +- std."""

    def __post_init__(self) -> None:
        require(self.metric.startswith("val/"), "metric", "metric is one of val (test is for reporting)", self.metric)
        require(self.trials is None or self.trials >= 1, "trials", "trials >= 1", self.trials)
        rule = "gpu_hours is of trials on GPUs (resources: {gpus: 1}, or a fraction)"
        require(self.budget.gpu_hours is None or self.resources.gpus > 0, "budget", rule, self.budget)
        require(self.retries >= 0, "retries", "retries >= 0", self.retries)
        require(bool(self.space), "space", "space names at least one key", self.space)
        rule = (
            "seed is an axis of a full grid alone (sampler: grid, early_stopping: null), or its means compare unequals"
        )
        full = self.sampler == "grid" and self.early_stopping is None
        require(full or "seed" not in self.space, "space", rule, self.sampler)
        rule = "confirm is {top: 0} where seed is an axis of space (it repeats each point already)"
        require(not (self.confirm.wanted and "seed" in self.space), "confirm", rule, self.confirm)
        rule = "stop is {patience: null} where seed is an axis of space, or its means are over unequal numbers of seeds"
        require(self.stop.patience is None or "seed" not in self.space, "stop", rule, self.stop)

    def baseline_trials(self, trials: int) -> int:
        """Of the baseline of a search of so many trials."""
        return max(1, round(trials / 4)) if self.baseline.trials is None else self.baseline.trials

    @property
    def reported_metric(self) -> str:
        """The one that is sought, of test."""
        return self.metric.replace("val/", "test/", 1)

    @property
    def sign(self) -> int:
        """1 where more of the metric is better, else -1."""
        return 1 if self.mode == "max" else -1


def read_space(path: Path) -> SearchConfig:
    """Read a search-space file.

    Raises:
        UserError: no such file, an unknown key, a wrong type, a broken rule.
    """
    if not path.is_file():
        raise UserError(f"--space: must be an existing file or a shipped space (tau_ema, ...), but got {str(path)!r}.")
    parser = make_parser("space", "")
    parser.add_class_arguments(SearchConfig, None)
    with naming(str(path)):
        return search_config(parser.read_file(path).as_dict())


def search_config(values: Mapping[str, Any]) -> SearchConfig:
    known = {item.name for item in dataclasses.fields(SearchConfig)}
    chosen = {key: value for key, value in values.items() if key in known}
    if isinstance(chosen.get("early_stopping"), EarlyStopping):
        chosen["early_stopping"] = dataclasses.asdict(chosen["early_stopping"])
    given = [dict(point) for point in chosen.pop("start", [])]
    start = [point for number, point in enumerate(given) if point not in given[:number]]
    told = [dict(point) for point in chosen.pop("known", [])]
    return dataclasses.replace(from_mapping(SearchConfig, chosen), start=start, known=told)


def draws_splits(search: SearchConfig, config: DataConfig) -> bool:
    """Whether each seed of the confirmation draws labelled images of its own.

    Raises:
        UserError: that is wanted of a data set where it would move images into or out of test, or change nothing.
    """
    part = config.name == "scenes" or config.labelled is not None
    possible = config.name in OWN_TEST and part and config.split_file is None and SPLIT_SEED not in search.space
    if search.confirm.splits and not possible:
        rule = "true needs a data set with a test set of its own, of which data.labelled draws a part"
        raise UserError(f"confirm.splits: {rule}, but got {config.name}, labelled {config.labelled}.")
    return possible if search.confirm.splits is None else search.confirm.splits
