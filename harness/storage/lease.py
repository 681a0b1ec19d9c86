"""A lock in object storage: a file that its owner renews every few seconds, and that is anybody's when it is old."""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from filelock import Timeout

logger = logging.getLogger(__name__)

RENEWED_EVERY, VALID_FOR = 5.0, 20.0
"""Seconds."""
SKEW = 5.0
"""Seconds by which the clocks of two machines may differ."""
POLL = 0.5


class Lease:
    """Of this object, on a path in object storage that can refuse to write what is there already (S3 and GCS can)."""

    def __init__(self, path: Path) -> None:
        self.path: Any = cast(Any, path)
        self.owner = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}"

    @contextmanager
    def held(self, timeout: float) -> Iterator[None]:
        """Hold it while the block lasts.

        Args:
            timeout: seconds to wait for another owner that is alive; negative: for ever. One that is not heard of is
                waited for until its lease has run out.

        Raises:
            Timeout: another owner renewed it all the time.
        """
        self.acquire(timeout)
        done = threading.Event()
        renewing = threading.Thread(target=self.renew, args=(done,), daemon=True)
        renewing.start()
        try:
            yield
        finally:
            done.set()
            renewing.join()
            with suppress(Exception):  # of many kinds; it runs out by itself
                if self.read().get("owner") == self.owner:
                    self.path.unlink(missing_ok=True)

    def acquire(self, timeout: float) -> None:
        began, first = time.monotonic(), self.read()
        while not self.take():
            found = self.read()
            alive = found.get("owner") != first.get("owner") or found.get("until", 0) > first.get("until", 0)
            if alive and 0 <= timeout <= time.monotonic() - began:
                raise Timeout(str(self.path))
            time.sleep(POLL)

    def take(self) -> bool:
        """Whether it is ours now: there was none, or it had run out."""
        found = self.read()
        if found:
            if time.time() < found["until"] + SKEW:
                return False
            self.path.unlink(missing_ok=True)
        with suppress(FileExistsError):  # another's, or our own where it was sent twice
            self.path.fs.pipe_file(self.path.path, self.content(), mode="create")
        if found:  # another process may have seen that it had run out as well, and have removed ours
            time.sleep(2 * POLL)
        return self.read().get("owner") == self.owner

    def renew(self, done: threading.Event) -> None:
        while not done.wait(RENEWED_EVERY):
            try:
                if self.read().get("owner") != self.owner:
                    logger.error("error: %s was taken by another process: this one was not heard of", self.path)
                    return
                self.path.fs.pipe_file(self.path.path, self.content())
            except Exception as error:  # of many kinds; the next time it may be there again
                logger.warning("warning: %s cannot be renewed: %s", self.path, error)

    def content(self) -> bytes:
        return json.dumps({"owner": self.owner, "until": time.time() + VALID_FOR}).encode()

    def read(self) -> dict[str, Any]:
        """Empty: there is none."""
        try:
            found = json.loads(self.path.fs.cat_file(self.path.path))
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
