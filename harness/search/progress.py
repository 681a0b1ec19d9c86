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

from harness.cli.command import Interrupts, out, share
from harness.search.searcher import NUMBER
from harness.search.trial import FAILED
from harness.search.trial_store import Entry, Ledger


class Watcher:
    """Follows one phase of a study: keeps its ledger, shows it, and hears Ctrl-C.

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
        ledger: Ledger,
        metric: str,
        total: int,
        best: Callable[[], str],
        interrupts: Interrupts,
        tick: Callable[[], None] = lambda: None,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        self.ledger, self.metric, self.total, self.best, self.after = ledger, metric, total, best, after
        self.interrupts, self.tick = interrupts, tick
        self.before = ledger.ended
        """Trials that had ended when a study was resumed; the ETA counts from there."""
        self.earlier = {entry.number: entry.seconds for entry in ledger.entries}
        self.running: dict[int, Entry] = {}
        self.start = time.monotonic()
        self.bar = Bar(
            TextColumn(f"[bold]{title}"),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}"),
        )
        self.task = self.bar.add_task(title, total=total, text="")
        self.live = Live(console=out, refresh_per_second=2) if out.is_terminal else None

    def entry_of(self, trial: Trial) -> Entry:
        return self.ledger.entries[trial.config[NUMBER]]

    def started(self, trial: Trial) -> None:
        entry = self.entry_of(trial)
        entry.state, entry.reason = "running", None
        self.running[entry.number] = entry
        self.ledger.save(entry)
        self.refresh()

    def reported(self, trial: Trial, result: dict[str, Any]) -> None:
        entry = self.entry_of(trial)
        entry.seconds = self.earlier.get(entry.number, 0.0) + float(result.get("time_total_s", 0.0))
        note(entry, result, self.metric)
        self.ledger.save(entry)
        self.tick()
        self.refresh()

    def ended(self, trial: Trial) -> None:
        """The searcher has noted how."""
        entry = self.entry_of(trial)
        self.running.pop(entry.number, None)
        self.after()
        self.refresh()
        if self.live is None:
            out.print(f"{describe(entry)}   {self.status()}", markup=False)
        else:
            self.live.console.print(describe(entry), markup=False)

    def status(self) -> str:
        ended, taken = self.ledger.ended, time.monotonic() - self.start
        running = sum(entry.step / entry.steps for entry in self.running.values())
        done = ended + running - self.before
        left = f"{taken / done * (self.total - ended - running):.0f} s" if done > 0 else "-"
        counts = [f"{ended}/{self.total} done"]
        counts += [f"{self.ledger.count('stopped')} stopped early"] if self.ledger.count("stopped") else []
        counts += [f"{self.ledger.count('failed')} failed"] if self.ledger.count("failed") else []
        return f"{', '.join(counts)}, left {left}, best {self.best()}"

    def refresh(self) -> None:
        if self.live is None:
            return
        self.bar.update(self.task, completed=self.ledger.ended, text=self.status())
        running = [Text(describe(entry)) for entry in self.running.values()]
        self.live.update(Group(*running, self.bar))

    def __enter__(self) -> "Watcher":
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


def note(entry: Entry, result: dict[str, Any], metric: str) -> None:
    """Enter a report."""
    if FAILED in result:
        entry.reason = result[FAILED]
        return
    if "step" not in result:  # a trial that had nothing left to do
        return
    entry.step = int(result["step"])
    entry.metrics = {key: value for key, value in result.items() if key.startswith(("val/", "test/"))}
    value = entry.metrics.get(metric)
    if value is not None and (not entry.history or entry.history[-1][0] < entry.step):
        entry.history.append((entry.step, float(value)))


def describe(entry: Entry) -> str:
    values = "  ".join(f"{leaf(key)} {short(value)}" for key, value in entry.values.items())
    line = f"trial {entry.number:3d}  {entry.state:8s}  step {entry.step:5d}  {share(entry.metric)}  {values}"
    return line if entry.reason is None else f"{line}  {entry.reason}"


def leaf(key: str) -> str:
    """The last part of a dotted key."""
    return key.rsplit(".", 1)[-1]


def short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


watching: Watcher | None = None
"""Of this process."""


class Follower(tune.Callback):
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
