"""Runs one trial, in a Ray Tune actor that is used again for the next; one of several workers starts a TorchTrainer."""

import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from ray import tune

from classmix_core.data import load_data
from classmix_core.errors import DataError, InvalidValue
from harness import run_dir
from harness.atomic import write_text
from harness.cli.display import format_value, last_key
from harness.config.search import SPLIT_SEED, UNLABELLED_WEIGHT, Resources
from harness.config.train import TrainConfig, flatten, override, to_yaml
from harness.errors import RunFailed, TrainingError, TrialPruned, UserError, first_cause, is_no_room
from harness.search.searcher import NUMBER
from harness.search.trial_store import Phase, TrialRecord, read_trial, trial_name
from harness.storage import is_remote, locked
from harness.tracking.names import DESCRIPTION, PARENT, RUN_ID, TRIAL, repeated_by
from harness.tracking.patience import MLFLOW_ERRORS, one_line
from harness.tracking.run import HAND_OVER, Run
from harness.training.context import TrialContext
from harness.training.trainer import Purpose, TrainJob, train

REUSABLE_AFTER = (RunFailed, UserError, DataError, InvalidValue, torch.OutOfMemoryError, MemoryError, *MLFLOW_ERRORS)
"""After these a process is as good as before; after any other error it is replaced."""
SPLIT_KEYS = {
    f"data.{name}" for name in ("name", "root", "labelled", "split_file", "split_seed", "holdout", "extra_unlabelled")
}
"""Axes over which the images of a role differ from trial to trial; else all trials use those of the study."""
OWN_FAULTS = (TrainingError, UserError, InvalidValue, DataError)
"""After these a trial would fail again; after any other error, as after the death of its process, it is tried again."""
TITLES: Mapping[Phase, str] = {"trials": "trial", "baseline": "baseline", "confirm": "confirmation"}
PHASE = "phase"
"""Under which Tune passes on the phase of a trial, beside its number."""
FAILED, OWN_FAULT, NO_ROOM = "failed", "own_fault", "no_room"
"""Under which a trial reports why it failed, whether by its own fault, and whether the disk is full."""


@dataclass(frozen=True)
class TrialSetup:
    """What every trial is given."""

    base: TrainConfig
    folder: Path
    run_record: run_dir.RunRecord
    resources: Resources
    metric: str
    """What is sought, of val."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Tags of the command that runs the trials."""


def run_trial(given: Mapping[str, Any], setup: TrialSetup) -> None:
    """Train one configuration, reporting each evaluation; goes on from its checkpoint if it has one."""
    phase: Phase = given[PHASE]
    folder = setup.folder / trial_name(phase, given[NUMBER])
    torch.set_num_threads(setup.resources.cpus)
    with trial_lock(folder):
        record = read_trial(folder)
        if record.prune:  # killed between that decision and the end
            return
        run, status = None, "FAILED"
        try:
            config = override(setup.base, record.values)
            run = open_trial_run(setup, phase, record, config)
            purpose: Purpose = "confirmation" if phase == "confirm" else "trial"
            splits = setup.folder / run_dir.SPLITS
            job = TrainJob(config, folder, setup.run_record.tracking_uri, None, purpose, splits)
            if SPLIT_KEYS & record.values.keys():
                job = with_own_splits(job, setup)
            train_trial(job, setup, lambda metrics: report(metrics, setup.metric, folder))
            status = "FINISHED"
        except TrialPruned:
            status = "FINISHED"
        except Exception as error:
            # before all that may fail for the same reason
            full = first_cause(error, is_no_room) is not None
            tune.report({FAILED: one_line(error), OWN_FAULT: is_own_fault(error), NO_ROOM: full})
            if run:
                with suppress(Exception):  # of MLflow, which may be the error
                    run.failed(error)
                    run.text("traceback.txt", traceback.format_exc())
            if not isinstance(error, REUSABLE_AFTER):
                raise
        finally:
            if run:
                with suppress(Exception):  # of MLflow; the driver puts the run's state right
                    run.finish(status)
                    run.close()
            if setup.resources.gpus:
                torch.cuda.empty_cache()  # a neighbour may need it


def is_own_fault(error: Exception) -> bool:
    """Not where the system has refused to read or write: that may pass."""
    return isinstance(error, OWN_FAULTS) and first_cause(error, lambda one: isinstance(one, OSError)) is None


def with_own_splits(job: TrainJob, setup: TrialSetup) -> TrainJob:
    """For a trial whose axes change the split: lists of images of its own, stored when it first starts.

    Raises:
        RunFailed: the data set is not that of the study any more. It may be again when the trial is tried once more.
    """
    from harness.cli.preflight import check_same_images

    splits = job.folder / run_dir.SPLITS
    if not set(job.roles) <= set(run_dir.stored_roles(splits)):  # which are written last
        try:
            check_same_images(setup.base, setup.folder, "the same search under another --name")
        except UserError as error:
            raise RunFailed(str(error)) from error
        run_dir.write_splits(job.folder, load_data(job.config.data, job.roles))
    return replace(job, splits=splits)


def train_trial(job: TrainJob, setup: TrialSetup, tell: Callable[[dict[str, float]], bool]) -> None:
    resources = setup.resources
    if resources.workers_per_trial > 1:
        from harness.distributed.torch_trainer import train_trial_on_workers

        train_trial_on_workers(job, resources, tell)
        return
    device = torch.device("cuda", 0) if resources.gpus else torch.device("cpu")
    share = min(resources.gpus, 1.0)
    if 0 < share < 1:
        cap_memory(share, device)
    train(job, TrialContext(device, show=lambda progress: None, gpu_share=share, tell=tell))


def cap_memory(share: float, device: torch.device) -> None:
    """Let this process have no more of a GPU's memory than its share: if it wants more, it fails alone, and takes along
    no neighbour on the same GPU."""
    torch.cuda.set_per_process_memory_fraction(share, device)


def report(metrics: dict[str, float], sought: str, folder: Path) -> bool:
    """Tell Tune, which has decided when this returns; whether the trial shall go on.

    Raises:
        TrainingError: what is sought is not a number: a class that is neither there nor predicted.
    """
    value = metrics.get(sought, 0.0)
    if value != value:
        raise TrainingError(f"{sought} is not a number at step {metrics['step']:.0f}.")
    tune.report(metrics)
    return not read_trial(folder).prune


@contextmanager
def trial_lock(folder: Path) -> Iterator[None]:
    """Wait until no other process is at work there: a worker outlives the kill -9 of its driver by seconds."""
    with locked(folder / "lock"):
        if not is_remote(folder):
            (folder / "lock").write_text(str(os.getpid()))  # for a person who wonders what runs there
        yield


def open_trial_run(setup: TrialSetup, phase: Phase, record: TrialRecord, config: TrainConfig) -> Run:
    """The MLflow run of a trial: a new one, or the one from before an interruption."""
    run_record, name = setup.run_record, trial_name(phase, record.number)
    folder = setup.folder / name
    begun = (folder / "config.yaml").exists()
    if not begun:
        write_text(folder / "config.yaml", to_yaml(config))
    run = Run(run_record.tracking_uri, None, folder)
    run.adopt()
    repeat = f"python -m harness.train --config {run_dir.display_path(folder / 'config.yaml')}"
    tags = {PARENT: run_record.run_id, TRIAL: name, "harness.role": phase, **repeated_by(repeat)}
    tags |= {**setup.provenance, **confirmed_by(setup, record, tags[DESCRIPTION])}
    run.create(run_record.experiment_id, title(phase, record), tags)
    if begun:
        run.restart()
        run.note(setup.provenance)
    run.params(flatten(config))
    run.close(HAND_OVER)
    return run


def title(phase: Phase, record: TrialRecord) -> str:
    """Of a run in MLflow's lists: which trial, and the values that set it apart."""
    left_out = ("seed", SPLIT_SEED, UNLABELLED_WEIGHT)
    values = ", ".join(
        f"{last_key(key)} {format_value(value)}" for key, value in record.values.items() if key not in left_out
    )
    which = f"{TITLES[phase]} {record.number}"
    if record.of:
        which = f"{record.of.replace('/', ' ')} again, seed {record.values['seed']}"
    return f"{which}: {values}" if values else which


def confirmed_by(setup: TrialSetup, record: TrialRecord, description: str) -> dict[str, str]:
    """Tags that lead from a run of the confirmation to the trial that it repeats."""
    known = setup.folder / record.of / RUN_ID
    if not record.of:
        return {}
    if not known.is_file():  # a start point that was not tried
        return {"harness.of": record.of}
    link = f"#/experiments/{setup.run_record.experiment_id}/runs/{known.read_text()}"
    return {"harness.of": record.of, DESCRIPTION: f"{description}\n\nA new seed of [{record.of}]({link})"}
