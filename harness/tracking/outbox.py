"""Calls that a thread sends to MLflow, so that no training waits for it; those unsent are kept beside the run.

RUN/outbox/*.json     a call each, in order of their names
"""

import base64
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from harness.atomic import write_text
from harness.storage import is_remote, read_text
from harness.tracking.patience import SILENT, is_passing, one_line
from harness.tracking.writer import BATCH, NotCreated, Writer

logger = logging.getLogger(__name__)

OUTBOX = "outbox"
LINGER = 2.0
"""Seconds that points of curves wait for others, to be sent with them."""
PAUSES = 0.5, 8.0
"""Seconds until a call is tried again: at first, and at most."""
STALLED = 30.0
"""Seconds without an answer after which nobody waits any more; MLflow waits for 20 where SQLite is locked."""


@dataclass(eq=False)
class Call:
    """One of the methods of `Writer`, or of others by their names."""

    method: str
    arguments: dict[str, Any] = field(default_factory=dict)
    """Which JSON can hold."""
    content: bytes | None = None
    """One more argument."""
    file: Path | None = None
    """Where it is kept; then it is empty here."""
    key: str = ""

    def __post_init__(self) -> None:
        born = 0 if self.method == "create" else time.time_ns()  # whatever else there is to say comes after it
        self.key = self.key or f"{born:020d}-{uuid4().hex[:8]}"

    def keep(self, file: Path) -> None:
        """Write it to a file."""
        content = None if self.content is None else base64.b64encode(self.content).decode()
        write_text(file, json.dumps({"method": self.method, "arguments": self.arguments, "content": content}))

    @classmethod
    def read(cls, file: Path) -> "Call":
        """
        Raises:
            FileNotFoundError: it was sent by another process meanwhile.
        """
        found = json.loads(read_text(file))
        content = None if found["content"] is None else base64.b64decode(found["content"])
        return cls(found["method"], found["arguments"], content, key=file.stem)


class Outbox:
    """What one process has to tell of a run.

    Args:
        writer: does it.
    """

    def __init__(self, writer: Writer) -> None:
        self.writer, self.folder = writer, writer.home / OUTBOX
        self.others: Mapping[str, Callable[..., None]] = {}
        """What `writer` cannot do, by name; without them such a call and those after it are kept."""
        self.calls: list[Call] = []
        self.changed = threading.Condition()
        self.keeping = threading.Lock()
        self.stop: threading.Event | None = None
        """Ends the thread; None: there is none."""
        self.thread: threading.Thread | None = None
        self.waiting = 0
        """Threads that wait in `settle`."""
        self.away: Exception | None = None
        """Why the last try failed, if it may succeed later."""
        self.failed: Exception | None = None
        """Why no other try is made."""
        self.tries = 0

    def add(self, call: Call) -> None:
        """
        Raises:
            Exception: an earlier call failed in a way that does not pass.
        """
        self.put([call])

    def put(self, calls: Sequence[Call]) -> None:
        with self.changed:
            if self.failed:
                raise self.failed
            self.calls += calls
            if self.stop is None:
                self.stop = threading.Event()
                self.thread = threading.Thread(target=self.work, name="to MLflow", args=(self.stop,), daemon=True)
                self.thread.start()
            self.changed.notify_all()

    def adopt(self, leave_out: Sequence[str] = ()) -> int:
        """Take over what other processes, which have ended, have kept; returns how many calls.

        Args:
            leave_out: methods whose calls are no longer true, and are removed.
        """
        with self.changed:
            ours = {call.key for call in self.calls}
        found = []
        for file in sorted(self.folder.glob("*.json")):
            if file.stem not in ours:
                try:
                    method = Call.read(file).method
                except FileNotFoundError:
                    continue
                if method in leave_out:
                    file.unlink(missing_ok=True)
                else:
                    found.append(Call(method, file=file, key=file.stem))
        if found:
            self.put(found)
            with self.changed:
                self.calls.sort(key=lambda call: call.key)
        return len(found)

    def keep(self) -> None:
        """Whatever is not sent is on disk when this returns."""
        with self.keeping:
            with self.changed:
                loose = [call for call in self.calls if call.file is None]
            for call in loose:
                file = self.folder / f"{call.key}.json"
                call.keep(file)
                with self.changed:
                    call.file, call.arguments, call.content = file, {}, None

    def settle(self, patience: float = STALLED) -> str | None:
        """Wait until all is sent, or else kept; the store is tried once more if it was away.

        Args:
            patience: seconds without an answer.

        Returns:
            why not all could be sent, in one line.

        Raises:
            Exception: a call failed in a way that does not pass; all is kept.
        """
        try:
            with self.changed:
                tries, self.waiting = self.tries, self.waiting + 1
                self.changed.notify_all()
                while self.calls and not self.failed and self.tries == tries and self.changed.wait(patience):
                    pass
        finally:
            with self.changed:
                self.waiting -= 1
            self.keep()
        if self.failed:
            raise self.failed
        with self.changed:
            return (one_line(self.away) if self.away else "it does not answer") if self.calls else None

    def release(self) -> None:
        """Leave what is kept to others, once the call that is under way has ended: begun by two, it is done twice."""
        with self.changed:
            if self.stop is not None:
                self.stop.set()
            self.stop, self.calls = None, []
            self.changed.notify_all()
        if self.thread is not None:
            self.thread.join(STALLED)
            self.thread = None
        if not is_remote(self.folder):
            with suppress(OSError):  # it is not empty, or there is none
                self.folder.rmdir()

    # -- the thread ---------------------------------------------------------------------------------------------------

    def work(self, stop: threading.Event) -> None:
        pause, away_since, told = PAUSES[0], float("inf"), False
        while calls := self.next_calls(stop):
            try:
                self.send(calls)
                self.sent(calls)
            except Exception as error:
                passing = isinstance(error, NotCreated) or is_passing(error, self.writer.uri)
                try:
                    self.keep()
                except Exception as full:
                    error, passing = full, False
                with self.changed:
                    self.tries += 1
                    self.away, self.failed = (error, None) if passing else (None, error)
                    self.changed.notify_all()
                    if not passing:
                        return
                    away_since = min(away_since, time.monotonic())
                    self.changed.wait_for(lambda: stop.is_set() or self.waiting, pause)
                if not told and time.monotonic() > away_since + SILENT:
                    self.tell(error)
                    told = True
                pause = min(2 * pause, PAUSES[1])
            else:
                pause, away_since, told = PAUSES[0], float("inf"), False

    def tell(self, error: Exception) -> None:
        logger.warning(
            "warning: MLflow's store %s does not take what is logged (%s); it is kept in %s until it does",
            self.writer.uri,
            one_line(error),
            self.folder,
        )

    def next_calls(self, stop: threading.Event) -> list[Call]:
        """The next call, or those of metrics up to the next other one; none when it is to stop."""
        with self.changed:
            self.changed.wait_for(lambda: stop.is_set() or self.calls)
            if not self.waiting and all(call.method == "metrics" for call in self.calls):
                others = lambda: any(call.method != "metrics" for call in self.calls)  # noqa: E731
                self.changed.wait_for(lambda: stop.is_set() or self.waiting or others(), LINGER)
            if stop.is_set():
                return []
            calls = self.calls[:1]
            if calls[0].method == "metrics":
                for call in self.calls[1:BATCH]:
                    if call.method != "metrics":
                        break
                    calls.append(call)
            return calls

    def send(self, calls: Sequence[Call]) -> None:
        whole = []
        with self.changed:  # what is kept is emptied at any time
            calls = [replace(call) for call in calls]
        for call in calls:
            try:
                whole.append(call if call.file is None else Call.read(call.file))
            except FileNotFoundError:  # another process has sent it
                continue
        if whole and whole[0].method == "metrics":
            self.writer.metrics([tuple(point) for call in whole for point in call.arguments["points"]])
        elif whole:
            self.perform(whole[0])

    def perform(self, call: Call) -> None:
        found = self.others.get(call.method) or getattr(self.writer, call.method, None)
        if found is None:
            raise NotCreated("python -m harness.sync must do what is left")
        found(**call.arguments, **({} if call.content is None else {"content": call.content}))

    def sent(self, calls: Sequence[Call]) -> None:
        with self.keeping:  # which else could write one of them again
            for call in calls:
                if call.file is not None:
                    call.file.unlink(missing_ok=True)
            with self.changed:
                self.calls = [call for call in self.calls if call not in calls]
                self.away = None
                self.changed.notify_all()
