"""What the driver of a study sees and shows: the trials of one phase, the best so far, ETA, Ctrl-C."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.text import Text

from harness.cli.command import Interrupts, format_metric, out
from harness.search.searcher import NUMBER
from harness.search.trial import FAILED
from harness.search.trial_store import TrialRecord, TrialStore


class SearchProgress:
    """Follows one phase of a study: keeps its store, shows it, and hears Ctrl-C.

    Args:
        title: of the progress bar.
        metric: sought; of val in the search, of test in the confirmation.
        total: number of trials.
        best: the best so far, as text.
        interrupts: asked at each turn of Tune's loop.
        tick: called at each report.
        after: called when a trial has ended.
    """

    def __init__(
        self,
        title: str,
        store: TrialStore,
        metric: str,
        total: int,
        best: Callable[[], str],
        interrupts: Interrupts,
        tick: Callable[[], None] = lambda: None,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        self.store, self.metric, self.total, self.best, self.after = store, metric, total, best, after
        self.interrupts, self.tick = interrupts, tick
        self.before = store.ended
        """Trials that had ended when a study was resumed; the ETA counts from there."""
        self.earlier = {record.number: record.seconds for record in store.records}
        self.running: dict[int, TrialRecord] = {}
        self.start = time.monotonic()
        self.bar = Bar(
            TextColumn(f"[bold]{title}"),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}"),
        )
        self.task = self.bar.add_task(title, total=total, text="")
        self.live = Live(console=out, refresh_per_second=2) if out.is_terminal else None

    def record_of(self, trial: Trial) -> TrialRecord:
        return self.store.records[trial.config[NUMBER]]

    def started(self, trial: Trial) -> None:
        record = self.record_of(trial)
        record.state, record.reason = "running", None
        self.running[record.number] = record
        self.store.save(record)
        self.refresh()

    def reported(self, trial: Trial, result: dict[str, Any]) -> None:
        record = self.record_of(trial)
        record.seconds = self.earlier.get(record.number, 0.0) + float(result.get("time_total_s", 0.0))
        note(record, result, self.metric)
        self.store.save(record)
        self.tick()
        self.refresh()

    def ended(self, trial: Trial) -> None:
        """The searcher has noted how."""
        record = self.record_of(trial)
        self.running.pop(record.number, None)
        self.after()
        self.refresh()
        if self.live is None:
            out.print(f"{describe(record)}   {self.status()}", markup=False)
        else:
            self.live.console.print(describe(record), markup=False)

    def status(self) -> str:
        ended, taken = self.store.ended, time.monotonic() - self.start
        running = sum(record.step / record.steps for record in self.running.values())
        done = ended + running - self.before
        left = f"{taken / done * (self.total - ended - running):.0f} s" if done > 0 else "-"
        counts = [f"{ended}/{self.total} done"]
        counts += [f"{self.store.count('pruned')} stopped early"] if self.store.count("pruned") else []
        counts += [f"{self.store.count('failed')} failed"] if self.store.count("failed") else []
        return f"{', '.join(counts)}, left {left}, best {self.best()}"

    def refresh(self) -> None:
        if self.live is None:
            return
        self.bar.update(self.task, completed=self.store.ended, text=self.status())
        running = [Text(describe(record)) for record in self.running.values()]
        self.live.update(Group(*running, self.bar))

    def __enter__(self) -> "SearchProgress":
        global watching
        watching = self
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        global watching
        watching = None
        if self.live:
            self.live.stop()


def note(record: TrialRecord, result: dict[str, Any], metric: str) -> None:
    """Enter a report."""
    if FAILED in result:
        record.reason = result[FAILED]
        return
    if "step" not in result:  # a trial that had nothing left to do
        return
    record.step = int(result["step"])
    record.metrics = {key: value for key, value in result.items() if key.startswith(("val/", "test/"))}
    value = record.metrics.get(metric)
    if value is not None and (not record.intermediate_values or record.intermediate_values[-1][0] < record.step):
        record.intermediate_values.append((record.step, float(value)))


def describe(record: TrialRecord) -> str:
    values = "  ".join(f"{leaf(key)} {short(value)}" for key, value in record.values.items())
    line = (
        f"trial {record.number:3d}  {record.state:8s}  step {record.step:5d}  {format_metric(record.metric)}  {values}"
    )
    return line if record.reason is None else f"{line}  {record.reason}"


def leaf(key: str) -> str:
    """The last part of a dotted key."""
    return key.rsplit(".", 1)[-1]


def short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


watching: SearchProgress | None = None
"""Of this process."""


class ProgressCallback(tune.Callback):
    """Tune's callback. It is pickled with the experiment, so it holds nothing."""

    def on_step_begin(self, iteration: int, trials: Sequence[Trial], **info: Any) -> None:
        if watching:
            watching.interrupts.check()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if watching:
            watching.started(trial)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if watching:
            watching.reported(trial, result)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if watching:
            watching.ended(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if watching:
            watching.ended(trial)
