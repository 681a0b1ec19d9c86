"""What ends a search before its last trial: its budget is spent, or no more gain is to be expected."""

import time
from collections.abc import Sequence
from pathlib import Path

from harness.atomic import write_text
from harness.config.search import SearchConfig
from harness.search.confirmation import best_of
from harness.search.trial_store import TrialRecord, TrialStore

SPENT = "searched_seconds"
"""File of a study with the time that its search has taken so far."""


class NoLimits:
    """Of a phase that ends with its last trial."""

    def note(self) -> None:
        """Nothing: no time is counted."""

    def spent(self) -> bool:
        """Whether no trial starts any more, and each that runs ends at its next evaluation."""
        return False

    def settled(self) -> bool:
        """Whether no new trial starts any more."""
        return False


class Limits(NoLimits):
    """Of the search of a study, from now on.

    Args:
        store: of its trials.
        folder: of the study.
    """

    def __init__(self, search: SearchConfig, store: TrialStore, folder: Path) -> None:
        self.search, self.store, self.path = search, store, folder / SPENT
        words = self.path.read_text().split() if self.path.is_file() else []
        self.before, self.uncounted = (float(word) for word in (*words, "0", "0")[:2])
        """Seconds of searching, by earlier commands; seconds of trials of which nothing came, and that begin anew."""
        self.start = time.monotonic()

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.start

    def note(self) -> None:
        """Write the time that the search has taken, for a command that resumes it."""
        write_text(self.path, f"{self.seconds:.1f} {self.uncounted:.1f}")

    def begin_anew(self) -> None:
        """Nothing came of what was spent so far, so it does not count."""
        self.before, self.start = 0.0, time.monotonic()
        self.uncounted = sum(record.seconds for record in self.store.records)
        self.note()

    def spent(self) -> bool:
        budget, each = self.search.budget, self.search.resources
        if budget.minutes is not None and self.seconds >= 60 * budget.minutes:
            return True
        hours = (sum(record.seconds for record in self.store.records) - self.uncounted) / 3600
        core_hours, gpu_hours = hours * each.all_cpus, hours * each.gpus
        return any(
            limit is not None and used >= limit
            for limit, used in ((budget.core_hours, core_hours), (budget.gpu_hours, gpu_hours))
        )

    def settled(self) -> bool:
        return waited_in_vain(self.search, self.store.records)


def waited_in_vain(search: SearchConfig, records: Sequence[TrialRecord]) -> bool:
    """Whether `stop.patience` trials after the best have ended, by no fault of the machine. Those that still run may
    change that."""
    patience = search.stop.patience
    best = best_of(search, [record for record in records if record.state == "complete"])
    if patience is None or best is None:
        return False
    later = [record for record in records if record.number > best.number]
    return sum(record.ended and not record.lost for record in later) >= patience
