"""What is known of each trial of a study, in files written as it becomes known: a resumed study goes on from them.

STUDY/trials/007/trial.json      of the search
STUDY/confirm/002/trial.json     of its confirmation
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.atomic import atomic_file

Phase = Literal["trials", "confirm"]
State = Literal["waiting", "running", "complete", "pruned", "failed"]
"""Stopped means early, before its last step."""
FILE, MLFLOW_RUN = "trial.json", "mlflow_run_id"
ENDED = ("complete", "pruned", "failed")


@dataclass
class TrialRecord:
    """One trial."""

    number: int
    values: dict[str, Any]
    """By dotted key of TrainConfig."""
    steps: int
    """Its full length."""
    state: State = "running"
    step: int = 0
    """Of its last report."""
    intermediate_values: list[tuple[int, float]] = field(default_factory=list)
    """(step, sought metric) of each report that had it."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of its last report."""
    seconds: float = 0.0
    """Time it took so far."""
    reason: str | None = None
    """Why it failed."""
    sampler_params: dict[str, Any] = field(default_factory=dict)
    """The values as the sampler drew them, to the last bit."""
    stop: bool = False
    """The verdict on its last report: it shall end there."""

    @property
    def metric(self) -> float | None:
        return self.intermediate_values[-1][1] if self.intermediate_values else None

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class TrialStore:
    """The records of one phase of a study, in order of their numbers.

    Args:
        folder: of the study.
    """

    def __init__(self, folder: Path, phase: Phase) -> None:
        self.folder, self.phase = folder, phase
        self.records: list[TrialRecord] = []
        while (self.trial_folder(len(self.records)) / FILE).is_file():
            self.records.append(read_trial(self.trial_folder(len(self.records))))

    def trial_folder(self, number: int) -> Path:
        return self.folder / self.phase / f"{number:03d}"

    def add(
        self,
        values: dict[str, Any],
        steps: int,
        state: State = "running",
        sampler_params: Mapping[str, Any] | None = None,
    ) -> TrialRecord:
        record = TrialRecord(len(self.records), values, steps, state, sampler_params=dict(sampler_params or {}))
        self.save(record)
        self.records.append(record)
        return record

    def save(self, record: TrialRecord) -> None:
        """Write an record, whole or not at all."""
        with atomic_file(self.trial_folder(record.number) / FILE) as part:
            part.write_text(json.dumps(asdict(record)))

    def end(self, record: TrialRecord, state: State, reason: str | None = None) -> None:
        """Note how a trial ended, for good: nothing goes on from its checkpoints any more."""
        record.state, record.reason = state, record.reason or reason
        self.save(record)
        shutil.rmtree(self.trial_folder(record.number) / "checkpoints", ignore_errors=True)

    def restart_failed(self) -> None:
        """Let all trials run again, from scratch: where none came to anything the cause may be gone by now."""
        for record in list(self.records):
            (self.trial_folder(record.number) / MLFLOW_RUN).unlink(missing_ok=True)
            self.records[record.number] = TrialRecord(
                record.number, record.values, record.steps, "waiting", sampler_params=record.sampler_params
            )
            self.save(self.records[record.number])

    def count(self, *states: State) -> int:
        return sum(record.state in states for record in self.records)

    @property
    def ended(self) -> int:
        return sum(record.ended for record in self.records)


def read_trial(trial_folder: Path) -> TrialRecord:
    known = json.loads((trial_folder / FILE).read_text())
    known["intermediate_values"] = [(step, value) for step, value in known["intermediate_values"]]
    return TrialRecord(**known)
