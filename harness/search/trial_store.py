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

from harness.atomic import replacing

Phase = Literal["trials", "confirm"]
State = Literal["waiting", "running", "complete", "stopped", "failed"]
"""Stopped means early, before its last step."""
FILE, MLFLOW_RUN = "trial.json", "mlflow_run_id"
ENDED = ("complete", "stopped", "failed")


@dataclass
class Entry:
    """One trial."""

    number: int
    values: dict[str, Any]
    """By dotted key of TrainConfig."""
    steps: int
    """Its full length."""
    state: State = "running"
    step: int = 0
    """Of its last report."""
    history: list[tuple[int, float]] = field(default_factory=list)
    """(step, sought metric) of each report that had it."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of its last report."""
    seconds: float = 0.0
    """Time it took so far."""
    reason: str | None = None
    """Why it failed."""
    drawn: dict[str, Any] = field(default_factory=dict)
    """The values as the sampler drew them, to the last bit."""
    stop: bool = False
    """The verdict on its last report: it shall end there."""

    @property
    def metric(self) -> float | None:
        return self.history[-1][1] if self.history else None

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class Ledger:
    """The entries of one phase of a study, in order of their numbers.

    Args:
        folder: of the study.
    """

    def __init__(self, folder: Path, phase: Phase) -> None:
        self.folder, self.phase = folder, phase
        self.entries: list[Entry] = []
        while (self.trial_folder(len(self.entries)) / FILE).is_file():
            self.entries.append(read_entry(self.trial_folder(len(self.entries))))

    def trial_folder(self, number: int) -> Path:
        return self.folder / self.phase / f"{number:03d}"

    def add(
        self, values: dict[str, Any], steps: int, state: State = "running", drawn: Mapping[str, Any] | None = None
    ) -> Entry:
        entry = Entry(len(self.entries), values, steps, state, drawn=dict(drawn or {}))
        self.save(entry)
        self.entries.append(entry)
        return entry

    def save(self, entry: Entry) -> None:
        """Write an entry, whole or not at all."""
        with replacing(self.trial_folder(entry.number) / FILE) as part:
            part.write_text(json.dumps(asdict(entry)))

    def end(self, entry: Entry, state: State, reason: str | None = None) -> None:
        """Note how a trial ended, for good: nothing goes on from its checkpoints any more."""
        entry.state, entry.reason = state, entry.reason or reason
        self.save(entry)
        shutil.rmtree(self.trial_folder(entry.number) / "checkpoints", ignore_errors=True)

    def revive(self) -> None:
        """Let all trials run again, from scratch: where none came to anything the cause may be gone by now."""
        for entry in list(self.entries):
            (self.trial_folder(entry.number) / MLFLOW_RUN).unlink(missing_ok=True)
            self.entries[entry.number] = Entry(entry.number, entry.values, entry.steps, "waiting", drawn=entry.drawn)
            self.save(self.entries[entry.number])

    def count(self, *states: State) -> int:
        return sum(entry.state in states for entry in self.entries)

    @property
    def ended(self) -> int:
        return sum(entry.ended for entry in self.entries)


def read_entry(trial_folder: Path) -> Entry:
    known = json.loads((trial_folder / FILE).read_text())
    known["history"] = [(step, value) for step, value in known["history"]]
    return Entry(**known)
