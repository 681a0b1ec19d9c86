"""The server of MLflow's pages, from its start to its end."""

import os
import signal
import socket
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.commands import finish, start, wait_for


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int) -> bool:
    try:
        return bool(urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200)
    except OSError:
        return False


def processes_of(store: Path) -> set[int]:
    """All that have the store on their command line or in their environment."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        except OSError:  # another user's, or gone
            continue
        if str(store).encode() in words and int(folder.name) != os.getpid():
            found.add(int(folder.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "serving"), [(signal.SIGTERM, True), (signal.SIGINT, False), (signal.SIGHUP, False)]
)
def test_a_signal_ends_the_server_and_all_its_processes_and_frees_the_port(
    number: int, serving: bool, here: Path
) -> None:
    """Once while it serves; and, since that takes it seconds, twice as soon as there is a server to end."""
    port, store = free_port(), here / "mlflow.db"
    process = start("harness.ui", f"--port={port}", f"--tracking-uri=sqlite:///{store}", cwd=here)
    wait_for(lambda: answers(port) if serving else len(processes_of(store)) >= 2, process)
    assert len(processes_of(store)) >= 2
    before = time.monotonic()
    os.kill(process.pid, number)  # to the command alone, as `kill` and systemd do
    result = finish(process)
    assert result.code == 130, result
    assert "stopping the server" in result.err
    assert time.monotonic() - before < 10
    assert processes_of(store) == set()
    with socket.create_server(("127.0.0.1", port)):
        pass
