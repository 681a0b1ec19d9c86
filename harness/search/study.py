"""A command's work on a study, from Ray's start to MLflow's last state."""

import dataclasses
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
import yaml

from classmix_core.errors import DataError
from harness import run_dir
from harness.cli import command
from harness.cli.command import Interrupts, out
from harness.config.search import Resources, SearchConfig
from harness.config.train import TrainConfig, flatten
from harness.distributed.torch_trainer import connected, state_api_answers
from harness.errors import RunFailed, UserError
from harness.search import tables
from harness.search.phases import StudyRun
from harness.tracking import STORE_ERRORS, Run


def run_study(
    search: SearchConfig,
    base: TrainConfig,
    folder: Path,
    run_record: run_dir.RunRecord,
    options: Any,
    resume: str,
    interrupts: Interrupts,
    room: int,
) -> int:
    """Run or resume a study; leaves MLflow's runs in their true states however it ends."""
    work = StudyRun(search, base, folder, run_record, interrupts)
    run_dir.reopened(run_record)
    parent, status = work.parent, "FAILED"
    try:
        interrupts.deferred = False
        interrupts.check()
        parent.load_logged_steps()
        work.restart_failed()
        log_study(parent, search, base, folder)
        run_phases(work, options, room)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        out.print(f"interrupted after {work.trials.ended} trials; go on with: {resume}", markup=False)
        return command.INTERRUPTED
    except DataError as error:  # the test images are not there, or one is bad
        with suppress(*STORE_ERRORS):
            parent.failed(error)
        raise RunFailed(f"{error} Once the cause is gone, go on with: {resume}") from error
    except BaseException as error:
        command.err.print(f"failed; once the cause is gone, go on with: {resume}", markup=False)
        with suppress(*STORE_ERRORS):  # which may be the error
            parent.failed(error)
        raise
    finally:
        interrupts.ignore_signals()
        ray.shutdown()  # ends trials that still run, before their states are put right
        trouble = work.finish_children_or_reason("KILLED") or parent.finish_or_reason(status)
    if trouble:
        raise RunFailed(f"MLflow does not know of the end: {trouble} Once the cause is gone, go on with: {resume}")
    run_record.end(folder)
    return command.DONE


def run_phases(work: StudyRun, options: Any, room: int) -> None:
    """The search, its result, the answer."""
    if not options.verbose:
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # it prints the traceback of a failed trial
    work.max_concurrent_trials = room
    announce(work, options)
    work.run_search()
    if not work.conclude_search():
        reason = tables.most_common_reason(work.trials.records)
        raise RunFailed(f"no trial got to a result; the most common reason, {reason}")
    work.answer()


def log_study(run: Run, search: SearchConfig, base: TrainConfig, folder: Path) -> None:
    """The study's parameters, files and splits; once more when it is resumed, in case it was cut short."""
    shown = {key: value for key, value in dataclasses.asdict(search).items() if key not in ("train", "space", "start")}
    space = {
        f"space.{key}": yaml.safe_dump(spec, default_flow_style=True).strip() for key, spec in search.space.items()
    }
    run.params(flatten(base) | {f"search.{key}": value for key, value in shown.items()} | space)
    for name in ("space.yaml", "config.yaml"):
        run.file(folder / name)
    for path in sorted((folder / "splits").iterdir()):
        run.file(path, "splits")


@contextmanager
def ray_for(resources: Resources, options: Any) -> Iterator[int]:
    """Ray for a study, and how many trials fit at a time. One of our own has as many cores as a trial needs even where
    there are fewer.

    Raises:
        UserError: no cluster answers, it has no room for a trial, or trials of several workers would leak.
    """
    with connected(
        options.address,
        options.verbose,
        num_cpus=max(os.cpu_count() or 1, resources.all_cpus),
        include_dashboard=resources.workers_per_trial > 1,  # for the State API
    ):
        refuse_leaks(resources)
        yield max_concurrent_trials(resources)


def refuse_leaks(resources: Resources) -> None:
    if resources.workers_per_trial > 1 and not state_api_answers():
        raise UserError(
            "resources.workers: trials of several workers need Ray's State API, which frees what a killed trial leaves"
            f" behind, but it does not answer (is ray[default] installed?); got {resources.workers_per_trial}."
        )


def max_concurrent_trials(resources: Resources) -> int:
    """How many trials fit at a time."""
    fit = 0
    for node in ray.nodes():
        there = node["Resources"] if node["Alive"] else {}
        workers = int(there.get("CPU", 0) // resources.cpus)
        if resources.gpus:
            on_each = int(1 / resources.gpus + 1e-9) if resources.gpus < 1 else 1
            workers = min(workers, on_each * int(there.get("GPU", 0)))
        fit += workers
    if fit < resources.workers_per_trial:
        raise UserError(
            f"resources: {resources.workers_per_trial} worker(s) a trial asked for, but there is room for {fit}."
        )
    return fit // resources.workers_per_trial


def announce(work: StudyRun, options: Any) -> None:
    """Say what will run, and how many at a time."""
    search, each = work.search, work.search.resources
    verb = "resuming" if options.resume else "searching"
    stopping = "ASHA" if search.early_stopping else "no early stopping"
    budget = f", {search.budget_minutes:g} min at most" if search.budget_minutes else ""
    share_of = f"{each.all_cpus} core(s)" + (f" and {each.gpus:g} GPU" if each.gpus else "")
    group = f" in {each.workers_per_trial} workers" if each.workers_per_trial > 1 else ""
    out.print(
        f"[bold]{verb} {run_dir.display_path(work.folder)}[/]  {work.total} trials of up to {work.longest} steps over "
        f"{', '.join(search.space)}; {search.sampler}, {stopping}{budget}; "
        f"{work.max_concurrent_trials} at a time on {share_of} each{group}"
    )
