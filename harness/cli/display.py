"""What the terminal shows: live lines that fit its width, tables, and figures as text. Piped, plain lines."""

import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from textwrap import wrap
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # they import torch, which `--help` need not wait for
    from harness.training.context import Progress

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def format_metric(value: float | None) -> str:
    """An IoU, a loss or a lambda."""
    return "-" if value is None else f"{value:.3f}"


def format_value(value: object) -> str:
    """A configured value, short."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def format_seconds(seconds: float) -> str:
    """M:SS, or H:MM:SS."""
    return str(timedelta(seconds=round(seconds))).removeprefix("0:").removeprefix("0")


def format_cost(metrics: Mapping[str, float]) -> str:
    """`cost/core_hours` and `cost/gpu_hours` among metrics."""
    hours = {key: metrics.get(f"cost/{key}_hours") for key in ("core", "gpu")}
    return ", ".join(
        f"{value:.3g} {key.replace('gpu', 'GPU')}-hours" for key, value in hours.items() if value is not None
    )


def last_key(key: str) -> str:
    """The last part of a dotted key."""
    return key.rsplit(".", 1)[-1]


def fit(parts: Iterable[str], width: int | None = None) -> str:
    """The parts in one line, or, where that is wider than the terminal (piped: 80), in several, broken between parts.

    Args:
        width: in columns, if not that of `out`.
    """
    lines, limit = [""], width or out.width
    for part in parts:
        for piece in wrap(part, limit - 2) or [""]:
            joined = f"{lines[-1]}  {piece}" if lines[-1].strip() else lines[-1] + piece
            if len(joined) <= limit:
                lines[-1] = joined
            else:
                lines.append(f"  {piece}")
    return "\n".join(lines)


def make_table(title: str, columns: Iterable[str]) -> Table:
    """A table of figures, in columns that fold rather than be cut where there are many."""
    names = list(columns)
    table = Table(title=title, padding=(0, 0) if len(names) > 7 else (0, 1))
    for name in names:
        table.add_column(name.replace("_", " "), justify="right", overflow="fold")
    return table


def live_bar(title: str, *columns: ProgressColumn, console: Console = out) -> ProgressBar:
    """A bar of at most 64 columns: title, bar, done and total, time since the start, and more columns."""
    first = (TextColumn(f"[bold]{title}"), BarColumn(bar_width=16), MofNCompleteColumn(), TimeElapsedColumn())
    return ProgressBar(*first, *columns, console=console, disable=not console.is_terminal)


class LiveLines:
    """Lines that are drawn anew while the block lasts; `live` is None where the output is no terminal."""

    def __init__(self, console: Console, refresh_per_second: float) -> None:
        self.live = Live(console=console, refresh_per_second=refresh_per_second) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.live:
            self.live.stop()


WAIT_SHOWN = 0.05
"""Of the time; a shorter wait for data is nothing to act on."""


class TrainingDisplay(LiveLines):
    """Live lines for a training (bar, ETA, loss, lambda, last and best mIoU), or plain ones without a terminal."""

    def __init__(self, steps: int) -> None:
        self.bar = live_bar("train", TextColumn("left"), TimeRemainingColumn())
        self.task = self.bar.add_task("train", total=steps)
        super().__init__(out, refresh_per_second=4)
        self.start, self.first_step = time.monotonic(), -1
        self.loss: float | None = None
        self.lambda_: float | None = None
        self.data_wait = 0.0

    def show(self, progress: "Progress") -> None:
        if progress.message:
            warn(progress.message, out if self.live else err)  # above the live lines
            return
        if self.first_step < 0:  # a resumed run starts in the middle
            self.start, self.first_step = time.monotonic(), progress.step
        self.loss = self.loss if progress.loss is None else progress.loss
        self.lambda_ = self.lambda_ if progress.lambda_ is None else progress.lambda_
        self.data_wait = self.data_wait if progress.data_wait is None else progress.data_wait
        figures = [
            f"loss {format_metric(self.loss)} lambda {format_metric(self.lambda_)}",
            f"val {format_metric(progress.val_miou)} best {format_metric(progress.best)}",
        ]
        if self.data_wait >= WAIT_SHOWN:
            figures.append(f"waits for data {self.data_wait:.0%}")
        if self.live:
            self.bar.update(self.task, completed=progress.step)
            self.live.update(Group(self.bar, Text(fit(figures))))
        elif progress.loss is None and progress.val_miou is not None:
            taken = time.monotonic() - self.start
            left = taken / max(progress.step - self.first_step, 1) * (progress.steps - progress.step)
            place = f"step {progress.step}/{progress.steps} {format_seconds(taken)} left {format_seconds(left)}"
            out.print(fit([place, *figures]), markup=False)


def show_check(steps: Iterable[tuple[int, int]]) -> None:
    """Run through a data check, with a bar while it lasts."""
    columns = (TextColumn("[bold]checking the data"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with ProgressBar(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task("check")
        for done, total in steps:
            bar.update(task, completed=done, total=total)


def show_result(metrics: Mapping[str, float], networks: Iterable[str], chosen: str, folder: str, look: str) -> None:
    """The tables that a training ends with.

    Args:
        metrics: `test/...` of a finished run.
        networks: student and teacher.
        chosen: the one that the figures by class are of.
        folder: of the run, as the user would type it.
    """
    table = make_table(f"test, {chosen} of the best step on val", ("class", "IoU"))
    for key, value in metrics.items():
        if key.startswith("test/iou/"):
            table.add_row(key.removeprefix("test/iou/"), format_metric(value))
    table.add_section()
    table.add_row("[bold]mean", f"[bold]{format_metric(metrics['test/miou'])}")
    out.print(table)
    out.print(f"pixel accuracy {metrics['test/accuracy']:.3f}")
    both = make_table("test mIoU", ("", f"best step on val ({metrics['test/best_step']:.0f})", "last step"))
    for name in networks:
        both.add_row(name, *(format_metric(metrics[f"test/{which}_{name}_miou"]) for which in ("best", "final")))
    out.print(both)
    out.print(f"cost: {format_cost(metrics)}")
    out.print(f"weights and splits: {folder}; curves and pictures: {look}", markup=False)


def say(line: str) -> None:
    """A line of what happens, as it is."""
    out.print(line, markup=False)


def warn(message: str, console: Console = err) -> None:
    console.print(f"warning: {message}", markup=False)
