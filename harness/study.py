"""A search from the first trial to the best configuration."""

import csv
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from rich.table import Table

from harness import console, runs
from harness.cluster import connected
from harness.config import TrainConfig, flatten, override, to_yaml
from harness.console import out, share
from harness.scheduler import build_scheduler
from harness.searcher import BudgetAwareSearch, build_searcher, export_study, figures
from harness.space import Parameter, SearchConfig, bounds, parameters
from harness.tracking import TRIAL, Run, children
from harness.trial import Study, reason, run_trial
from harness.watcher import Follower, Outcome, Watcher, leaf, short

TUNE_FOLDER = "tune"


def run_study(
    search: SearchConfig, base: TrainConfig, folder: Path, record: runs.Record, options: Any, resume: str
) -> int:
    """Run or resume a search; leaves MLflow's runs in their true states however it ends."""
    axes = parameters(search, base, folder / "space.yaml")
    study = Study(base, axes, folder, record, search.resources.cpus, search.resources.gpus)
    parent = Run(record.tracking_uri, record.run_id)
    status, watcher = "FAILED", Watcher(search, study)
    try:
        parent.restart()
        with connected(options.address, options.verbose, num_cpus=max(os.cpu_count() or 1, search.resources.cpus)):
            announce(search, base, folder, options)
            with watcher:
                searcher = fit(search, study, resume=options.resume)
        if watcher.interrupted:
            raise KeyboardInterrupt
        close_children(study, watcher, "KILLED")
        code = conclude(search, study, watcher, searcher, parent, resume)
        status = "FINISHED" if code == console.DONE else "FAILED"
        return code
    except KeyboardInterrupt:
        status = "KILLED"
        out.print(f"interrupted after {watcher.count('complete', 'stopped', 'failed')} trials; go on with: {resume}")
        return console.INTERRUPTED
    except BaseException as error:
        parent.tags({"harness.reason": reason(error)})
        console.err.print(f"failed; once the cause is gone, go on with: {resume}", markup=False)
        raise
    finally:
        if status != "FINISHED":
            close_children(study, watcher, status)
        parent.finish(status)


def announce(search: SearchConfig, base: TrainConfig, folder: Path, options: Any) -> None:
    """Say what will run, and how many at a time."""
    there, each = ray.cluster_resources(), search.resources
    at_once = int(there.get("CPU", 0) // each.cpus)
    if each.gpus:
        at_once = min(at_once, int(there.get("GPU", 0) / each.gpus + 1e-9))
    verb = "resuming" if options.resume else "searching"
    stopping = "ASHA" if search.early_stopping else "no early stopping"
    share_of = f"{each.cpus} core(s)" + (f" and {each.gpus:g} GPU" if each.gpus else "")
    out.print(
        f"[bold]{verb} {runs.shown(folder)}[/]  {search.trials} trials of up to {base.steps} steps over "
        f"{', '.join(search.space)}; {search.sampler}, {stopping}; {at_once} at a time on {share_of} each"
    )


def fit(search: SearchConfig, study: Study, resume: bool) -> BudgetAwareSearch:
    """Let Tune run the trials; returns the searcher with all it learnt."""
    steps = longest(search, study.base)
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, study=study), {"cpu": study.cpus, "gpu": study.gpus}
    )
    home = study.folder / TUNE_FOLDER
    if resume and tune.Tuner.can_restore(str(home)):
        tuner = tune.Tuner.restore(str(home), trainable, resume_unfinished=True)
    else:
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                metric=search.metric,
                mode=search.mode,
                search_alg=build_searcher(search, study.axes, steps),
                scheduler=build_scheduler(search, study.folder, steps),
                num_samples=search.trials,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=TUNE_FOLDER,
                storage_path=str(study.folder),
                verbose=0,
                callbacks=[Follower()],
                failure_config=tune.FailureConfig(max_failures=0),
            ),
        )
    tuner.fit()
    return searcher_of(tuner)


def searcher_of(tuner: tune.Tuner) -> BudgetAwareSearch:
    searcher = tuner._local_tuner._tune_config.search_alg  # type: ignore[union-attr]
    assert isinstance(searcher, BudgetAwareSearch)
    return searcher


def longest(search: SearchConfig, base: TrainConfig) -> int:
    """Steps of the longest trial; `steps` itself may be searched over."""
    spec = search.space.get("steps")
    return base.steps if spec is None else max(bounds(spec))


def close_children(study: Study, watcher: Watcher, status: str) -> None:
    """End the MLflow runs whose trial was killed before it could do so itself."""
    record = study.record
    for run in children(record.tracking_uri, record.experiment_id, record.run_id):
        if run.info.status == "RUNNING":
            outcome = watcher.outcomes.get(run.data.tags.get(TRIAL, ""))
            failed = outcome is not None and outcome.state == "failed"
            Run(record.tracking_uri, run.info.run_id).finish("FAILED" if failed else status)


# -- the result -------------------------------------------------------------------------------------------------------


def conclude(
    search: SearchConfig, study: Study, watcher: Watcher, searcher: BudgetAwareSearch, parent: Run, resume: str
) -> int:
    """Print and log the trials, the best configuration and the plots."""
    outcomes = sorted(watcher.outcomes.values(), key=lambda outcome: outcome.number)
    best = watcher.best()
    show_trials(search, outcomes, best)
    write_trials(study.folder / "trials.csv", study.axes, search.metric, outcomes)
    parent.file(study.folder / "trials.csv")
    if best is None:
        console.err.print(f"failed: no trial got as far as an evaluation; their reasons: {runs.shown(study.folder)}")
        return console.FAILED
    best_config = override(study.base, best.values)
    best_file = study.folder / "best.yaml"
    best_file.write_text(to_yaml(best_config))
    parent.file(best_file)
    parent.tags({"harness.best_trial": str(best.number)})
    log_insight(search, study, searcher, parent)
    study.record.end(study.folder)
    show_best(search, study, best, best_file)
    return console.DONE


def show_trials(search: SearchConfig, outcomes: Sequence[Outcome], best: Outcome | None) -> None:
    table = Table(title="trials")
    for name in ("trial", *(leaf(key) for key in search.space), search.metric, "steps", "", "time"):
        table.add_column(name, justify="right")
    sign = -1 if search.mode == "max" else 1
    ranked = sorted(outcomes, key=lambda one: (one.state != "complete", sign * (one.metric or -sign * math.inf)))
    for outcome in ranked:
        values = [short(value) for value in outcome.values.values()]
        row = [str(outcome.number), *values, share(outcome.metric), str(outcome.step), outcome.state]
        table.add_row(*row, f"{outcome.seconds:.0f} s", style="bold green" if outcome is best else None)
    out.print(table)


def write_trials(path: Path, axes: Sequence[Parameter], metric: str, outcomes: Sequence[Outcome]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", *(axis.key for axis in axes), metric, "steps", "state", "seconds"])
        for one in outcomes:
            values = [one.values[axis.key] for axis in axes]
            writer.writerow([one.number, *values, one.metric, one.step, one.state, round(one.seconds, 1)])


def log_insight(search: SearchConfig, study: Study, searcher: BudgetAwareSearch, parent: Run) -> None:
    """optuna.visualization's plots, and a database for optuna-dashboard."""
    path = study.folder / "optuna.db"
    exported = export_study(path, study.folder.name, search.mode, searcher.finished())
    parent.file(path)
    for name, figure in figures(exported).items():
        parent.figure(f"plots/{name}.html", figure)


def show_best(search: SearchConfig, study: Study, best: Outcome, best_file: Path) -> None:
    flat = flatten(override(study.base, best.values))
    found = ", ".join(f"{key} {short(flat[key])}" for key in search.space)
    out.print(f"[bold]best: {search.metric} {share(best.metric)}[/] (trial {best.number}) with {found}")
    out.print(f"its IoU on val: {', '.join(f'{name} {share(iou)}' for name, iou in best.class_iou.items())}")
    out.print(f"train with it:  python -m harness.train --config {runs.shown(best_file)}")
    out.print("look at it all: python -m harness.ui")
