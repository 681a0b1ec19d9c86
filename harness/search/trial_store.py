"""What is known of each trial of a study, in files written as it becomes known: a resumed study goes on from them.

STUDY/trials/007/trial.json      of the search
STUDY/baseline/001/trial.json    of the search without unlabelled images
STUDY/confirm/002/trial.json     of the confirmation
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from harness.atomic import read_json, write_json
from harness.config.train import Values
from harness.errors import UserError
from harness.storage import remove_folder
from harness.tracking.names import RUN_ID

Phase = Literal["trials", "baseline", "confirm"]
State = Literal["waiting", "running", "complete", "pruned", "failed"]
"""Pruned: ended by early stopping or by the clock, before its last step."""
FILE = "trial.json"
ENDED = ("complete", "pruned", "failed")


@dataclass
class TrialRecord:
    """One trial."""

    number: int
    values: Values
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
    sampler_params: Values = field(default_factory=dict)
    """The values as the sampler drew them, to the last bit."""
    prune: bool = False
    """Whether it shall end at its last report."""
    failures: list[str] = field(default_factory=list)
    """Why each try that failed did so."""
    own_fault: bool = False
    """Whether it failed by its own fault: it diverged, or its configuration or data were refused."""
    of: str = ""
    """The trial that a run of the confirmation repeats, such as trials/007."""

    @property
    def metric(self) -> float | None:
        return self.intermediate_values[-1][1] if self.intermediate_values else None

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def lost(self) -> bool:
        """Whether it failed by no fault of its own, as often as it was tried."""
        return self.state == "failed" and not self.own_fault


def trial_name(phase: Phase, number: int) -> str:
    """Of a trial in MLflow, and of its folder within that of the study."""
    return f"{phase}/{number:03d}"


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
        return self.folder / trial_name(self.phase, number)

    def name(self, record: TrialRecord) -> str:
        """Under which MLflow knows a trial."""
        return trial_name(self.phase, record.number)

    def add(
        self,
        values: Values,
        steps: int,
        state: State = "running",
        sampler_params: Values | None = None,
        of: str = "",
    ) -> TrialRecord:
        drawn = dict(sampler_params or {})
        record = TrialRecord(len(self.records), values, steps, state, sampler_params=drawn, of=of)
        self.save(record)
        self.records.append(record)
        return record

    def save(self, record: TrialRecord) -> None:
        """Write a record, whole or not at all."""
        write_json(self.trial_folder(record.number) / FILE, asdict(record))

    def end(self, record: TrialRecord, state: State, reason: str | None = None) -> None:
        """Note how a trial ended, for good: nothing goes on from its checkpoints any more."""
        record.state, record.reason = state, reason
        self.save(record)
        remove_folder(self.trial_folder(record.number) / "checkpoints", ignore_errors=True)

    def send_back(self, record: TrialRecord) -> None:
        """Let a trial whose try failed go on from its checkpoint, later."""
        record.state, record.reason = "waiting", None
        self.save(record)

    def restart(self, records: Sequence[TrialRecord]) -> None:
        """Let trials that ended run again, from scratch."""
        for record in records:
            (self.trial_folder(record.number) / RUN_ID).unlink(missing_ok=True)
            self.records[record.number] = TrialRecord(
                record.number,
                record.values,
                record.steps,
                "waiting",
                seconds=record.seconds,
                sampler_params=record.sampler_params,
                of=record.of,
            )
            self.save(self.records[record.number])

    def count(self, *states: State) -> int:
        return sum(record.state in states for record in self.records)

    @property
    def ended(self) -> int:
        return sum(record.ended for record in self.records)


def joined(failures: Sequence[str]) -> str:
    """The reasons of all tries in one line: each once, with how often it was."""
    counts = Counter(failures)
    texts = [reason + (f" ({count} times)" if count > 1 else "") for reason, count in counts.items()]
    return texts[0] if len(texts) == 1 else "; ".join(f"{number}. {text}" for number, text in enumerate(texts, 1))


def read_trial(trial_folder: Path) -> TrialRecord:
    """
    Raises:
        UserError: its file is damaged, or of another format.
    """
    path = trial_folder / FILE
    try:
        record = TrialRecord(**read_json(path))
    except TypeError as error:
        raise UserError(f"{path}: must be the record of a trial, but got: {error}") from error
    record.intermediate_values = [(step, value) for step, value in record.intermediate_values]
    return record
