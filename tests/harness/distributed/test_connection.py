"""Where no Ray can answer, a command says so at once."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import train, tune
from harness.distributed.connection import require_listener
from harness.errors import UserError
from tests.clusters import free_port
from tests.commands import SPACE, assert_refused, call


def test_an_address_where_nothing_listens_is_refused_within_seconds(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"127.0.0.1:{free_port()}"
    for main, words in ((train.main, []), (tune.main, [f"--space={SPACE}"])):
        before = time.monotonic()
        assert_refused(call(main, capsys, *words, f"--address={address}"), here, "--address", address)
        assert time.monotonic() - before < 30, "most of it for imports"


@pytest.mark.parametrize("address", [None, "auto", "nowhere", "local"])
def test_an_address_without_a_port_is_left_to_ray(address: str | None) -> None:
    require_listener(address)


def test_where_something_listens_ray_may_try() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        require_listener(f"127.0.0.1:{server.getsockname()[1]}")


def test_an_address_of_rays_client_is_refused_which_knows_no_nodes() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(UserError, match=r"--address: .*ray job submit"),
    ):
        require_listener(f"ray://127.0.0.1:{server.getsockname()[1]}")


def test_a_port_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="--address: a Ray cluster must listen there, but got head:port"):
        require_listener("head:port")


JOINS = """
import subprocess, sys
import harness, ray
from harness.distributed.connection import connected
from harness.errors import UserError
if len(sys.argv) > 1:
    try:
        with connected(sys.argv[1], False):
            print("joined")
    except UserError as error:
        print(error)
else:
    with connected(None, False, num_cpus=1):
        subprocess.run([sys.executable, "-c", sys.stdin.read(), ray.get_runtime_context().gcs_address])
"""


@pytest.mark.slow
def test_the_ray_of_another_command_is_not_joined() -> None:
    words = [sys.executable, "-c", JOINS]
    found = subprocess.run(words, input=JOINS, capture_output=True, text=True, timeout=120)
    assert "another command" in found.stdout, found
    assert "joined" not in found.stdout


@pytest.mark.parametrize("main", [train.main, tune.main])
def test_waiting_without_a_cluster_is_refused(main: object, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(main)
    assert_refused(call(main, capsys, "--wait"), here, "--wait", "--address")
