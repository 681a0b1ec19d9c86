"""Waits until a Ray cluster has room for what is about to start, and says what is missing."""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import contextmanager

import ray
from ray.util import placement_group, remove_placement_group
from ray.util.placement_group import PlacementGroup

from harness.background import in_background
from harness.distributed import heartbeat
from harness.distributed.bundles import Bundle

EVERY = 3.0
"""Seconds between two lines."""
LOOK = 0.5
"""Seconds between two looks at what else may end the waiting."""
AT_ONCE = 2.0
"""Seconds in which Ray reserves what is free."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def wait_for_room(
    bundles: Sequence[Bundle], say: Callable[[str], None], interrupted: Callable[[], bool] = lambda: False
) -> None:
    """Return when the cluster has room for all bundles at a time.

    A placement group asks for it, so that an autoscaler hears of it. It goes again at once: Ray Train and Tune reserve
    for themselves.

    Args:
        interrupted: whether it was, before signals are heard here.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM.
        ClusterLost: see `Heartbeat`.
    """
    beat = heartbeat.Heartbeat()
    with asked_for(bundles) as group, hearing_signals():

        def look() -> str | None:
            return None if group.wait(EVERY) else what_is_missing(bundles, ray.available_resources())

        while True:
            looking = in_background(look)  # where Ray does not answer, this thread hears of it
            while not wait([looking], LOOK).done:
                beat.beats()
                if interrupted():
                    raise KeyboardInterrupt
            if (missing := looking.result()) is None:
                return
            say(missing)


def has_room(bundles: Sequence[Bundle]) -> bool:
    """Whether the cluster has room for all bundles at a time, now."""
    with asked_for(bundles) as group:
        return group.wait(AT_ONCE)


@contextmanager
def asked_for(bundles: Sequence[Bundle]) -> Iterator[PlacementGroup]:
    """A placement group that may have to wait for room, removed when the block ends."""
    group = placement_group([dict(bundle) for bundle in bundles], strategy="PACK")
    try:
        yield group
    finally:
        if not heartbeat.lost:
            remove_placement_group(group)


@contextmanager
def keeping_signal_handlers() -> Iterator[None]:
    """Put those of Ctrl-C and SIGTERM back when the block ends: Ray's own of SIGTERM aborts the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def hearing_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt in the block at Ctrl-C or SIGTERM."""
    with keeping_signal_handlers():
        for number in SIGNALS:
            signal.signal(number, signal.default_int_handler)
        yield


def what_is_missing(bundles: Sequence[Bundle], free: Mapping[str, float]) -> str:
    """One line for the user."""
    parts = []
    for unit in ("CPU", "GPU"):
        asked, there = sum(bundle.get(unit, 0) for bundle in bundles), free.get(unit, 0)
        if asked > there:
            more = asked - there
            parts.append(f"{more:g} more {unit}{'' if more == 1 else 's'}, {there:g} of {asked:g} there")
    wanted = " and ".join(f"{count:g} {unit}" for unit, count in bundles[0].items())
    return f"waiting for {'; '.join(parts) or f'a machine with {wanted} free: there are enough, but on several'}"
