"""Enters into the store what trials report while they run, and shows it: each trial, the best so far, the time left."""

import time
from collections.abc import Callable, Mapping

from rich.console import Group
from rich.text import Text

from harness.cli.display import LiveLines, fit, format_metric, format_seconds, format_value, last_key, live_bar, out
from harness.errors import NoRoom
from harness.search.eta import TimeLeft
from harness.search.trial import FAILED, NO_ROOM, OWN_FAULT
from harness.search.trial_store import TrialRecord, TrialStore


class SearchProgress(LiveLines):
    """Enters into the store what trials report, and shows it: live, or a line for each trial that ends if piped.

    Args:
        title: of the progress bar.
        metric: sought.
        total: how many trials there will be, at most.
        best: the best so far, as text.
        time_left: of the whole study.
        after_report: called at each report.
        after_trial: called with each trial that has ended, or whose try has failed, by `settle`.
        retries: how often a trial may be tried again.
    """

    def __init__(
        self,
        title: str,
        store: TrialStore,
        metric: str,
        total: Callable[[], int],
        best: Callable[[], str],
        time_left: TimeLeft | None = None,
        after_report: Callable[[], None] = lambda: None,
        after_trial: Callable[[TrialRecord], None] = lambda record: None,
        retries: int = 0,
    ) -> None:
        self.store, self.metric, self.total, self.best, self.time_left = store, metric, total, best, time_left
        self.after_report, self.after_trial, self.retries = after_report, after_trial, retries
        self.before = store.ended
        """Trials that had ended when a study was resumed; the time left counts from there."""
        self.earlier: dict[int, float] = {}
        """Seconds that a trial took before it was started, or tried, for the last time."""
        self.running: dict[int, TrialRecord] = {}
        self.unsettled: list[TrialRecord] = []
        self.full: str | None = None
        """What a trial said that found the disk full: no other would get further."""
        self.start = time.monotonic()
        self.bar = live_bar(title)
        self.task = self.bar.add_task(title, total=total())
        super().__init__(out, refresh_per_second=2)

    def started(self, number: int) -> None:
        record = self.store.records[number]
        record.state, record.reason, record.own_fault = "running", None, False
        self.running[number], self.earlier[number] = record, record.seconds
        self.store.save(record)
        self.refresh()

    def reported(self, number: int, result: Mapping[str, float | str]) -> None:
        record = self.store.records[number]
        record.seconds = self.earlier[number] + float(result.get("time_total_s", 0.0))
        note(record, result, self.metric)
        self.store.save(record)
        if result.get(NO_ROOM):
            self.full = f"trial {number}: {record.reason}"
        self.after_report()
        self.refresh()

    def ended(self, number: int) -> None:
        """The searcher has noted how, or that it is tried again."""
        record = self.store.records[number]
        self.running.pop(number, None)
        self.refresh()
        console = self.live.console if self.live else out
        console.print(fit(describe(record, self.retries)), markup=False)
        self.unsettled.append(record)
        if not self.live:
            out.print(fit(["", *self.status()]), markup=False)

    def settle(self) -> None:
        """Do what is due after trials: not while Tune handles their end, for it wraps what is raised there."""
        while self.unsettled:
            self.after_trial(self.unsettled.pop(0))
        if self.full:
            raise NoRoom(self.full)

    def status(self) -> list[str]:
        ended, taken = self.store.ended, time.monotonic() - self.start
        running = sum(record.step / record.steps for record in self.running.values())
        done = ended + running - self.before
        left = taken / done * (self.total() - ended - running) if done > 0 else None
        counts = [f"{ended}/{self.total()} done"]
        counts += [f"{count} {state}" for state in ("pruned", "failed") if (count := self.store.count(state))]
        study = self.time_left.seconds() if self.time_left else None
        if study is not None and left is not None:
            left = min(left, study)  # a race may end before its last seed
        times = "-" if left is None else format_seconds(left)
        times += "" if study is None else f" (study {format_seconds(study)})"
        return [", ".join(counts), f"left {times}", f"best {self.best()}"]

    def refresh(self) -> None:
        if self.live is None:
            return
        self.bar.update(self.task, completed=self.store.ended, total=self.total())
        running = [Text(fit(describe(record, self.retries))) for record in self.running.values()]
        self.live.update(Group(*running, self.bar, Text(fit(self.status()))))


def note(record: TrialRecord, result: Mapping[str, float | str], metric: str) -> None:
    """Enter a report."""
    if FAILED in result:
        record.reason, record.own_fault = str(result[FAILED]), bool(result[OWN_FAULT])
        return
    if "step" not in result:  # a trial that had nothing left to do
        return
    record.step = int(result["step"])
    record.metrics = {key: float(value) for key, value in result.items() if key.startswith(("val/", "test/"))}
    value, curve = record.metrics.get(metric), record.intermediate_values
    if value is not None and (not curve or curve[-1][0] < record.step):
        curve.append((record.step, value))


def describe(record: TrialRecord, retries: int = 0) -> list[str]:
    """A trial in parts that may stand on several lines; where a try failed, which it is in or waits for, and why."""
    place = f"trial {record.number:3d} {record.state:8s} step {record.step:5d} {format_metric(record.metric)}"
    values = [f"{last_key(key)} {format_value(value)}" for key, value in record.values.items()]
    why = record.reason
    if record.failures and not record.ended:
        why = f"(try {len(record.failures) + 1} of {retries + 1}: {record.failures[-1]})"
    return [place, *values, *([why] if why else [])]
