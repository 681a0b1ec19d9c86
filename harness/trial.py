"""One trial of a search, in a Ray actor that is used again for the next."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray import tune

from harness import runs
from harness.config import TrainConfig, flatten, override, to_yaml
from harness.session import TrialSession
from harness.space import NUMBER, Parameter, decode
from harness.tracking import DESCRIPTION, PARENT, TRIAL, Run
from harness.worker import Job, train


@dataclass(frozen=True)
class Study:
    """What every trial is given."""

    base: TrainConfig
    axes: Sequence[Parameter]
    folder: Path
    record: runs.Record
    cpus: int
    gpus: float

    def trial_folder(self, trial_id: str) -> Path:
        return self.folder / "trials" / trial_id

    def steps(self, values: dict[str, Any]) -> int:
        """Length of a trial; it may be searched over."""
        return int(values.get("steps", self.base.steps))


def run_trial(drawn: dict[str, Any], study: Study) -> None:
    """Train one configuration, reporting each evaluation; goes on from its checkpoint if it has one."""
    trial_id = tune.get_context().get_trial_id()
    assert trial_id is not None
    config = override(study.base, decode(study.axes, drawn))
    folder = study.trial_folder(trial_id)
    torch.set_num_threads(study.cpus)
    run = open_trial_run(study, trial_id, drawn[NUMBER], folder, config)
    status, job = "FAILED", Job(config, folder, study.record.tracking_uri, run.run_id, final=False)
    device = torch.device("cuda", 0) if study.gpus else torch.device("cpu")
    try:
        train(job, TrialSession(device, show=lambda progress: None))
        status = "FINISHED"
    except SystemExit:  # how Tune ends a trial, inside its report: stopped early, or at its last step
        status = "FINISHED"
        raise
    except Exception as error:
        run.tags({"harness.reason": reason(error)})
        raise
    finally:
        run.finish(status)


def open_trial_run(study: Study, trial_id: str, number: int, folder: Path, config: TrainConfig) -> Run:
    """The MLflow run of a trial: a new one, or the one from before an interruption."""
    uri, known = study.record.tracking_uri, folder / "mlflow_run_id"
    if known.exists():
        run = Run(uri, known.read_text())
        run.restart()
        return run
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    repeat = f"python -m harness.train --config {runs.shown(folder / 'config.yaml')}"
    tags = {PARENT: study.record.run_id, TRIAL: trial_id, DESCRIPTION: f"Repeat: `{repeat}`", "harness.command": repeat}
    run = Run.create(uri, study.record.experiment_id, f"trial {number}", tags)
    known.write_text(run.run_id)
    run.params(flatten(config))
    return run


def reason(error: BaseException) -> str:
    """An error as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
