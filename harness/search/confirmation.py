"""The confirmation of a search: its best, its start points and the best baseline race from new seeds (`search.race`).
val decides; test is reported, once, for the chosen one and what it is measured by."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from classmix_core.config import DataConfig
from classmix_core.data import Data, check_data, load_data
from harness.cli.display import show_check
from harness.config.search import SPLIT_SEED, SearchConfig
from harness.config.train import TrainConfig, Values
from harness.errors import UserError
from harness.run_dir import SPLITS, read_splits, stored_roles, write_split
from harness.search.race import Difference, Runner, Standing, choose, difference, noise, standing
from harness.search.trial_store import TrialRecord, TrialStore
from harness.training.dataloaders import load_data_once


@dataclass(frozen=True)
class Candidate:
    """A configuration that takes part in the race."""

    name: str
    """Of the trial that found it, such as trials/007; start/1 of a start point that the search did not get to."""
    values: Values
    searched: float | None = None
    """What it reached in the search, on val."""
    start: bool = False
    """Whether it is a start point."""
    baseline: bool = False
    """Whether it trains without unlabelled images."""


def ranked(search: SearchConfig, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Trials that have a value, best first; those that ran to their end before those that were stopped."""
    known = [record for record in records if record.metric is not None and record.state != "failed"]
    return sorted(known, key=lambda one: (one.state != "complete", -search.sign * (one.metric or 0.0), one.number))


def best_of(search: SearchConfig, records: Sequence[TrialRecord]) -> TrialRecord | None:
    """None: none has a value."""
    return next(iter(ranked(search, records)), None)


def candidates(search: SearchConfig, trials: TrialStore, baseline: TrialStore) -> list[Candidate]:
    """The best that ran to their end, then the start points that are not among them, then the best baseline."""
    best = ranked(search, trials.records)
    complete = [record for record in best if record.state == "complete"] or best
    starts = start_points(search, trials)
    picked: list[Candidate] = []

    def add(name: str, record: TrialRecord, start: bool) -> None:
        if all(record.values != other.values for other in picked):
            picked.append(Candidate(name, record.values, record.metric, start))

    for record in complete:
        if len(picked) < search.confirm.top:
            add(trials.name(record), record, any(record.values == one.values for one in starts))
    for place, record in enumerate(starts):
        add(trials.name(record) if record.number >= 0 else f"start/{place}", record, True)
    supervised = best_of(search, baseline.records)
    if supervised is not None:
        picked.append(Candidate(baseline.name(supervised), supervised.values, supervised.metric, baseline=True))
    return picked


def start_points(search: SearchConfig, trials: TrialStore) -> list[TrialRecord]:
    """The first trials; those that the search did not get to have the number -1."""
    tried = trials.records[: len(search.start)]
    rest = [{key: values[key] for key in search.space} for values in search.start[len(tried) :]]
    return tried + [TrialRecord(-1, values, 0, "waiting") for values in rest]


class Compared(NamedTuple):
    """The chosen candidate beside another, by test."""

    other: Candidate
    by: Difference


class Answer(NamedTuple):
    """Of a confirmation, as far as it has got."""

    ranked: Sequence[Candidate]
    """Best first by val: who is still in the race before who has left it."""
    chosen: Candidate
    compared: Sequence[Compared]
    """With the start points and the baseline."""

    @property
    def beaten(self) -> bool:
        """Whether every start point was beaten; else the best of those that were not is chosen."""
        return not self.chosen.start


class Confirmation:
    """The race over the trials of a store.

    Args:
        splits: whether each seed draws labelled images of its own.
    """

    def __init__(
        self, search: SearchConfig, base: TrainConfig, field: Sequence[Candidate], store: TrialStore, splits: bool
    ) -> None:
        self.search, self.base, self.field, self.store, self.splits = search, base, field, store, splits
        self.seeds = [base.seed + 1 + number for number in range(search.confirm.most)]

    def runs(self, one: Candidate) -> dict[int, TrialRecord]:
        """Those that there are of a candidate, by seed."""
        return {record.values["seed"]: record for record in self.store.records if record.of == one.name}

    def runner(self, one: Candidate, role: str = "val") -> Runner:
        """What a candidate has reached in the runs that have ended.

        Args:
            role: val or test.
        """
        metric, scores = self.search.reported_metric if role == "test" else self.search.metric, {}
        runs = self.runs(one)
        for seed, record in runs.items():
            if record.ended:
                value = record.metrics.get(metric) if record.state == "complete" else None
                scores[seed] = None if value is None else self.search.sign * value
        failed = any(record.own_fault for record in runs.values())
        return Runner(scores, "baseline" if one.baseline else "start" if one.start else "candidate", failed)

    def runners(self, role: str = "val") -> list[Runner]:
        return [self.runner(one, role) for one in self.field]

    def standing(self) -> Standing:
        return standing(self.runners(), self.seeds, self.search.confirm.fewest)

    def enter(self) -> list[TrialRecord]:
        """The runs of the round that is due, all at once. Asked again while its last ones are at work: the next run of
        one of the first two, which are likely to need it, so that nothing stands idle."""
        now = self.standing()
        if now.decided:
            return []
        wanted = [(self.field[place], seed) for seed in self.seeds[: now.seeds] for place in now.inside]
        missing = [(one, seed) for one, seed in wanted if seed not in self.runs(one)]
        return [self.add(one, seed) for one, seed in missing or self.likely(now)]

    def likely(self, now: Standing) -> list[tuple[Candidate, int]]:
        """A run of the next round for one that is through with this one."""
        runners = self.runners()
        through = [place for place in now.inside if len(runners[place].scores) >= now.seeds and runners[place].known()]
        through.sort(key=lambda place: -runners[place].mean)
        following = self.seeds[now.seeds : now.seeds + 1]
        found = [(self.field[place], seed) for place in through[:2] for seed in following]
        return [(one, seed) for one, seed in found if seed not in self.runs(one)][:1]

    def add(self, one: Candidate, seed: int) -> TrialRecord:
        values = {**one.values, "seed": seed} | ({SPLIT_SEED: seed} if self.splits else {})
        return self.store.add(values, int(values.get("steps", self.base.steps)), "waiting", of=one.name)

    @property
    def most_runs(self) -> int:
        """That there can be in all, given who has left."""
        now = self.standing()
        left = 0 if now.decided else len(now.inside) * (len(self.seeds) - now.seeds)
        return max(len(self.store.records), len(self.field) * self.search.confirm.fewest) + left

    def answer(self) -> Answer | None:
        """None: nobody has a score."""
        runners, now = self.runners(), self.standing()
        by_mean = sorted(
            range(len(runners)), key=lambda at: (runners[at].failed, not runners[at].known(), -runners[at].mean)
        )
        inside = [place for place in now.inside if runners[place].known()] if now.decided else []
        inside = inside or [place for place in by_mean if runners[place].known() and not runners[place].failed]
        if not inside:
            return None
        best = choose(runners, inside)
        test = self.runners("test")
        of, chosen = noise(test), self.field[best]
        others = [place for place, one in enumerate(self.field) if (one.start or one.baseline) and place != best]
        compared = [Compared(self.field[place], difference(test[best], test[place], of)) for place in others]
        order = inside + [place for place in by_mean if place not in inside]
        return Answer([self.field[place] for place in order], chosen, compared)


def check_test(config: DataConfig, folder: Path) -> Data:
    """Read the images that a study is scored on; their names are stored now where test was not there when it began.

    Args:
        folder: of the study.

    Raises:
        UserError: the search has learnt from one of them, or chosen by it.
        DataError: one is missing or damaged.
    """
    splits = folder / SPLITS
    stored = read_splits(splits, stored_roles(splits))
    if "test" not in stored:
        names = load_data(config, ("test",)).roles()["test"].names
        used = {name: role for role, members in stored.items() for name in members}
        for name in names:
            if name in used:
                rule = "test must hold images that the search has not used"
                raise UserError(f"{config.root}: {rule}, but {name} was {used[name]}.")
        write_split(splits, "test", names)
    data = load_data_once(config, ("test",), splits)
    show_check(check_data(data, config, ("test",)))
    return data
