"""How good the answer of a search is, by many searches replayed over recorded trainings, whose truth is known.

    python benchmarks/protocol.py benchmarks/tables/scenes.npz [--space search_spaces/tau_ema.yaml] [--replays 200]

Each replay is a world of its own: other luck of seeds, other images of val. In it the space is searched once, and its
best are confirmed in three ways: as they were once (the best two and the start point over 3 seeds, chosen and reported
by test), by 8 seeds for all, and by the race. Printed are: how often what is chosen is truly worse than the start
point; what choosing costs against the best candidate; how much too high its figure on test is; how many runs it took;
how often the race chooses what 8 seeds for all do; and how often the 95% intervals hold the truth.
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import numpy as np

from harness.cli.display import err, make_table, out
from harness.cli.exit_code import run_command
from harness.config.search import UNLABELLED_WEIGHT, Confirm, SearchConfig, read_space
from harness.config.train import TrainConfig, check_types
from harness.errors import DONE
from harness.search.confirmation import Answer, Candidate, Confirmation, candidates
from harness.search.recorded import Recorded, read_table
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


@dataclass
class Tally:
    """Of one way to confirm, over all replays; scores in points."""

    worse: list[bool] = field(default_factory=list)
    regret: list[float] = field(default_factory=list)
    optimism: list[float] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    same: list[bool] = field(default_factory=list)
    covered: list[bool] = field(default_factory=list)


def search_once(
    recorded: Recorded,
    search: SearchConfig,
    base: TrainConfig,
    axes: Sequence[SearchParameter],
    store: TrialStore,
    seed: int,
    trials: int,
    points: Sequence[dict[str, float]],
    fixed: dict[str, float] | None = None,
) -> TrialStore:
    """One trial at a time, with the sampler and the early stopping of the search."""
    sampler = OptunaSampler(
        axes, sampler=search.sampler, seed=seed, mode=search.mode, trials=trials, points=points, fixed=fixed
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
    return store


def finish(recorded: Recorded, base: TrainConfig, store: TrialStore, record: TrialRecord) -> None:
    run = recorded.run(record.values, record.values["seed"])
    record.metrics = {"val/miou": float(run.val[-1]), "test/miou": run.test}
    record.step = base.steps
    store.end(record, "complete")


def raced(recorded: Recorded, race: Confirmation) -> Answer:
    while entered := race.enter():
        for record in entered:
            finish(recorded, race.base, race.store, record)
    answer = race.answer()
    assert answer is not None
    return answer


def once(recorded: Recorded, base: TrainConfig, field: Sequence[Candidate]) -> tuple[Candidate, float]:
    """As it was: the best mean on test over three seeds, and that mean."""
    means = [fmean(recorded.run(one.values, base.seed + 1 + seed).test for seed in range(3)) for one in field]
    best = int(np.argmax(means))
    return field[best], means[best]


def replay(
    recorded: Recorded,
    search: SearchConfig,
    base: TrainConfig,
    axes: Sequence[SearchParameter],
    folder: Path,
    luck: int,
) -> dict[str, tuple[Candidate, float, int, list[bool]]]:
    """By way to confirm: what is chosen, its figure on test, the runs it took, and which intervals hold the truth."""
    total, points = initial_points(search, axes, folder)
    trials = search_once(recorded, search, base, axes, TrialStore(folder, "trials"), luck, total, points)
    plain, starts = supervised_axes(axes), supervised_points(search.start, axes)
    wanted, baseline = search.baseline_trials(total), TrialStore(folder, "baseline")
    search_once(recorded, search, base, plain, baseline, luck, wanted, starts[:wanted], {UNLABELLED_WEIGHT: 0.0})
    found: dict[str, tuple[Candidate, float, int, list[bool]]] = {}
    small = dataclasses.replace(search, confirm=Confirm(top=2, seeds=3))
    before = candidates(small, trials, TrialStore(folder, "confirm"))
    chosen, figure = once(recorded, base, before)
    found["as it was"] = chosen, figure, 3 * len(before), []
    for name, seeds in (("8 seeds for all", (8, 8)), ("race", (search.confirm.fewest, search.confirm.most))):
        one = dataclasses.replace(search, confirm=Confirm(top=search.confirm.top, seeds=seeds))
        place = candidates(one, trials, baseline)
        race = Confirmation(one, base, place, TrialStore(folder / name, "confirm"), splits=False)
        answer = raced(recorded, race)
        chosen, truth = answer.chosen, recorded.truth(answer.chosen.values)
        covered = [abs(truth - recorded.truth(other.values) - by.mean) <= by.reach for other, by in answer.compared]
        found[name] = chosen, race.runner(chosen, "test").mean, len(race.store.records), covered
    return found


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, metavar="TABLE")
    parser.add_argument("--space", type=Path, default=Path("search_spaces/tau_ema.yaml"))
    parser.add_argument("--replays", type=int, default=200)
    given = parser.parse_args(args)
    search = read_space(given.space)
    base = check_types(search.train, str(given.space))
    axes = search_parameters(search, base, given.space)
    world = read_table(given.table, axes)
    base = dataclasses.replace(base, steps=int(world.tables[True].steps[-1]))
    tallies: dict[str, Tally] = {}
    memory = Path("/dev/shm")  # the files of a study are synced to the disk, which takes longer than all else
    for luck in range(given.replays):
        recorded = world.elsewhere(luck, world.tables[True].val_images)
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
            found = replay(recorded, search, base, axes, Path(folder), luck)
        start = max(recorded.truth(point) for point in search.start)
        best = max(recorded.truth(chosen.values) for chosen, *_ in found.values())
        for name, (chosen, figure, runs, covered) in found.items():
            tally, truth = tallies.setdefault(name, Tally()), recorded.truth(chosen.values)
            tally.worse.append(truth < start - 1e-9)
            tally.regret.append(100 * (best - truth))
            tally.optimism.append(100 * (figure - truth))
            tally.runs.append(runs)
            tally.same.append(chosen == found["8 seeds for all"][0])
            tally.covered += covered
        if not (luck + 1) % 20:
            err.print(f"{luck + 1} of {given.replays} replays")
    columns = (
        "confirmation",
        "worse than start",
        "regret",
        "test too high by",
        "runs",
        "same as 8 seeds",
        "intervals hold",
    )
    table = make_table(f"{given.replays} replays of {given.table.name}, in points", columns)
    for name, tally in tallies.items():
        hold = f"{fmean(tally.covered):.1%}" if tally.covered else "-"
        figures = f"{fmean(tally.regret):.2f}", f"{fmean(tally.optimism):+.2f}", f"{fmean(tally.runs):.1f}"
        table.add_row(name, f"{fmean(tally.worse):.1%}", *figures, f"{fmean(tally.same):.1%}", hold)
    out.print(table)
    return DONE


if __name__ == "__main__":
    run_command(main)
