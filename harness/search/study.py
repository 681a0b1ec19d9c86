"""Runs or resumes a study: the search, then the best of it again from new seeds on test (the confirmation), then the
result."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ray

from harness import run_dir
from harness.atomic import write_text
from harness.cli.display import format_cost, format_metric, format_value, out, warn
from harness.cli.lifecycle import reopen_run, run_lifecycle
from harness.cli.options import CommonOptions
from harness.cli.signals import Interrupts
from harness.config.search import SearchConfig
from harness.config.train import TrainConfig, flatten, override, to_yaml
from harness.errors import RunFailed
from harness.run_dir import RunRecord
from harness.search import confirmation, plots, recovery, tables
from harness.search.confirmation import by_seed, log_candidates, plan, ranked, scored
from harness.search.progress import SearchProgress
from harness.search.scheduler import PruneAtReport
from harness.search.search_space import bounds, flatten_search, initial_points, search_parameters
from harness.search.searcher import OptunaSampler, ResumableSearcher
from harness.search.trial import TrialSetup
from harness.search.trial_store import Phase, TrialRecord, TrialStore
from harness.search.tuner import PhaseRun, run_phases
from harness.tracking import STORE_ERRORS, one_line
from harness.training.provenance import datasets

SPENT = "searched_seconds"


@dataclass
class Study:
    """One command's work on a study.

    Args:
        base: the configuration that all trials share.
        folder: with space.yaml and config.yaml.
        resume: the command that goes on with it.
        max_concurrent_trials: how many fit at a time.
        provenance: tags of the command, for every run that it makes.
    """

    search: SearchConfig
    base: TrainConfig
    folder: Path
    run_record: RunRecord
    resume: str
    interrupts: Interrupts
    max_concurrent_trials: int
    provenance: Mapping[str, str]

    def __post_init__(self) -> None:
        space_file = self.folder / "space.yaml"
        self.axes = search_parameters(self.search, self.base, space_file)
        self.total, self.points = initial_points(self.search, self.axes, space_file)
        self.trials, self.reruns = TrialStore(self.folder, "trials"), TrialStore(self.folder, "confirm")
        self.parent = reopen_run(self.run_record)  # which marks it as running: what may be refused comes before

    def run(self, options: CommonOptions) -> None:
        """Run or resume it; MLflow's runs are in their true states in the end, however it ends.

        Raises:
            Interrupted, RunFailed: as `run_lifecycle`.
        """
        with run_lifecycle(
            self.parent,
            self.run_record,
            self.folder,
            self.resume,
            close=self.close,
            progress=lambda: f" after {self.trials.ended} trials",
        ):
            self.interrupts.deferred = False
            self.interrupts.check()
            self.parent.load_logged_steps()
            self.restart_failed()
            self.parent.note(self.provenance)
            self.parent.params(flatten(self.base) | flatten_search(self.search))
            self.parent.files(self.folder, "space.yaml", "config.yaml")
            if not options.verbose:
                logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it prints the traceback of a failed trial
            verb = "resuming" if options.resume else "searching"
            tables.announce(verb, self.folder, self.search, self.total, self.longest, self.max_concurrent_trials)
            sought: dict[Phase, str] = {"trials": self.search.metric, "confirm": self.test_metric}
            given = self.base, self.folder, self.run_record, self.search.resources, sought, self.provenance
            run_phases(TrialSetup(*given), self.phases(), self.interrupts, self.max_concurrent_trials)

    def phases(self) -> Iterator[PhaseRun]:
        """What runs, one after the other; the result is reported when the last is over."""
        yield from self.run_search()
        if not self.conclude_search():
            self.fail("no trial got to a result", self.trials)
        yield from self.report_result()

    @property
    def longest(self) -> int:
        """Steps of the longest trial; `steps` itself may be searched over."""
        spec = self.search.space.get("steps")
        return self.base.steps if spec is None else max(bounds(spec))

    def fail(self, what: str, store: TrialStore) -> None:
        raise RunFailed(f"{what}; the most common reason, {tables.most_common_reason(store.records)}.")

    def restart_failed(self) -> None:
        """Begin anew what came to nothing: a whole phase, with the time that it took, or lost seeds of an answer."""
        budget = self.search.budget_minutes
        spent = budget is not None and self.spent_seconds() >= 60 * budget
        total, seeds = 0 if spent else self.total, "seed" in self.search.space and not spent
        for store, again in (
            (self.trials, recovery.to_restart(self.trials, total, seeds)),
            (self.reruns, recovery.to_restart(self.reruns, 0, True)),
        ):
            if store is self.trials and 0 < len(again) == len(store.records):
                (self.folder / SPENT).unlink(missing_ok=True)
            recovery.restart(store, again, self.run_record, self.parent)

    def spent_seconds(self) -> float:
        """Of searching, by earlier commands."""
        path = self.folder / SPENT
        return float(path.read_text()) if path.is_file() else 0.0

    # -- the search ---------------------------------------------------------------------------------------------------

    def run_search(self) -> Iterator[PhaseRun]:
        """All trials that have not ended yet."""
        search, store, started, before = self.search, self.trials, time.monotonic(), self.spent_seconds()
        left = float("inf") if search.budget_minutes is None else 60 * search.budget_minutes - before
        if store.ended < self.total and left > 0:
            sampler = OptunaSampler(
                self.axes,
                sampler=search.sampler,
                seed=search.seed,
                mode=search.mode,
                trials=self.total,
                points=self.points,
                records=store.records,
            )
            yield from self.run_phase(
                "trials",
                search.metric,
                sampler,
                PruneAtReport(store, search, started + left),
                best=self.best_text,
                reported=lambda: write_text(self.folder / SPENT, f"{before + time.monotonic() - started:.1f}"),
            )
        for record in store.records:
            if not record.ended:  # the time was up before it could go on
                assert time.monotonic() > started + left, "Ray Tune ended before its trials"
                store.end(record, "pruned")

    def run_phase(
        self,
        phase: Phase,
        metric: str,
        sampler: OptunaSampler | None,
        scheduler: PruneAtReport,
        *,
        best: Callable[[], str],
        reported: Callable[[], None] = lambda: None,
    ) -> Iterator[PhaseRun]:
        """The trials of a phase that have not ended."""
        store, search = scheduler.store, self.search
        total = self.total if phase == "trials" else len(store.records)
        retries = search.retries
        searcher = ResumableSearcher(store, sampler, total, self.base.steps, scheduler.deadline, retries)
        title, after = "search" if phase == "trials" else "confirm", partial(self.after_trial, phase)
        with SearchProgress(title, store, metric, total, best, reported, after, retries) as progress:
            yield PhaseRun(phase, searcher, scheduler, progress)

    def after_trial(self, phase: Phase, record: TrialRecord) -> None:
        """Log how many tries have failed, and the best so far as a curve over the number of trials that ended.

        Raises:
            MlflowException, SQLAlchemyError: the store is away. Without it no trial can go on: the study ends here.
        """
        if record.state == "waiting" or record.lost:
            failures = sum(len(one.failures) for store in (self.trials, self.reruns) for one in store.records)
            self.parent.tags({"harness.failed_tries": str(failures)})
        best = self.best()
        if phase == "trials" and record.ended and best is not None and best.metric is not None:
            self.parent.metrics(self.trials.ended, {f"best/{self.search.metric.removeprefix('val/')}": best.metric})
            self.parent.flush()

    def best(self) -> TrialRecord | None:
        return next(iter(ranked(self.search, self.trials.records)), None)

    def best_text(self) -> str:
        best = self.best()
        return "-" if best is None else f"{format_metric(best.metric)} (trial {best.number})"

    def conclude_search(self) -> bool:
        """Print and log the trials and the best configuration; whether there is one."""
        search, records, best = self.search, self.trials.records, self.best()
        tables.show_trials(search, records, self.folder / "trials.csv")
        tables.write_trials(self.folder / "trials.csv", search, records)
        self.parent.file(self.folder / "trials.csv")
        if best is None:
            return False
        if lost := tables.lost(records, "trials"):
            warn(f"{lost}; the study goes on without them")
        plots.log_plots(search, self.axes, records, self.folder, self.parent)
        tables.show_best(search, best)
        return True

    # -- the answer ---------------------------------------------------------------------------------------------------

    def report_result(self) -> Iterator[PhaseRun]:
        """Find the best configuration, confirmed if that is wanted; print it and write best.yaml."""
        search, best = self.search, self.best()
        assert best is not None
        if "seed" in search.space:
            candidates = by_seed(search, self.trials.records)
            tables.show_ablation(search, candidates)
            first = candidates[0]
            if not first.scores:
                self.fail("no trial ran to its end, so there is no mean over seeds", self.trials)
            out.print(f"not confirmed: these figures are on {search.metric}, by which the best point is chosen")
            log_candidates(self.parent, self.folder / "points.csv", candidates, search.metric, self.trials)
            self.print_result(f"best: {search.metric} {first.text} over {len(first.scores)} seeds", first.values)
            self.require_all_seeds(self.trials)
        elif search.confirm.wanted:
            yield from self.confirm()
        else:
            out.print(
                f"not confirmed: {search.metric} is what the trials were chosen by, from one seed, and flatters the "
                "best; confirm: {top: 3, seeds: 3} in the space file reruns them and scores them on test"
            )
            self.print_result(f"best: {search.metric} {format_metric(best.metric)}", best.values)

    @property
    def test_metric(self) -> str:
        return self.search.metric.replace("val/", "test/", 1)

    def confirm(self) -> Iterator[PhaseRun]:
        """Run the best again, from new seeds, and score them on test."""
        search, metric = self.search, self.test_metric
        self.parent.inputs(datasets(self.base, confirmation.check_test(self.base.data, self.folder)))
        self.parent.file(self.folder / run_dir.SPLITS / "test.txt", run_dir.SPLITS)
        plan(self.reruns, search, self.trials, self.base.seed, self.base.steps)
        total, seeds = len(self.reruns.records), search.confirm.seeds
        out.print(f"[bold]confirming[/]  {total} runs at full length over {seeds} new seed(s), on test")

        def best_text() -> str:
            first = scored(search, self.trials, self.reruns)[0]
            return f"{first.text} (trial {first.trial})" if first.scores else "-"

        if self.reruns.ended < total:
            yield from self.run_phase("confirm", metric, None, PruneAtReport(self.reruns, None), best=best_text)
        candidates = scored(search, self.trials, self.reruns)
        tables.show_candidates(search, candidates, metric)
        log_candidates(self.parent, self.folder / "confirm.csv", candidates, metric, self.reruns)
        winner = candidates[0]
        if not winner.scores:
            self.fail("no run of the confirmation got to its end", self.reruns)
        self.print_result(f"confirmed: {metric} {winner.text} over {len(winner.scores)} seed(s)", winner.values)
        start = next((one for one in candidates if one.start and one is not winner), None)
        if start is not None:
            out.print(f"the start point: {start.text}")
        self.require_all_seeds(self.reruns)

    def require_all_seeds(self, store: TrialStore) -> None:
        """
        Raises:
            RunFailed: some runs were lost by no fault of their own; a resumed study runs them again.
        """
        if lost := tables.lost(store.records, "runs"):
            raise RunFailed(f"{lost}. So the answer lacks seeds; once the cause is gone, run them with: {self.resume}")

    def print_result(self, line: str, values: Mapping[str, object]) -> None:
        """Write best.yaml, and say what was found and how to train with it."""
        path = self.folder / "best.yaml"
        write_text(path, to_yaml(override(self.base, values)))
        self.parent.file(path)
        found = ", ".join(f"{key} {format_value(value)}" for key, value in values.items())
        self.parent.tags({"harness.best": f"{line} with {found}"})
        out.print(f"[bold]{line}[/] with {found}")
        out.print(f"cost: {format_cost(tables.spent(self.search, self.trials, self.reruns))}")
        out.print(f"train with it:  python -m harness.train --config {run_dir.display_path(path)}")
        out.print("look at it all: python -m harness.ui")

    # -- MLflow's states ----------------------------------------------------------------------------------------------

    def close(self) -> str | None:
        """End what runs, then the MLflow runs whose trial was killed before it could; or why not, in one line."""
        self.interrupts.ignore_signals()
        ray.shutdown()
        self.parent.metrics(self.trials.ended + self.reruns.ended, tables.spent(self.search, self.trials, self.reruns))
        try:
            recovery.finish_children((self.trials, self.reruns), self.run_record)
        except STORE_ERRORS as error:
            return one_line(error)
        return None
