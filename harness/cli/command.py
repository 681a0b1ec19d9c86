"""The terminal: progress, tables, and how an error reaches the user."""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from classmix_core.data.cache import release
from classmix_core.errors import DataError, InvalidValue
from harness.errors import Interrupted, RunFailed, UserError
from harness.training.context import Progress

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def run_command(main: Callable[[], int]) -> None:
    """Run a command and exit with its code; what the user caused is one line on stderr, without a traceback."""
    try:
        code = main()
    except (UserError, DataError) as error:
        code = refuse(str(error))
    except InvalidValue as error:
        code = refuse(f"{error.field}: {error}")
    except RunFailed as error:
        err.print(f"[bold red]failed:[/] {escape(str(error))}")
        code = FAILED
    except (KeyboardInterrupt, Interrupted):
        code = INTERRUPTED
    except Exception:
        traceback.print_exc()
        code = FAILED
    sys.stdout.flush()
    sys.stderr.flush()
    if code == INTERRUPTED:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        release()  # the share of a cache in memory
        os._exit(code)  # all is saved and closed; after a search Python's own end takes 4 s more
    sys.exit(code)


def refuse(message: str) -> int:
    err.print(f"[bold red]error:[/] {escape(' '.join(message.split()))}")
    return REFUSED


class StopFlag:
    """Turns the first Ctrl-C or SIGTERM into a flag; a second one interrupts at once."""

    def __init__(self, message: str) -> None:
        self.message, self.raised = message, False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self.handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in getattr(self, "before", {}).items():
            signal.signal(number, handler)

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.raised:
            raise KeyboardInterrupt
        self.raised = True
        err.print(self.message)

    def __call__(self) -> bool:
        return self.raised


class Interrupts:
    """Turns Ctrl-C and SIGTERM into one KeyboardInterrupt, so that what follows can tidy up in peace.

    One that comes more than 10 s later ends the process at once.
    """

    def __init__(self, message: str) -> None:
        self.message = message
        self.raised_at: float | None = None
        self.deferred = False
        """Whether a signal is only noted, for `check`."""

    def __enter__(self) -> Self:
        self.before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Ray has handlers of its own: call it again after them."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle)

    def ignore_signals(self) -> None:
        """From now on nothing is raised: what is left is to tidy up."""
        if self.raised_at is None:
            self.raised_at = time.monotonic()

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.raised_at is None:
            self.raised_at = time.monotonic()
            err.print(self.message)
            if self.deferred:
                return
            raise KeyboardInterrupt
        if time.monotonic() - self.raised_at > 10:
            release(patience=0)
            os._exit(INTERRUPTED)

    def check(self) -> None:
        """Raise it again, should it have been lost: in a destructor, or in an import with a bare except."""
        if self.raised_at is not None:
            raise KeyboardInterrupt


def format_metric(value: float | None) -> str:
    """An IoU or lambda as text."""
    return "-" if value is None else f"{value:.3f}"


class TrainingDisplay:
    """A live line for a training (bar, ETA, loss, lambda, last and best mIoU), or plain lines without a terminal."""

    def __init__(self, steps: int) -> None:
        self.bar = Bar(
            TextColumn("[bold]train"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=out,
            disable=not out.is_terminal,
        )
        self.task: TaskID = self.bar.add_task("train", total=steps, text="")
        self.shown_miou: tuple[int, float] | None = None
        self.start, self.first_step = time.monotonic(), -1
        self.loss: float | None = None
        self.lambda_: float | None = None

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.bar.stop()

    def show(self, progress: Progress) -> None:
        if self.first_step < 0:  # a resumed run starts in the middle
            self.start, self.first_step = time.monotonic(), progress.step
        self.loss = self.loss if progress.loss is None else progress.loss
        self.lambda_ = self.lambda_ if progress.lambda_ is None else progress.lambda_
        val, best = format_metric(progress.val_miou), format_metric(progress.best)
        text = f"loss {format_metric(self.loss)} lambda {format_metric(self.lambda_)} val mIoU {val} best {best}"
        self.bar.update(self.task, completed=progress.step, text=text)
        if progress.loss is None and not out.is_terminal and progress.val_miou is not None:
            taken = time.monotonic() - self.start
            left = taken / max(progress.step - self.first_step, 1) * (progress.steps - progress.step)
            out.print(f"step {progress.step}/{progress.steps}  {taken:.0f} s, {left:.0f} s left  {text}")


def checking(steps: object) -> None:
    """Run through a data check, with a bar while it lasts."""
    columns = (TextColumn("[bold]checking the data"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task("check")
        for done, total in steps:  # type: ignore[attr-defined]
            bar.update(task, completed=done, total=total)
