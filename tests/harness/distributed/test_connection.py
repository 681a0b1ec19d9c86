"""Where no Ray can answer, a command says so at once."""

import socket
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


@pytest.mark.parametrize("main", [train.main, tune.main])
def test_waiting_without_a_cluster_is_refused(main: object, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(main)
    assert_refused(call(main, capsys, "--wait"), here, "--wait", "--address")
