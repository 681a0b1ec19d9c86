"""A Ray cluster on this machine with ports and a folder of its own, beside any other; ended by the processes it has."""

import json
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
def cluster(cpus: int, *words: str) -> Iterator[str]:
    """The address of a cluster with so many CPUs, started with more words."""
    home = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # its sockets need a short path
    port, client = free_port(), free_port()
    head = ["--head", f"--port={port}", f"--ray-client-server-port={client}", "--include-dashboard=false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))  # its own, whatever this user's clusters have
        try:
            with ray_start(*head, f"--num-cpus={cpus}", "--num-gpus=0", f"--temp-dir={home}", *words):
                yield f"127.0.0.1:{port}"
        finally:
            shutil.rmtree(home, ignore_errors=True)


@contextmanager
def cluster_that_grows(most_cpus: int) -> Iterator[str]:
    """The address of a cluster without a CPU whose autoscaler orders machines with one each; somebody must start them.

    Ray's autoscaler of the first generation, with its provider for tests.
    """
    types = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": most_cpus},
    }
    provider = {"type": "fake_multinode", "use_node_id_as_ip": True}
    provider |= {"disable_node_updaters": True, "disable_launch_config_check": True}
    config: dict[str, object] = {"cluster_name": "grows", "max_workers": most_cpus, "provider": provider}
    config |= {"available_node_types": types, "head_node_type": "ray.head.default", "upscaling_speed": 1.0, "auth": {}}
    config |= {"idle_timeout_minutes": 5, "docker": {}, "file_mounts": {}, "file_mounts_sync_continuously": False}
    commands = [f"{one}_commands" for one in ("setup", "head_setup", "worker_setup", "initialization")]
    commands += ["head_start_ray_commands", "worker_start_ray_commands"]
    lists = (*commands, "cluster_synced_files", "rsync_exclude", "rsync_filter")
    config |= {name: [] for name in lists}
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        file = Path(home) / "autoscaler.yaml"
        file.write_text(json.dumps(config))
        for name, value in (("AUTOSCALER_UPDATE_INTERVAL_S", "1"), ("RAY_FAKE_CLUSTER", "1")):
            patch.setenv(name, value)
        with cluster(0, f"--autoscaling-config={file}") as address:
            yield address


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
