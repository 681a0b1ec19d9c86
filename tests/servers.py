"""PostgreSQL and MLflow's server on this machine, for tests."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.commands import wait_for

USER = "postgres"


@contextmanager
def postgres(port: int) -> Iterator[str]:
    """The URI of an empty database."""
    binaries = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
    if binaries is None:
        pytest.skip("PostgreSQL is not installed")
    own = {"user": USER, "group": USER, "extra_groups": []} if os.getuid() == 0 else {}  # it refuses to run as root
    with TemporaryDirectory() as home:
        if own:
            shutil.chown(home, USER, USER)
        data, quiet = f"{home}/data", {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        words = ["-D", data, "-U", USER, "-A", "trust", "-N"]
        subprocess.run([binaries / "initdb", *words], check=True, cwd=home, **own, **quiet)  # type: ignore[call-overload]
        words = ["-D", data, "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-k", home, "-F"]
        server = subprocess.Popen([binaries / "postgres", *words], cwd=home, **own, **quiet)  # type: ignore[call-overload]
        try:
            ready = [binaries / "pg_isready", "--quiet", "-h", home, "-p", str(port)]
            wait_for(lambda: subprocess.run(ready).returncode == 0, server)
            yield f"postgresql://{USER}@127.0.0.1:{port}/{USER}"
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()


@contextmanager
def mlflow_server(port: int, store: str, artifacts: str) -> Iterator[str]:
    """Its address; killed when the block ends.

    Args:
        store: URI of its database.
        artifacts: where it keeps files.
    """
    place = ("--host=127.0.0.1", f"--port={port}", "--workers=1")
    stores = (f"--backend-store-uri={store}", f"--artifacts-destination={artifacts}")
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *place, *stores],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        wait_for(lambda: answers(port), server)
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def answers(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
