"""Connects to Ray, one of our own or a cluster, while a block lasts, and counts how many trials fit at once."""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import ray
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

from harness import RAY_ENVIRONMENT
from harness.background import in_background
from harness.config.search import Resources
from harness.config.train import Values
from harness.distributed import autoscaler
from harness.distributed.bundles import Bundle, trial_bundles
from harness.distributed.cluster import leaving, total
from harness.distributed.heartbeat import disconnect
from harness.distributed.nodes import Needs, check_nodes, is_for_one_machine, refuse_sqlite
from harness.distributed.waiting import keeping_signal_handlers, wait_for_room
from harness.errors import UserError
from harness.storage import is_remote

OWN = "classmix_harness_own"
"""A key in the store of a Ray that belongs to one command."""
STATE_API_PATIENCE = 20.0
"""Seconds in which the State API answers, of a Ray that has just started as well."""
OBJECT_STORE_BYTES = 100 * 1024 * 1024  # nothing large goes through it


def quiet() -> None:
    ray._private.worker._worker_logs_enabled = False  # the raylet's ten lines on each worker that dies have no switch
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def connected(
    address: str | None, verbose: bool, *, num_cpus: int | None = None, include_dashboard: bool = False
) -> Iterator[None]:
    """A Ray of our own for as long as the block lasts, or a cluster's.

    Args:
        num_cpus: that a Ray of our own counts; None: those of the machine.
        include_dashboard: with a Ray of our own.

    Raises:
        UserError: no cluster answers at the address, or one that is another command's own.
    """
    if not verbose:
        quiet()
    require_listener(address)
    local: Values = {}
    if address is None:
        local = {"num_cpus": num_cpus, "include_dashboard": include_dashboard}
        local |= {"object_store_memory": OBJECT_STORE_BYTES}
        os.environ.pop("RAY_ADDRESS", None)
    else:  # a cluster does not inherit our environment; given to a Ray of our own, it would make it start afresh
        local = {"runtime_env": {"env_vars": RAY_ENVIRONMENT}}
    try:
        with keeping_signal_handlers():
            ray.init(
                address=address or "local",
                log_to_driver=verbose,
                logging_level=logging.INFO if verbose else logging.ERROR,
                **local,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        if address is None:
            raise
        reason = str(error).splitlines()[0]
        if "RAY_AUTH_MODE" not in os.environ:  # Ray says no more than that it cannot connect
            reason += " (one with token authentication, Ray's default, needs RAY_AUTH_MODE=token, or --address auto)"
        raise UserError(f"--address: a Ray cluster must answer there, but got {address}: {reason}") from error
    if not verbose:
        quiet()
    try:
        if address is None:
            _internal_kv_put(OWN, "yes")
        elif _internal_kv_get(OWN):
            rule = "must be a cluster's; that of another command ends with it"
            raise UserError(f"--address: {rule}, but got {address}, which leads to {cluster_name()}.")
        yield
    finally:
        disconnect()


def ray_storage(folder: Path) -> dict[str, Any]:
    """Where Ray Train and Tune keep their own files, as arguments of a RunConfig."""
    if not is_remote(folder):
        return {"storage_path": str(folder)}
    place = cast(Any, folder)
    return {"storage_path": place.path, "storage_filesystem": PyFileSystem(FSSpecHandler(place.fs))}


def require_listener(address: str | None) -> None:
    """
    Raises:
        UserError: an address HOST:PORT where nothing listens: Ray would try for twelve minutes; or one of Ray's client.
    """
    if address and "://" in address:
        rule = "must be auto or the HOST:PORT of a head; from elsewhere send the command there by: ray job submit"
        raise UserError(f"--address: {rule}, but got {address}.")
    try:
        place = urlsplit(f"//{address}")
        if place.hostname and place.port:
            socket.create_connection((place.hostname, place.port), timeout=5).close()
    except (OSError, ValueError) as error:  # the latter from a port that is no number
        raise UserError(f"--address: a Ray cluster must listen there, but got {address}: {error}") from error


def cluster_resources(address: str, needs: Needs | None) -> tuple[dict[str, float], str]:
    """CPU and GPU of the machines of a cluster that stay, and how to call it.

    Raises:
        UserError: none answers at the address, or one of its machines lacks what is needed.
    """
    with connected(address, verbose=False):
        if needs is not None:
            check_nodes(needs)
        return {unit: total(unit) for unit in ("CPU", "GPU")}, cluster_name()


def autoscaler_adds(address: str, bundles: Sequence[Bundle], store: str) -> bool:
    """Whether a cluster that lacks room for all bundles at a time grows when it is asked for.

    Args:
        store: URI of MLflow's.

    Raises:
        UserError: it does, and the store is for one machine.
    """
    with connected(address, verbose=False):
        grows = autoscaler.can_add(bundles)
    if grows:
        refuse_sqlite(store, "machines that its autoscaler adds")
    return grows


def cluster_name() -> str:
    """Of the one that is connected, by the address of its control service."""
    return f"the Ray cluster at {ray.get_runtime_context().gcs_address}"


@contextmanager
def connected_for_trials(
    resources: Resources, store: str, address: str | None, verbose: bool, wait: bool, say: Callable[[str], None]
) -> Iterator[Callable[[], int]]:
    """Ray for a study, and how many trials fit at a time, asked anew whenever one may start.

    A Ray of our own has as many cores as a trial needs even where there are fewer. On a cluster that is busy, room for
    one trial is waited for.

    Args:
        store: URI of MLflow's; where it is for one machine, no other one is asked for.
        wait: also for nodes that a cluster does not have yet.
        say: tells the user where it runs and what is waited for.

    Raises:
        UserError: no cluster answers, it has no room for a trial, or trials of several workers would leak.
        KeyboardInterrupt: Ctrl-C or SIGTERM while it waits.
    """
    several = resources.workers_per_trial > 1
    cores = max(os.cpu_count() or 1, resources.all_cpus)
    with connected(address, verbose, num_cpus=cores, include_dashboard=several):  # the State API lives in it
        refuse_leaks(resources)
        if address is not None:
            if not wait:
                refuse_no_room(resources)
            say(f"on {cluster_name()}")
            wait_for_room(trial_bundles(resources), say)
        fixed = address is None or is_for_one_machine(store)
        one_more = trial_bundles(resources) * (workers_that_fit(resources) // resources.workers_per_trial + 1)
        yield Room(resources, in_background(lambda: not fixed and autoscaler.can_add(one_more)))


def refuse_leaks(resources: Resources) -> None:
    """
    Raises:
        UserError: trials of several workers would leave their resources taken when they are killed.
    """
    if resources.workers_per_trial > 1 and not state_api_answers():
        rule = "trials of several workers need Ray's State API, which frees what a killed trial leaves behind"
        got = resources.workers_per_trial
        raise UserError(f"resources.workers: {rule}, but it does not answer (is ray[default] installed?); got {got}.")


def state_api_answers() -> bool:
    """Whether Ray's State API can be reached; Ray Train needs it to free what a killed trial leaves behind."""
    from ray.util.state import list_actors

    address = ray.get_runtime_context().gcs_address  # it would look for any Ray on this machine
    end = time.monotonic() + STATE_API_PATIENCE
    while True:
        try:
            list_actors(address, limit=1, timeout=10)
        except Exception:  # of many kinds: connection, aiohttp, its own
            if time.monotonic() > end:
                return False
            time.sleep(1)
        else:
            return True


def refuse_no_room(resources: Resources) -> None:
    """
    Raises:
        UserError: a trial fits on none of the machines, and no other ones are added when it is asked for.
    """
    fit, each = workers_that_fit(resources), resources.workers_per_trial
    if fit < each and not autoscaler.can_add(trial_bundles(resources)):
        raise UserError(f"resources: {each} worker(s) a trial asked for, but there is room for {fit}.")


def workers_that_fit(resources: Resources) -> int:
    """How many workers of trials all machines that stay have room for, if nobody else is there."""
    fit, going = 0, leaving()
    for node in ray.nodes():
        there = node["Resources"] if node["Alive"] and node["NodeID"] not in going else {}
        workers = int(there.get("CPU", 0) // resources.cpus)
        if resources.gpus:
            on_each = int(1 / resources.gpus + 1e-9) if resources.gpus < 1 else 1
            workers = min(workers, on_each * int(there.get("GPU", 0)))
        fit += workers
    return fit


class Room:
    """How many trials fit at a time, looked up anew every few seconds, since machines come and go.

    Args:
        grows: whether the autoscaler adds machines when they are asked for, once that is known.
    """

    EVERY = 2.0
    """Seconds."""

    def __init__(self, resources: Resources, grows: Future[bool]) -> None:
        self.resources, self.grows, self.trials, self.looked_at = resources, grows, 1, float("-inf")

    def __call__(self) -> int:
        """At least one, and one more where machines can be added: by what waits the autoscaler knows that it must."""
        if time.monotonic() > self.looked_at + self.EVERY:
            more = self.grows.done() and self.grows.exception() is None and self.grows.result()
            self.trials = max(1, workers_that_fit(self.resources) // self.resources.workers_per_trial + more)
            self.looked_at = time.monotonic()
        return self.trials
