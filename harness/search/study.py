"""Runs or resumes a study: the search, the baseline, the race of the best from new seeds (the confirmation), and its
answer."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

from harness import run_dir
from harness.cli.display import format_metric, out
from harness.cli.lifecycle import reopen_run, run_lifecycle
from harness.cli.options import CommonOptions
from harness.cli.signals import Interrupts
from harness.config.search import UNLABELLED_WEIGHT, SearchConfig, draws_splits
from harness.config.train import TrainConfig, Values, flatten
from harness.distributed.heartbeat import disconnect
from harness.run_dir import RunRecord
from harness.search import recovery, tables
from harness.search.confirmation import Confirmation, best_of, candidates, check_test
from harness.search.eta import PRUNED_SHARE, SHARE_OF_RACE, Expected, TimeLeft
from harness.search.limits import Limits, NoLimits
from harness.search.progress import SearchProgress
from harness.search.report import Report
from harness.search.scheduler import PruneAtReport
from harness.search.search_space import (
    SearchParameter,
    bounds,
    flatten_search,
    initial_points,
    search_parameters,
    supervised_axes,
    supervised_points,
)
from harness.search.searcher import OptunaSampler, ResumableSearcher
from harness.search.trial import TITLES, TrialSetup
from harness.search.trial_store import Phase, TrialRecord, TrialStore
from harness.search.tuner import PhaseRun, run_phases
from harness.search.warm_start import Known, known_trials
from harness.tracking.experiment import views
from harness.tracking.patience import is_passing, one_line
from harness.training.provenance import datasets

Runner = Callable[[TrialSetup, Iterator[PhaseRun], Interrupts, Callable[[], int]], None]


@dataclass
class Study:
    """One command's work on a study.

    Args:
        base: the configuration that all trials share.
        folder: with space.yaml and config.yaml.
        resume: the command that goes on with it.
        max_concurrent_trials: how many fit at a time, which may change.
        provenance: tags of the command, for every run that it makes.
        runner: runs the trials of all phases; by default Ray Tune, else no training is real.
    """

    search: SearchConfig
    base: TrainConfig
    folder: Path
    run_record: RunRecord
    resume: str
    interrupts: Interrupts
    max_concurrent_trials: Callable[[], int]
    provenance: Mapping[str, str]
    runner: Runner = run_phases

    def __post_init__(self) -> None:
        space_file = self.folder / "space.yaml"
        self.axes = search_parameters(self.search, self.base, space_file)
        self.total, self.points = initial_points(self.search, self.axes, space_file)
        self.trials, self.baseline, self.reruns = self.stores = [
            TrialStore(self.folder, phase) for phase in get_args(Phase)
        ]
        self.limits = Limits(self.search, self.trials, self.folder)
        self.parent = reopen_run(
            self.run_record, self.folder
        )  # which marks it as running: what may be refused comes before
        known = self.search, self.base, self.axes, self.folder, self.parent, self.run_record.experiment_id
        self.report = Report(*known, self.resume, self.stores)
        self.race: Confirmation | None = None
        self.time_left = TimeLeft(self.expected)

    def run(self, options: CommonOptions) -> None:
        """Run or resume it; MLflow's runs are in their true states in the end, however it ends.

        Raises:
            Interrupted, RunFailed: as `run_lifecycle`.
        """
        ended = self.parent, self.run_record, self.folder, self.resume
        with run_lifecycle(*ended, close=self.close, progress=lambda: f" after {self.trials.ended} trials"):
            self.interrupts.deferred = False
            self.interrupts.check()
            self.restart_failed()
            self.parent.note(self.provenance)
            self.parent.params(flatten(self.base) | flatten_search(self.search))
            columns = list(self.search.space), [self.search.metric, self.search.reported_metric]
            shown = views(*columns, self.search.mode == "min")
            self.parent.experiment_tags(self.run_record.experiment_id, shown)
            self.parent.files(self.folder, "space.yaml", "config.yaml")
            if not options.verbose:
                logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it prints the traceback of a failed trial
            verb = "resuming" if options.resume else "searching"
            tables.announce(verb, self.folder, self.search, self.total, self.longest, self.max_concurrent_trials())
            given = self.base, self.folder, self.run_record, self.search.resources, self.search.metric, self.provenance
            self.runner(TrialSetup(*given), self.phases(), self.interrupts, self.max_concurrent_trials)

    def phases(self) -> Iterator[PhaseRun]:
        """What runs, one after the other, each reported when it is over.

        Raises:
            RunFailed: nothing came of one of them, or the answer lacks seeds.
        """
        yield from self.run_search()
        best = self.report.trials(self.trials)
        if "seed" in self.search.space:
            self.report.ablation(self.trials)
        elif not self.search.confirm.wanted:
            self.report.unconfirmed(best)
        else:
            yield from self.run_baseline()
            yield from self.confirm()

    @property
    def longest(self) -> int:
        """Steps of the longest trial; `steps` itself may be searched over."""
        spec = self.search.space.get("steps")
        return self.base.steps if spec is None else max(bounds(spec))

    def expected(self) -> list[Expected]:
        search, confirm = self.search, self.search.confirm
        share = 1.0 if search.early_stopping is None else PRUNED_SHARE
        found = [Expected(self.trials, self.planned(), share * self.longest)]
        if confirm.wanted:
            found.append(Expected(self.baseline, self.baseline_trials, share * self.longest))
            field = confirm.top + len(search.start) + (self.baseline_trials > 0)
            runs = field * (confirm.fewest + SHARE_OF_RACE * (confirm.most - confirm.fewest))
            if self.race is not None:
                decided, known = self.race.standing().decided, len(self.reruns.records)
                runs = known if decided else min(max(runs, known), self.race.most_runs)
            found.append(Expected(self.reruns, runs, self.longest))
        return found

    @property
    def baseline_trials(self) -> int:
        """None where all trials do without unlabelled images, one where no axis means anything then."""
        if self.base.ssl.unlabelled_weight == 0 and UNLABELLED_WEIGHT not in self.search.space:
            return 0
        wanted = self.search.baseline_trials(self.total)
        return wanted if supervised_axes(self.axes) else min(1, wanted)

    def restart_failed(self) -> None:
        """Begin anew what came to nothing: a whole phase, with the time that it took, or lost seeds of an answer."""
        spent = self.limits.spent()
        total, seeds = 0 if spent else self.total, "seed" in self.search.space and not spent
        for store, again in (
            (self.trials, recovery.to_restart(self.trials, total, seeds)),
            (self.baseline, recovery.to_restart(self.baseline, self.baseline_trials, False)),
            (self.reruns, recovery.to_restart(self.reruns, 0, True)),
        ):
            if store is self.trials and 0 < len(again) == len(store.records):
                self.limits.begin_anew()
            recovery.restart(store, again, self.run_record)

    # -- the search ---------------------------------------------------------------------------------------------------

    def run_search(self) -> Iterator[PhaseRun]:
        """All trials that have not ended yet."""
        search, store, limits = self.search, self.trials, self.limits
        if store.ended < self.total and not limits.spent():
            sampler = self.sampler(store, self.axes, self.total, self.points, known=known_trials(search, self.axes))
            yield from self.run_phase(store, self.planned, sampler, self.best_text(store), limits=limits)
        for record in store.records:
            if not record.ended:  # the budget was spent before it could go on
                assert limits.spent(), "Ray Tune ended before its trials"
                store.end(record, "pruned")
        if limits.settled() and store.ended < self.total:
            out.print(f"no gain in {search.stop.patience} trials: the search ends after {store.ended} of {self.total}")

    def planned(self) -> int:
        """How many trials the search will have, as far as is known."""
        return len(self.trials.records) if self.limits.settled() else self.total

    def sampler(
        self,
        store: TrialStore,
        axes: Sequence[SearchParameter],
        trials: int,
        points: Sequence[Values],
        fixed: Values | None = None,
        known: Known | None = None,
    ) -> OptunaSampler:
        search = self.search
        return OptunaSampler(
            axes,
            sampler=search.sampler,
            seed=search.seed,
            mode=search.mode,
            trials=trials,
            points=points,
            records=store.records,
            fixed=fixed,
            known=known,
        )

    def run_phase(
        self,
        store: TrialStore,
        total: Callable[[], int],
        sampler: OptunaSampler | None,
        best: Callable[[], str],
        *,
        limits: Limits | None = None,
        enter: Callable[[], list[TrialRecord]] = list,
    ) -> Iterator[PhaseRun]:
        """The trials of a phase that have not ended."""
        search, after, given = self.search, partial(self.after_trial, store), limits or NoLimits()
        scheduler = PruneAtReport(store, search if sampler else None, given.spent)
        trials = self.total if store is self.trials else total()
        searcher = ResumableSearcher(store, sampler, trials, self.base.steps, search.retries, given, enter)
        shown = TITLES[store.phase], store, search.metric, total, best, self.time_left
        with SearchProgress(*shown, given.note, after, search.retries) as progress:
            yield PhaseRun(store.phase, searcher, scheduler, progress)

    def after_trial(self, store: TrialStore, record: TrialRecord) -> None:
        """Log how many tries have failed, and the best so far as a curve over the number of trials that ended."""
        if record.state == "waiting" or record.lost:
            failures = sum(len(one.failures) for each in self.stores for one in each.records)
            self.parent.tags({"harness.failed_tries": str(failures)})
        best = best_of(self.search, store.records)
        if store is self.trials and record.ended and best is not None and best.state == "complete":
            assert best.metric is not None
            self.parent.metrics(store.ended, {f"best/{self.search.metric.removeprefix('val/')}": best.metric})

    def best_text(self, store: TrialStore) -> Callable[[], str]:
        def text() -> str:
            best = best_of(self.search, store.records)
            return "-" if best is None else f"{format_metric(best.metric)} (trial {best.number})"

        return text

    # -- the answer ---------------------------------------------------------------------------------------------------

    def run_baseline(self) -> Iterator[PhaseRun]:
        """The same without unlabelled images, over the axes that mean something there."""
        store, total, axes = self.baseline, self.baseline_trials, supervised_axes(self.axes)
        if not total:
            out.print("no baseline: nothing will be said of what unlabelled images are worth")
        if store.ended >= total:
            return
        points = supervised_points(self.search.start, self.axes)[:total]
        out.print(f"[bold]baseline[/]  {total} trials without unlabelled images")
        sampler = self.sampler(store, axes, total, points, {UNLABELLED_WEIGHT: 0.0})
        yield from self.run_phase(store, lambda: total, sampler, self.best_text(store))

    def confirm(self) -> Iterator[PhaseRun]:
        """Race the best from new seeds, and score them on test."""
        search, store = self.search, self.reruns
        if self.runner is run_phases:
            self.parent.inputs(datasets(self.base, check_test(self.base.data, self.folder)))
            self.parent.file(self.folder / run_dir.SPLITS / "test.txt", run_dir.SPLITS)
        field, splits = candidates(search, self.trials, self.baseline), draws_splits(search, self.base.data)
        race = self.race = Confirmation(search, self.base, field, store, splits)
        own = ", each with labelled images of its own" if splits else ""
        fewest, most = search.confirm.fewest, search.confirm.most
        seeds = f"{most}" if fewest == most else f"{fewest} to {most}"
        out.print(f"[bold]confirming[/]  {len(field)} configurations race at full length over {seeds} new seeds{own}")

        def best() -> str:
            answer = race.answer()
            if answer is None:
                return "-"
            return f"{tables.format_mean(search, race.runner(answer.chosen))} ({tables.label(answer.chosen)})"

        if store.ended < len(store.records) or not race.standing().decided:
            yield from self.run_phase(store, lambda: race.most_runs, None, best, enter=race.enter)
        self.report.answer(race)

    # -- MLflow's states ----------------------------------------------------------------------------------------------

    def close(self) -> str | None:
        """End what runs, then the MLflow runs whose trial was killed before it could; or why not yet, in one line."""
        self.interrupts.ignore_signals()
        disconnect()
        self.parent.metrics(sum(store.ended for store in self.stores), tables.spent(self.search, *self.stores))
        lacking = self.parent.settle() or recovery.send_kept(self.stores, self.parent.uri)
        if lacking is None:
            try:
                recovery.finish_children(self.stores, self.run_record)
            except Exception as error:
                if not is_passing(error, self.parent.uri):
                    raise
                lacking = one_line(error)
        return lacking
