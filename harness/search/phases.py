"""The phases of a study: the search, its result, the confirmation, the answer."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import tune

from classmix_core.data import check_data
from harness import run_dir
from harness.atomic import atomic_file
from harness.cli import command
from harness.cli.command import Interrupts, format_metric, out
from harness.config.search import SearchConfig
from harness.config.train import TrainConfig, override, to_yaml
from harness.errors import RunFailed
from harness.search import tables
from harness.search.confirmation import Candidate, by_seed, plan, ranked, scored, write_candidates
from harness.search.progress import ProgressCallback, SearchProgress, short
from harness.search.scheduler import StopAtReport, build_scheduler
from harness.search.search_space import SearchParameter, bounds, initial_points, search_parameters
from harness.search.searcher import FixedPlan, OptunaSampler, ResumableSearcher
from harness.search.trial import Study, run_trial
from harness.search.trial_store import TrialRecord, TrialStore
from harness.tracking import REASON, STORE_ERRORS, TRIAL, MlflowException, Run, children, one_line
from harness.training.trainer import load_data_once

TUNE_FOLDER = "tune"
SPENT = "searched_seconds"


class StudyRun:
    """One command's work on a study: what it is given, and the two phases."""

    def __init__(
        self,
        search: SearchConfig,
        base: TrainConfig,
        folder: Path,
        run_record: run_dir.RunRecord,
        interrupts: Interrupts,
    ) -> None:
        self.search, self.base, self.folder, self.run_record = search, base, folder, run_record
        self.interrupts = interrupts
        self.axes: Sequence[SearchParameter] = search_parameters(search, base, folder / "space.yaml")
        self.total, self.points = initial_points(search, self.axes, folder / "space.yaml")
        self.study = Study(base, folder, run_record, search.resources, search.metric)
        self.parent = Run(run_record.tracking_uri, run_record.run_id)
        self.trials, self.reruns = TrialStore(folder, "trials"), TrialStore(folder, "confirm")
        self.max_concurrent_trials = 1

    @property
    def longest(self) -> int:
        """Steps of the longest trial; `steps` itself may be searched over."""
        spec = self.search.space.get("steps")
        return self.base.steps if spec is None else max(bounds(spec))

    def restart_failed(self) -> None:
        """Begin a phase anew of which nothing came; MLflow's runs of it go, and so does the time that it took."""
        spent = self.search.budget_minutes is not None and spent_seconds(self.folder) >= 60 * self.search.budget_minutes
        for store, total in ((self.trials, self.total), (self.reruns, 0)):
            known = len(store.records)
            if not 0 < known == store.count("failed") or (known < total and not spent):
                continue
            for run in self.children():
                if run.data.tags.get(TRIAL, "").startswith(f"{store.phase}/"):
                    self.parent.client.delete_run(run.info.run_id)
            if store is self.trials:
                (self.folder / SPENT).unlink(missing_ok=True)
            store.restart_failed()

    # -- the search ---------------------------------------------------------------------------------------------------

    def run_search(self) -> None:
        """All trials that have not ended yet."""
        search, store, started = self.search, self.trials, time.monotonic()
        left = float("inf")
        if search.budget_minutes is not None:
            left = 60 * search.budget_minutes - spent_seconds(self.folder)
        deadline = started + left
        sampler = OptunaSampler(
            self.axes,
            sampler=search.sampler,
            seed=search.seed,
            mode=search.mode,
            trials=self.total,
            points=self.points,
            records=store.records,
        )
        searcher = ResumableSearcher(store, sampler, self.total, self.base.steps, deadline)
        scheduler = build_scheduler(search, store, self.longest, deadline)
        before = spent_seconds(self.folder)

        def tick() -> None:
            with atomic_file(self.folder / SPENT) as part:
                part.write_text(f"{before + time.monotonic() - started:.1f}")

        if store.ended < self.total and left > 0:
            with SearchProgress(
                "search", store, search.metric, self.total, self.best_text, self.interrupts, tick, self.log_best
            ):
                self.tune(self.study, searcher, scheduler, self.total - store.ended)
        for record in store.records:
            if not record.ended:  # the time was up before it could go on
                assert time.monotonic() > deadline, "Ray Tune ended before its trials"
                store.end(record, "pruned")

    def log_best(self) -> None:
        """A point of the best-so-far curve in the parent run: its step is the number of trials that ended."""
        best = self.best()
        if best is None or best.metric is None:
            return
        self.parent.metrics(self.trials.ended, {f"best/{self.search.metric.removeprefix('val/')}": best.metric})
        try:
            self.parent.flush()
        except MlflowException as error:  # a point of a curve is not worth a search
            command.err.print(f"warning: MLflow did not take it: {str(error).splitlines()[0]}", markup=False)

    def best(self) -> TrialRecord | None:
        return next(iter(ranked(self.search, self.trials.records)), None)

    def best_text(self) -> str:
        best = self.best()
        return "-" if best is None else f"{format_metric(best.metric)} (trial {best.number})"

    def tune(self, study: Study, searcher: ResumableSearcher, scheduler: StopAtReport, trials: int) -> None:
        """Let Tune run trials; it keeps nothing that we need."""
        resources = study.resources
        needed: dict[str, float] = {"cpu": resources.cpus, "gpu": resources.gpus}
        if (
            resources.workers_per_trial > 1
        ):  # the trainer inside reserves for its workers; the trial's own actor takes nothing
            needed = {"node:__internal_head__": 0.001}
        home = self.folder / TUNE_FOLDER
        shutil.rmtree(home, ignore_errors=True)
        tune.Tuner(
            tune.with_resources(tune.with_parameters(run_trial, study=study), needed),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=trials,
                max_concurrent_trials=self.max_concurrent_trials,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=TUNE_FOLDER,
                storage_path=str(self.folder),
                verbose=0,
                callbacks=[ProgressCallback()],
                failure_config=tune.FailureConfig(max_failures=0),
            ),
        ).fit()
        shutil.rmtree(home, ignore_errors=True)

    def conclude_search(self) -> bool:
        """Print and log the trials and the best configuration; whether there is one."""
        search, records, best = self.search, self.trials.records, self.best()
        tables.show_trials(search, records)
        tables.write_trials(self.folder / "trials.csv", search, records)
        self.parent.file(self.folder / "trials.csv")
        if best is None:
            return False
        tables.log_insight(search, self.axes, records, self.folder, self.parent)
        found = ", ".join(f"{key} {short(value)}" for key, value in best.values.items())
        out.print(
            f"best of the search: {search.metric} {format_metric(best.metric)} (trial {best.number}) with {found}"
        )
        ious = {key.removeprefix("val/iou/"): iou for key, iou in best.metrics.items() if key.startswith("val/iou/")}
        out.print(f"its IoU on val: {', '.join(f'{name} {format_metric(iou)}' for name, iou in ious.items())}")
        return True

    # -- the answer ---------------------------------------------------------------------------------------------------

    def answer(self) -> None:
        """Find the configuration that the user came for, and write it to best.yaml."""
        search = self.search
        if "seed" in search.space:
            candidates = by_seed(search, self.trials.records)
            best = candidates[0]
            tables.show_ablation(search, candidates)
            if not best.scores:
                raise RunFailed("no trial ran to its end, so there is no mean over seeds")
            out.print(f"not confirmed: these figures are on {search.metric}, by which the best point is chosen")
            self.log_candidates(candidates, search.metric, "points.csv")
            self.write_best(best.values)
            self.print_result(f"best: {search.metric} {best.text} over {len(best.scores)} seeds", best)
            return
        if search.confirm.wanted:
            self.confirm()
            return
        found = self.best()
        assert found is not None
        self.write_best(found.values)
        out.print(
            f"not confirmed: {search.metric} is what the trials were chosen by, from one seed, and flatters the best;"
            " confirm: {top: 3, seeds: 3} in the space file reruns them and scores them on test"
        )
        self.print_result(f"best: {search.metric} {format_metric(found.metric)}", Candidate(found.values, ()))

    def confirm(self) -> None:
        search, metric = self.search, self.search.metric.replace("val/", "test/", 1)
        data = load_data_once(self.base.data, ("test",))
        command.checking(check_data(data, self.base.data, ("test",)))
        plan(self.reruns, search, self.trials, self.base.seed, self.base.steps)
        total = len(self.reruns.records)
        out.print(f"[bold]confirming[/]  {total} runs at full length over {search.confirm.seeds} new seed(s), on test")

        def best_text() -> str:
            first = scored(search, self.trials, self.reruns)[0]
            return f"{first.text} (trial {first.trial})" if first.scores else "-"

        study = Study(self.base, self.folder, self.run_record, search.resources, metric, "confirm")
        searcher = ResumableSearcher(self.reruns, FixedPlan(), total, self.base.steps)
        if self.reruns.ended < total:
            with SearchProgress("confirm", self.reruns, metric, total, best_text, self.interrupts):
                self.tune(study, searcher, StopAtReport(self.reruns, None), total - self.reruns.ended)
        candidates = scored(search, self.trials, self.reruns)
        tables.show_candidates(search, candidates, metric)
        self.log_candidates(candidates, metric, "confirm.csv")
        winner = candidates[0]
        if not winner.scores:
            reason = tables.most_common_reason(self.reruns.records)
            raise RunFailed(f"no run of the confirmation got to its end; the most common reason, {reason}")
        self.write_best(winner.values)
        start = next((one for one in candidates if one.start and one is not winner), None)
        self.print_result(f"confirmed: {metric} {winner.text} over {len(winner.scores)} seed(s)", winner)
        if start is not None:
            out.print(f"the start point: {start.text}")

    def log_candidates(self, candidates: Sequence[Candidate], metric: str, file: str) -> None:
        """The table as CSV; the winner's and the start point's figures as metrics of the parent run."""
        write_candidates(self.folder / file, candidates)
        self.parent.file(self.folder / file)
        figures = {}
        named = {"winner": candidates[0], "start": next((one for one in candidates if one.start), None)}
        for name, one in named.items():
            if one is not None and one.scores:
                figures[f"{name}/{metric}/mean"] = one.mean
                figures[f"{name}/{metric}/seeds"] = float(len(one.scores))
                figures |= {} if one.std is None else {f"{name}/{metric}/std": one.std}
        self.parent.metrics(0, figures)
        self.parent.flush()

    def write_best(self, values: Any) -> None:
        path = self.folder / "best.yaml"
        path.write_text(to_yaml(override(self.base, values)))
        self.parent.file(path)

    def print_result(self, line: str, winner: Candidate) -> None:
        found = ", ".join(f"{key} {short(value)}" for key, value in winner.values.items())
        self.parent.tags({"harness.best": f"{line} with {found}"})
        out.print(f"[bold]{line}[/] with {found}")
        out.print(f"train with it:  python -m harness.train --config {run_dir.display_path(self.folder / 'best.yaml')}")
        out.print("look at it all: python -m harness.ui")

    # -- MLflow's states ----------------------------------------------------------------------------------------------

    def finish_children_or_reason(self, status: str) -> str | None:
        """End the MLflow runs whose trial was killed before it could do so itself; or why not, in one line."""
        try:
            self.close_children(status)
        except STORE_ERRORS as error:
            return one_line(error)
        return None

    def close_children(self, status: str) -> None:
        known = {
            f"{store.phase}/{record.number:03d}": record
            for store in (self.trials, self.reruns)
            for record in store.records
        }
        for found in self.children():
            run, record = (
                Run(self.run_record.tracking_uri, found.info.run_id),
                known.get(found.data.tags.get(TRIAL, "")),
            )
            if found.info.status not in ("RUNNING", "KILLED"):
                continue
            if record is not None and record.state == "failed":
                run.tags({REASON: record.reason or ""})
                run.finish("FAILED")
            elif record is not None and record.ended:  # killed after its last report
                run.finish("FINISHED")
            elif found.info.status == "RUNNING":
                run.finish(status)

    def children(self) -> list[Any]:
        return children(self.run_record.tracking_uri, self.run_record.experiment_id, self.run_record.run_id)


def spent_seconds(folder: Path) -> float:
    """Of searching, by earlier commands."""
    path = folder / SPENT
    return float(path.read_text()) if path.is_file() else 0.0
