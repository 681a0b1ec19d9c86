"""Recorded trainings, from which others are made up: what `harness.tune --simulate` runs a study over.

A table (made by benchmarks/record_curves.py) holds trainings at full length: their configuration, their curve on val,
and for each image of val and test the pixels of each class that were predicted and rightly predicted. Between the
recorded configurations everything is interpolated by one Gaussian process, whose length scales are fitted to the last
value on val (Rasmussen and Williams, 2006, chapters 2 and 5); around it a made-up run has the noise of a recorded one
from its neighbourhood. What is true is therefore known: the interpolation without noise.
"""

import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from optuna.distributions import FloatDistribution
from scipy.linalg import cho_factor, cho_solve
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from harness.config.search import UNLABELLED_WEIGHT
from harness.errors import UserError
from harness.search.search_space import SearchParameter, supervised_axes

Array = np.ndarray
NEIGHBOURS = 24
"""Recorded runs whose noise a made-up one may have."""


class MadeUpRun(NamedTuple):
    """What a training would have reached."""

    steps: Array
    """int (E,): of the evaluations."""
    val: Array
    """float (E,): mIoU on val there."""
    test: float
    """mIoU after the last step."""


def mean_iou(right: Array, predicted: Array, labelled: Array) -> Array:
    """Of pixel counts (..., K): float (...), over the classes that are labelled or predicted."""
    union = predicted + labelled - right
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nanmean(np.where(union > 0, right / union, np.nan), axis=-1))


@dataclass(frozen=True)
class Table:
    """Recorded runs over the axes of a space, all with unlabelled images or all without.

    Args:
        axes: of the space; those that mean nothing here are left out.
        inputs: float (N, A), each axis from 0 to 1 on the scale that it is drawn on.
        curves: float (N, E).
        counts: int (N, I, 2, K), right and predicted pixels in each image of val and then test.
        labelled: int (I, K), pixels of each class in each image.
        val_images: how many of the images are val.
    """

    axes: Sequence[SearchParameter]
    inputs: Array
    seeds: Array
    steps: Array
    curves: Array
    counts: Array
    labelled: Array
    val_images: int

    def score(self, images: Array) -> Array:
        """mIoU of each run on a choice of images: float (N,)."""
        counts = self.counts[:, images].sum(1)
        return mean_iou(counts[:, 0], counts[:, 1], self.labelled[images].sum(0))

    # -- interpolation ------------------------------------------------------------------------------------------------

    @cached_property
    def process(self) -> GaussianProcessRegressor:
        """Fitted to the last values on val."""
        kernel = ConstantKernel(1.0) * Matern(np.full(len(self.axes), 0.5), (0.05, 20.0), nu=2.5) + WhiteKernel(0.1)
        process = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=4, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # an axis that does not matter
            return process.fit(self.inputs, self.curves[:, -1])

    @cached_property
    def smoother(self) -> Array:
        """float (N, N): (K + noise)^-1."""
        return np.asarray(cho_solve(cho_factor(self.process.kernel_(self.inputs)), np.eye(len(self.inputs))))

    def weights(self, inputs: Array) -> Array:
        """float (M, N): how much each recorded run counts at each of the given places, once their mean is taken off."""
        signal = self.process.kernel_.k1
        return np.asarray(signal(inputs, self.inputs)) @ self.smoother

    def interpolate(self, inputs: Array, recorded: Array) -> Array:
        """A quantity (N, ...) of recorded runs at other places: (M, ...)."""
        mean = recorded.mean(0)
        return mean + np.tensordot(self.weights(inputs), recorded - mean, axes=1)

    def encode(self, values: Mapping[str, Any]) -> Array:
        """float (1, A)."""
        return np.array([[axis.share_of(values[axis.key]) for axis in self.axes]])

    # -- noise --------------------------------------------------------------------------------------------------------

    def residuals(self, recorded: Array) -> Array:
        """(N, ...): how far each run is from the interpolation without it, as far as a straight line tells."""
        leverage = np.diagonal(self.weights(self.inputs)).clip(0, 0.9)
        off = recorded - self.interpolate(self.inputs, recorded)
        return np.asarray(off / np.sqrt(1 - leverage).reshape(-1, *[1] * (recorded.ndim - 1)))

    @cached_property
    def noise_scale(self) -> float:
        """The standard deviation of repeated runs over that of all residuals, which also hold what the interpolation
        misses: by so much they are scaled. 1: nothing was repeated."""
        last = self.curves[:, -1]
        _, place, count = np.unique(self.inputs, axis=0, return_inverse=True, return_counts=True)
        repeated = [last[place == number] for number in np.flatnonzero(count > 1)]
        freedom = sum(len(runs) - 1 for runs in repeated)
        if not freedom:
            return 1.0
        variance = sum(float(((runs - runs.mean()) ** 2).sum()) for runs in repeated) / freedom
        return float(np.sqrt(variance / self.residuals(last).var()))

    @cached_property
    def shared_by_seed(self) -> float:
        """Share of the noise's variance that runs of one seed have in common, by those that were repeated."""
        off = self.residuals(self.curves[:, -1])
        pairs = [(a, b) for a in range(len(off)) for b in range(a) if self.seeds[a] == self.seeds[b]]
        if not pairs:
            return 0.0
        product = float(np.mean([off[a] * off[b] for a, b in pairs]))
        return min(max(product / float(off.var()), 0.0), 0.95)


class Recorded:
    """The tables of a file, and made-up runs out of them.

    Args:
        luck: seed of all that is random; another one is another world with the same truth.
        val_size: images of val, drawn from those of val and test together; None: val as it was recorded.
    """

    def __init__(self, with_unlabelled: Table, without: Table, luck: int = 0, val_size: int | None = None) -> None:
        self.tables = {True: with_unlabelled, False: without}
        self.luck = luck
        self.val = np.arange(with_unlabelled.val_images)
        if val_size is not None:
            images = len(with_unlabelled.labelled)
            self.val = np.sort(np.random.default_rng((luck, 0)).choice(images, val_size, replace=False))
        self.prepared = {helped: self.prepare(table) for helped, table in self.tables.items()}

    @property
    def last_step(self) -> int:
        return int(self.tables[True].steps[-1])

    def elsewhere(self, luck: int, val_size: int | None = None) -> "Recorded":
        """Another world with the same truth."""
        return Recorded(self.tables[True], self.tables[False], luck, val_size)

    def prepare(self, table: Table) -> tuple[Array, Array]:
        """float (N, E + 1), curves on val with the score on test behind them: as recorded, and how far off they are."""
        test = table.score(np.arange(table.val_images, len(table.labelled)))
        own = table.score(self.val) - table.curves[:, -1]
        recorded = np.concatenate([table.curves + own[:, None], test[:, None]], axis=1)
        return recorded, table.noise_scale * table.residuals(recorded)

    def truth(self, values: Mapping[str, Any]) -> float:
        """The true mean mIoU over seeds, on test."""
        helped = is_helped(values)
        table, (recorded, _) = self.tables[helped], self.prepared[helped]
        return float(table.interpolate(table.encode(values), recorded)[0, -1])

    def run(self, values: Mapping[str, Any], seed: int) -> MadeUpRun:
        """What a training of these values from this seed would reach: the same each time."""
        helped = is_helped(values)
        table, (recorded, off) = self.tables[helped], self.prepared[helped]
        at = table.encode(values)
        mean = table.interpolate(at, recorded)[0]
        near = np.argsort(((table.inputs - at) ** 2).sum(1))[:NEIGHBOURS]
        place = zlib.crc32(at.tobytes()) + helped
        common = np.random.default_rng((self.luck, 1, seed)).random()
        alone = np.random.default_rng((self.luck, 2, seed, place)).choice(near)
        shared = table.shared_by_seed
        noise = np.sqrt(shared) * off[int(common * len(off))] + np.sqrt(1 - shared) * off[alone]
        found = (mean + noise).clip(0, 1)
        return MadeUpRun(table.steps, found[:-1], float(found[-1]))


def is_helped(values: Mapping[str, Any]) -> bool:
    """Whether a configuration learns from unlabelled images."""
    return bool(values.get(UNLABELLED_WEIGHT, 1.0))


def read_table(path: Path, axes: Sequence[SearchParameter], metric: str = "val/miou") -> Recorded:
    """
    Raises:
        UserError: no such file, or none for this space or metric.
    """
    if metric != "val/miou":
        raise UserError(f"--simulate: tables hold val/miou, so metric must be that, but is {metric}.")
    if not path.is_file():
        raise UserError(f"--simulate: must be a file made by benchmarks/record_curves.py, but got {str(path)!r}.")
    with np.load(path, allow_pickle=False) as file:
        found = {name: file[name] for name in file.files}
    keys = found["keys"].tolist()
    if odd := [axis.key for axis in axes if not isinstance(axis.distribution, FloatDistribution)]:
        raise UserError(f"--simulate: {path} is over ranges of real numbers, but the space has values for {odd[0]}.")
    for axis in axes:
        if axis.key not in keys:
            raise UserError(
                f"--simulate: {path} must vary {axis.key}, over which the space searches, but varies {keys}."
            )
    counts = np.concatenate([found["val_counts"], found["test_counts"]], axis=1).astype(np.int64)
    labelled = np.concatenate([found["val_labelled"], found["test_labelled"]]).astype(np.int64)
    whole = np.isfinite(found["curves"]).all(1)
    helped = found["values"][:, keys.index(UNLABELLED_WEIGHT)] > 0

    def table(rows: Array, chosen: Sequence[SearchParameter]) -> Table:
        values = found["values"][rows]
        inputs = [[axis.share_of(row[keys.index(axis.key)]) for axis in chosen] for row in values]
        return Table(
            chosen,
            np.array(inputs),
            found["seeds"][rows],
            found["steps"],
            found["curves"][rows].astype(np.float64),
            counts[rows],
            labelled,
            len(found["val_labelled"]),
        )

    without = table(whole & ~helped, supervised_axes(axes))
    return Recorded(table(whole & helped, axes), without)
