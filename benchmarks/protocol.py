"""How good the answers of searches are, by many searches replayed over recorded trainings, whose truth is known.

    python benchmarks/protocol.py benchmarks/tables/scenes.npz [--replays 200] [--first 0]
        [--parts confirm list val stop warm]

Each replay is a world of its own: other luck of seeds, other images of val. In it the space is searched once, with the
sampler and the early stopping of the search, one trial at a time. What is compared, and printed as one table each:

confirm  How the best are confirmed: as it was once (the best two and the start point over 3 seeds, chosen and reported
         by test), 8 seeds for all, and the race. How often the answer is truly worse than the start point, its gain
         over it, what it lacks of the best candidate, how much too high its figure on test is, runs (in all, and until
         only the first and the baseline are left), how often the race chooses as 8 seeds do, and how often the 95%
         intervals of its differences hold the truth.
list     Who takes part: the best by what they reached, or by a smoothed view, in which neighbours count.
val      The same images for all trials, or for each trial others, dealt from val and as many as are labelled.
stop     Searches of many trials that end after so many without a new best.
warm     The search with the trials of another study in view: one like it (another world), and one that misleads (each
         axis mirrored).
"""

import argparse
import dataclasses
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from harness.cli.display import err, make_table, out
from harness.cli.exit_code import run_command
from harness.config.search import UNLABELLED_WEIGHT, Confirm, SearchConfig, Stop, read_space
from harness.config.train import TrainConfig, Values, check_types
from harness.errors import DONE
from harness.search.confirmation import Answer, Candidate, Confirmation, candidates, ranked
from harness.search.limits import waited_in_vain
from harness.search.recorded import MadeUpRun, Recorded, read_table
from harness.search.scheduler import PruneAtReport
from harness.search.search_space import (
    SearchParameter,
    initial_points,
    search_parameters,
    supervised_axes,
    supervised_points,
)
from harness.search.searcher import OptunaSampler
from harness.search.trial_store import TrialRecord, TrialStore
from harness.search.warm_start import SCORE, known_trials, levelled, places

Tally = dict[str, list[list[float]]]
"""By row of a table: one list of figures for each replay."""
RACE = Confirm(top=4, seeds=(3, 8))
PATIENCE, MANY_TRIALS = (16, 24, 32, 48), 128
KNOWN_TRIALS = 48
"""Of the study that a warm start is given."""
RESHUFFLED_LABELS = 8


@dataclass(frozen=True)
class Setting:
    """A space over a table."""

    world: Recorded
    search: SearchConfig
    base: TrainConfig
    axes: Sequence[SearchParameter]
    source: Path

    def replayed(self, luck: int) -> Recorded:
        """Another world; of this one's kind where it is a subclass."""
        return self.world.elsewhere(luck, self.world.tables[True].val_images)


class Mirrored(Recorded):
    """A world in which good and bad have changed sides, on each axis."""

    axes: Sequence[SearchParameter] = ()

    def run(self, values: Mapping[str, Any], seed: int) -> MadeUpRun:
        other = {axis.key: axis.decode(axis.drawn_at(1 - axis.share_of(values[axis.key]))) for axis in self.axes}
        return super().run(other, seed)


class Reshuffled(Recorded):
    """A world in which each training has images of val of its own."""

    pool: np.ndarray
    runs = 0

    def run(self, values: Mapping[str, Any], seed: int) -> MadeUpRun:
        self.runs += 1
        size = len(self.val)
        self.val = np.sort(np.random.default_rng((self.luck, 3, self.runs)).choice(self.pool, size, replace=False))
        self.prepared = {helped: self.prepare(table) for helped, table in self.tables.items()}
        return super().run(values, seed)


@contextmanager
def store_in_memory(phase: Any = "trials") -> Iterator[TrialStore]:
    """The files of a study are synced to the disk, which takes longer than all else."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield TrialStore(Path(folder), phase)


def search_once(
    recorded: Recorded,
    setting: Setting,
    seed: int,
    trials: int,
    *,
    axes: Sequence[SearchParameter] | None = None,
    points: Sequence[Values] | None = None,
    fixed: Values | None = None,
    search: SearchConfig | None = None,
) -> list[TrialRecord]:
    """One trial at a time, with the sampler and the early stopping of the search."""
    search, base = search or setting.search, setting.base
    with store_in_memory() as store:
        sampler = OptunaSampler(
            axes or setting.axes,
            sampler=search.sampler,
            seed=seed,
            mode=search.mode,
            trials=trials,
            points=search.start[:trials] if points is None else points,
            records=store.records,
            fixed=fixed,
            known=known_trials(search, setting.axes),
        )
        scheduler = PruneAtReport(store, search)
        for _ in range(trials):
            values, drawn = sampler.ask()
            record = store.add(values, base.steps, sampler_params=drawn)
            run = recorded.run(values, base.seed)
            for step, val in zip(run.steps.tolist(), run.val.tolist(), strict=True):
                scheduler.decide(record, {"step": step, search.metric: val})
                record.step = step
                record.intermediate_values.append((step, val))
                if record.prune:
                    break
            store.end(record, "complete" if record.step >= record.steps else "pruned")
            sampler.tell(record)
        return store.records


def searched(recorded: Recorded, setting: Setting, luck: int, trials: int | None = None) -> list[TrialRecord]:
    total, points = initial_points(setting.search, setting.axes, setting.source)
    return search_once(recorded, setting, luck, trials or total, points=points)


def baseline_of(recorded: Recorded, setting: Setting, luck: int) -> list[TrialRecord]:
    total, _ = initial_points(setting.search, setting.axes, setting.source)
    wanted = setting.search.baseline_trials(total)
    points = supervised_points(setting.search.start, setting.axes)[:wanted]
    axes, fixed = supervised_axes(setting.axes), {UNLABELLED_WEIGHT: 0.0}
    return search_once(recorded, setting, luck, wanted, axes=axes, points=points, fixed=fixed)


def confirmed(
    recorded: Recorded,
    setting: Setting,
    confirm: Confirm,
    trials: Sequence[TrialRecord],
    baseline: Sequence[TrialRecord] = (),
) -> tuple[Confirmation, Answer]:
    """The race of a search's best, run to its end."""
    search = dataclasses.replace(setting.search, confirm=confirm)
    with store_in_memory("confirm") as store:
        phases = TrialStore(store.folder, "trials"), TrialStore(store.folder, "baseline")
        for phase, records in zip(phases, (trials, baseline), strict=True):
            phase.records = list(records)
        race = Confirmation(search, setting.base, candidates(search, *phases), store, splits=False)
        while entered := race.enter():
            for record in entered:
                run = recorded.run(record.values, record.values["seed"])
                record.metrics = {"val/miou": float(run.val[-1]), "test/miou": run.test}
                record.step = setting.base.steps
                store.end(record, "complete")
        answer = race.answer()
    assert answer is not None
    return race, answer


# -- the parts --------------------------------------------------------------------------------------------------------


def compare_confirmations(setting: Setting, luck: int, tally: Tally) -> None:
    """Worse than the start point, regret, optimism on test, runs, the same answer as 8 seeds, intervals."""
    recorded = setting.replayed(luck)
    trials, baseline = searched(recorded, setting, luck), baseline_of(recorded, setting, luck)
    start = max(recorded.truth(point) for point in setting.search.start)
    found: dict[str, tuple[Candidate, float, int, list[float]]] = {}
    race, _ = confirmed(recorded, setting, Confirm(top=2, seeds=1), trials)
    means = [fmean(recorded.run(one.values, setting.base.seed + 1 + n).test for n in range(3)) for one in race.field]
    place = int(np.argmax(means))
    found["as it was"] = race.field[place], means[place], 3 * len(means), [3 * len(means), np.nan, np.nan]
    for name, seeds in (("8 seeds for all", (8, 8)), ("race", RACE.seeds)):
        race, answer = confirmed(recorded, setting, Confirm(top=RACE.top, seeds=seeds), trials, baseline)
        truth = recorded.truth(answer.chosen.values)
        hold = {True: np.nan, False: np.nan}
        for other, by in answer.compared:
            hold[other.baseline] = float(abs(truth - recorded.truth(other.values) - by.mean) <= by.reach)
        runs = len(race.store.records)
        counts = sorted((len(race.runs(one)) for one in race.field if not one.baseline), reverse=True)
        alone = counts[0] - (counts[1] if len(counts) > 1 else race.search.confirm.fewest)
        known = runs - 2 * max(alone, 0)  # rounds of the first and the baseline alone
        found[name] = answer.chosen, race.runner(answer.chosen, "test").mean, runs, [known, hold[False], hold[True]]
    best = max(recorded.truth(one.values) for one in race.field if not one.baseline)
    for name, (chosen, figure, runs, held) in found.items():
        truth = recorded.truth(chosen.values)
        same = chosen == found["8 seeds for all"][0]
        row = [100 * (truth < start - 1e-9), 100 * (truth - start), 100 * (best - truth), 100 * (figure - truth)]
        known, *hold_both = held
        tally.setdefault(name, []).append([*row, runs, known, 100 * same, *(100 * each for each in hold_both)])


def smoothed(setting: Setting, trials: Sequence[TrialRecord]) -> list[float]:
    """What a Gaussian process over the trials that ran to their end says of each of them."""
    at, reached = places(setting.axes, [one.values for one in trials]), np.array([one.metric for one in trials])
    if len(trials) < 4:
        return reached.tolist()
    kernel = ConstantKernel(1.0, (0.05, 20)) * Matern(np.full(at.shape[1], 0.5), (0.1, 5.0), nu=2.5)
    process = GaussianProcessRegressor(kernel + WhiteKernel(0.1, (0.01, 2)), normalize_y=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return process.fit(at, reached).predict(at).tolist()


def near_mean(setting: Setting, trials: Sequence[TrialRecord]) -> list[float]:
    """The mean of each and its neighbours, weighted by nearness."""
    at, reached = places(setting.axes, [one.values for one in trials]), np.array([one.metric for one in trials])
    weight = np.exp(-((at[:, None] - at[None]) ** 2).sum(-1) / (2 * 0.15**2))
    return (weight @ reached / weight.sum(1)).tolist()


def compare_lists(setting: Setting, luck: int, tally: Tally) -> None:
    """The truth of the first and of the best of the first two and four, by each view of the search."""
    recorded = setting.replayed(luck)
    for count in (24, 48):
        trials = [one for one in searched(recorded, setting, luck, count) if one.state == "complete"]
        views: dict[str, list[float]] = {
            "plain": [one.metric or 0.0 for one in trials],
            "smoothed by a Gaussian process": smoothed(setting, trials),
            "smoothed over neighbours": near_mean(setting, trials),
        }
        for name, view in views.items():
            order = np.argsort(-np.array(view), kind="stable")
            truths = [100 * recorded.truth(trials[place].values) for place in order]
            row = [len(trials), truths[0], max(truths[:2]), max(truths[:4])]
            tally.setdefault(f"{count} trials, {name}", []).append(row)


def compare_vals(setting: Setting, luck: int, tally: Tally) -> None:
    """The truth of the first of a search, the best of its first four and the best that it tried."""
    table = setting.world.tables[True]
    for size in sorted({8, table.val_images}):
        fixed = setting.world.elsewhere(luck, size)
        dealt = Reshuffled(setting.world.tables[True], setting.world.tables[False], luck, size)
        rest = np.setdiff1d(np.arange(len(table.labelled)), fixed.val)
        more = np.random.default_rng(luck).choice(rest, RESHUFFLED_LABELS, replace=False)
        dealt.pool = np.concatenate([fixed.val, more])
        for name, recorded in (("fixed", fixed), ("reshuffled", dealt)):
            trials = searched(recorded, setting, luck)
            truths = [100 * fixed.truth(one.values) for one in ranked(setting.search, trials)]
            tally.setdefault(f"{size} images, {name}", []).append([truths[0], max(truths[:4]), max(truths)])


def compare_stops(setting: Setting, luck: int, tally: Tally) -> None:
    """Trials, share saved and points lost on the answer of the race, against the whole search."""
    recorded = setting.replayed(luck)
    trials = searched(recorded, setting, luck, MANY_TRIALS)

    def truth(records: Sequence[TrialRecord]) -> float:
        _, answer = confirmed(recorded, setting, RACE, records)
        return 100 * recorded.truth(answer.chosen.values)

    whole = truth(trials)
    stops = {f"patience {patience}": stopped_at(setting, trials, patience) for patience in PATIENCE}
    for name, count in {**stops, "24 trials": 24, "64 trials": 64, f"all {MANY_TRIALS}": MANY_TRIALS}.items():
        lost = whole - truth(trials[:count])
        tally.setdefault(name, []).append([count, 100 * (1 - count / MANY_TRIALS), lost])


def stopped_at(setting: Setting, trials: Sequence[TrialRecord], patience: int) -> int:
    search = dataclasses.replace(setting.search, stop=Stop(patience=patience))
    return next((n for n in range(1, len(trials)) if waited_in_vain(search, trials[:n])), len(trials))


def compare_starts(setting: Setting, luck: int, tally: Tally) -> None:
    """The best true mean among the trials so far, in points."""
    recorded = setting.replayed(luck)
    trials, _ = initial_points(setting.search, setting.axes, setting.source)
    others: dict[str, Recorded] = {"alike": setting.replayed(luck + 10_000)}
    tables = setting.world.tables
    others["misleading"] = mirror = Mirrored(tables[True], tables[False], luck + 20_000, tables[True].val_images)
    mirror.axes = setting.axes
    searches = {"cold": setting.search}
    for name, other in others.items():
        known, scores = levelled(search_once(other, setting, luck + 7, KNOWN_TRIALS), setting.search.sign)
        scaled = ((scores - scores.mean()) / scores.std()).tolist()
        told = [{**record.values, SCORE: score} for record, score in zip(known, scaled, strict=True)]
        searches[name] = dataclasses.replace(setting.search, known=told)
    for name, search in searches.items():
        found = search_once(recorded, setting, luck, trials + trials // 3, search=search)
        best = np.maximum.accumulate([100 * recorded.truth(one.values) for one in found])
        tally.setdefault(name, []).append(best.tolist())


def warm_rows(tally: Tally, trials: int) -> Iterable[tuple[str, list[str]]]:
    """Of each start: the mean best after some trials, and when it has what the cold search has in the end."""
    goal = float(np.mean(tally["cold"], 0)[trials - 1])
    for name, curves in tally.items():
        mean = np.mean(curves, 0)
        reached = next((n for n, value in enumerate(mean.tolist(), 1) if value >= goal - 1e-9), None)
        share = "later" if reached is None else f"{reached} ({reached / trials:.2f})"
        yield name, [*(f"{mean[n - 1]:.2f}" for n in (1, 4, 8, 12, trials)), share]


Part = tuple[Callable[[Setting, int, Tally], None], Sequence[str]]
PARTS: dict[str, Part] = {
    "confirm": (
        compare_confirmations,
        (
            "worse than start %",
            "gain",
            "regret",
            "test too high",
            "runs",
            "winner known after",
            "as 8 seeds %",
            "start holds %",
            "base holds %",
        ),
    ),
    "list": (compare_lists, ("complete", "first", "best of 2", "best of 4")),
    "val": (compare_vals, ("first", "best of 4", "best tried")),
    "stop": (compare_stops, ("trials", "saved %", "lost")),
    "warm": (compare_starts, ("1 trial", "4", "8", "12", "all", "reaches cold's best at")),
}


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, metavar="TABLE")
    parser.add_argument("--space", type=Path, default=Path("search_spaces/tau_ema.yaml"))
    parser.add_argument("--replays", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="Number of the first world.")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    given = parser.parse_args(args)
    search = read_space(given.space)
    base = check_types(search.train, str(given.space))
    axes = search_parameters(search, base, given.space)
    world = read_table(given.table, axes)
    base = dataclasses.replace(base, steps=int(world.tables[True].steps[-1]))
    setting = Setting(world, search, base, axes, given.space)
    for part in given.parts:
        compare, columns = PARTS[part]
        tally: Tally = {}
        for done in range(given.replays):
            compare(setting, given.first + done, tally)
            if not (done + 1) % 50:
                err.print(f"{part}: {done + 1} of {given.replays} replays")
        table = make_table(f"{part}: {given.replays} replays of {given.table.name}, in points", (part, *columns))
        if part == "warm":
            rows = warm_rows(tally, initial_points(search, axes, given.space)[0])
        else:
            rows = [(name, [with_error(column) for column in np.array(found).T]) for name, found in tally.items()]
        for name, cells in rows:
            table.add_row(name, *cells)
        out.print(table)
    return DONE


def with_error(values: np.ndarray) -> str:
    """The mean, and its standard error where the values differ."""
    known = values[np.isfinite(values)]
    if not len(known):
        return "-"
    spread = float(known.std()) / len(known) ** 0.5
    return f"{known.mean():.2f}" + (f" +- {spread:.2f}" if spread else "")


if __name__ == "__main__":
    run_command(main)
