"""A Ray cluster on this machine with ports and a folder of its own, beside any other; ended by the processes it has."""

import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

BUSY = """
import sys, ray
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
@ray.remote(num_cpus=int(sys.argv[2]))
class Busy:
    def there(self): return True
taken = Busy.remote()
ray.get(taken.there.remote())
print("taken", flush=True)
sys.stdin.read()
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def ray_start(*words: str, hidden: Path | None = None) -> Iterator["subprocess.Popen[str]"]:
    """`ray start --block` with more words, for as long as the block lasts, in a group of processes of its own.

    Args:
        hidden: a folder that is empty for this node.
    """
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *words]
    if hidden is not None:
        inside = f"mount -t tmpfs none {shlex.quote(str(hidden))} && exec {shlex.join(command)}"
        command = ["unshare", "--map-root-user", "--mount", "bash", "-c", inside]
    process = subprocess.Popen(
        command, start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "Ray runtime started" in line:
                break
        else:
            raise AssertionError("".join(said))
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@contextmanager
def cluster(cpus: int) -> Iterator[str]:
    """The address of a cluster with so many CPUs."""
    home = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # its sockets need a short path
    port, client = free_port(), free_port()
    head = ["--head", f"--port={port}", f"--ray-client-server-port={client}", "--include-dashboard=false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))  # its own, whatever this user's clusters have
        try:
            with ray_start(*head, f"--num-cpus={cpus}", "--num-gpus=0", f"--temp-dir={home}"):
                yield f"127.0.0.1:{port}"
        finally:
            shutil.rmtree(home, ignore_errors=True)


@contextmanager
def busy(address: str, cpus: int) -> Iterator[None]:
    """An actor that holds so many CPUs, for as long as the block lasts."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY, address, str(cpus)], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        yield
    finally:
        process.communicate("")


def wait_for_line(file: Path, line: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while line not in file.read_text():
        assert time.monotonic() < end, file.read_text()
        time.sleep(0.1)
