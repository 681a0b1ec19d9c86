"""What the driver of a search sees and shows: trials, best so far, ETA, Ctrl-C."""

import os
import signal
import time
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.text import Text

from harness import console
from harness.console import out, share
from harness.space import NUMBER, SearchConfig, decode
from harness.tracking import Run
from harness.trial import Study

SNAPSHOT_SECONDS = float(os.environ["TUNE_GLOBAL_CHECKPOINT_S"])


@dataclass
class Outcome:
    """What is known of a trial in the driver."""

    number: int
    trial_id: str
    values: dict[str, Any]
    step: int = 0
    metric: float | None = None
    state: str = "running"
    """running, complete, stopped (early) or failed."""
    started: float = field(default_factory=time.time)
    seconds: float = 0.0
    class_iou: dict[str, float] = field(default_factory=dict)
    """By class name, on val."""


class Watcher:
    """Follows a search: keeps the outcomes, shows them, notes the best so far in the parent run, and hears Ctrl-C."""

    def __init__(self, search: SearchConfig, study: Study) -> None:
        self.search, self.study = search, study
        self.outcomes: dict[str, Outcome] = {}
        self.interrupted, self.interrupted_at = False, 0.0
        self.listening = False
        self.before = 0
        """Trials that had ended when a search was resumed; the ETA counts from there."""
        self.start = time.monotonic()
        self.bar = Bar(
            TextColumn("[bold]search"),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}"),
        )
        self.task = self.bar.add_task("search", total=search.trials, text="")
        self.live = Live(console=out, refresh_per_second=2) if out.is_terminal else None

    def listen(self, trials: list[Trial]) -> None:
        """Called before each turn of Tune's loop; Tune has set its own handler by then, ours replaces it.

        Tune's waits up to 5 s for trials that do not listen. Ours lets the loop turn until its next snapshot is
        written, and leaves: the trials go on from their own checkpoints.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM came in, and a snapshot has been written since.
        """
        if self.interrupted and time.monotonic() - self.interrupted_at > SNAPSHOT_SECONDS + 0.5:
            raise KeyboardInterrupt
        if self.listening:
            return
        self.listening = True
        signal.signal(signal.SIGINT, self.on_interrupt)
        signal.signal(signal.SIGTERM, self.on_interrupt)
        for trial in trials:
            self.adopt(trial)
        self.before = self.count("complete", "stopped", "failed")

    def on_interrupt(self, signal_number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        console.err.print("stopping the trials")
        self.interrupted, self.interrupted_at = True, time.monotonic()

    def adopt(self, trial: Trial) -> Outcome:
        """The outcome of a trial, new or from before an interruption."""
        outcome = self.outcomes.get(trial.trial_id)
        if outcome is None:
            values = decode(self.study.axes, trial.config)
            outcome = self.outcomes[trial.trial_id] = Outcome(trial.config[NUMBER], trial.trial_id, values)
            if trial.last_result and self.search.metric in trial.last_result:
                self.note(outcome, trial.last_result)
            if trial.status in (Trial.TERMINATED, Trial.ERROR):
                self.end(outcome, trial.status == Trial.ERROR)
        return outcome

    def note(self, outcome: Outcome, result: dict[str, Any]) -> None:
        outcome.step, outcome.metric = int(result["step"]), float(result[self.search.metric])
        outcome.seconds = float(result.get("time_total_s", 0.0))
        outcome.class_iou = {
            key.removeprefix("val/iou/"): value for key, value in result.items() if key.startswith("val/iou/")
        }

    def end(self, outcome: Outcome, failed: bool) -> None:
        complete = outcome.step >= self.study.steps(outcome.values)
        outcome.state = "failed" if failed else "complete" if complete else "stopped"

    def started(self, trial: Trial) -> None:
        self.adopt(trial).state = "running"
        self.refresh()

    def reported(self, trial: Trial, result: dict[str, Any]) -> None:
        self.note(self.adopt(trial), result)
        self.refresh()

    def ended(self, trial: Trial, failed: bool) -> None:
        if self.interrupted:  # what Tune ends now is not done
            return
        outcome = self.adopt(trial)
        self.end(outcome, failed)
        self.log_best()
        self.refresh()
        if self.live is None:
            out.print(f"{describe(outcome)}   {self.status()}")
        else:
            self.live.console.print(describe(outcome))

    def log_best(self) -> None:
        """A point of the best-so-far curve in the parent run: its step is the number of trials that ended."""
        best, done = self.best(), self.count("complete", "stopped", "failed")
        if best is not None and best.metric is not None:
            log = Run(self.study.record.tracking_uri, self.study.record.run_id)
            log.metrics(done, {f"best/{self.search.metric.removeprefix('val/')}": best.metric})
            log.flush()

    def count(self, *states: str) -> int:
        return sum(outcome.state in states for outcome in self.outcomes.values())

    def best(self) -> Outcome | None:
        """The best trial of those that ran furthest: complete ones, else any."""
        known = [outcome for outcome in self.outcomes.values() if outcome.metric is not None]
        known = [outcome for outcome in known if outcome.state == "complete"] or known
        sign = 1 if self.search.mode == "max" else -1
        return max(known, key=lambda outcome: sign * (outcome.metric or 0.0), default=None)

    def status(self) -> str:
        ended, best = self.count("complete", "stopped", "failed"), self.best()
        running = sum(
            outcome.step / self.study.steps(outcome.values)
            for outcome in self.outcomes.values()
            if outcome.state == "running"
        )
        taken = time.monotonic() - self.start
        done = ended + running - self.before
        left = taken / done * (self.search.trials - ended - running) if done > 0 else None
        eta = "-" if left is None else f"{left:.0f} s"
        found = "-" if best is None else f"{share(best.metric)} (trial {best.number})"
        return f"{ended}/{self.search.trials} done, {self.count('stopped')} stopped early, left {eta}, best {found}"

    def refresh(self) -> None:
        if self.live is None:
            return
        self.bar.update(self.task, completed=self.count("complete", "stopped", "failed"), text=self.status())
        running = [Text(describe(outcome)) for outcome in self.outcomes.values() if outcome.state == "running"]
        self.live.update(Group(*running, self.bar))

    def __enter__(self) -> "Watcher":
        global watching
        watching = self
        self.handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()
        for number_, handler in self.handlers.items():
            signal.signal(number_, handler)


def describe(outcome: Outcome) -> str:
    values = "  ".join(f"{leaf(key)} {short(value)}" for key, value in outcome.values.items())
    return f"trial {outcome.number:3d}  {outcome.state:8s}  step {outcome.step:5d}  {share(outcome.metric)}  {values}"


def leaf(key: str) -> str:
    """The last part of a dotted key."""
    return key.rsplit(".", 1)[-1]


def short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


watching: Watcher | None = None
"""Of this process."""


class Follower(tune.Callback):
    """Tune's callback. It is pickled with the experiment and comes back when that is resumed, so it holds nothing."""

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if watching:
            watching.listen(trials)

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
            watching.ended(trial, failed=False)

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        if watching:  # a resumed search whose trials had all ended takes no step
            for trial in trials:
                watching.adopt(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if watching:
            watching.ended(trial, failed=True)
