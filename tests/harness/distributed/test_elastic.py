"""Elastic training on a real Ray cluster whose nodes come and go."""

import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch

from harness.training import checkpoint
from tests.clusters import cluster, ray_start
from tests.commands import Result, run, start, wait_for
from tests.harness.test_train import statuses

pytestmark = pytest.mark.slow

STEPS = 160
SLOW = ("--gpus=0", f"--steps={STEPS}", "--eval_every=80", "--checkpoint_every=2", "--log_every=1", "--ssl.tau=0.2")
SLOW += ("--model.norm=group", "--model.width=32", "--model.depth=3", "--optim.lr=0.00003")
SLOW += ("--data.batch_labelled=8", "--data.batch_unlabelled=8")
"""A network without batch statistics whose steps take some tenths of a second. At this rate weights move by 0.01, and
the order in which floats are added moves them by less than 1e-5: at a higher one a label that flips moves them more."""


class Watched:
    """A training whose lines are noted with the time when they came."""

    def __init__(self, *args: str, cwd: Path) -> None:
        self.process = start("harness.train", *args, cwd=cwd)
        self.lines: list[tuple[float, str]] = []
        self.readers = [
            threading.Thread(target=self.read, args=(stream,), daemon=True)
            for stream in (self.process.stdout, self.process.stderr)
        ]
        for reader in self.readers:
            reader.start()

    def read(self, stream: Iterable[str]) -> None:
        for line in stream:
            self.lines.append((time.monotonic(), line))

    def wait(self, pattern: str, since: int = 0, seconds: float = 240) -> int:
        """The number of the first line from `since` on in which the pattern is found, as soon as it is there."""
        end = time.monotonic() + seconds
        while True:
            ended = self.process.poll() is not None
            for number, (_, line) in enumerate(self.lines[since:], since):
                if re.search(pattern, line):
                    return number
            assert not ended, self.text
            assert time.monotonic() < end, (pattern, self.text)
            time.sleep(0.05)

    def until(self, condition: Callable[[], bool]) -> None:
        wait_for(condition, self.process)

    def saved_at(self, number: int) -> int:
        return int(self.lines[number][1].rpartition(" ")[2])

    @property
    def text(self) -> str:
        return "".join(line for _, line in self.lines)

    def finish(self) -> Result:
        code = self.process.wait(240)
        for reader in self.readers:
            reader.join(10)
        return Result(code, self.text, "")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> checkpoint.State:
    """What one worker has learned in the end."""
    home = tmp_path_factory.mktemp("undisturbed")
    result = run("harness.train", *SLOW, "--workers=1", "--name=one", cwd=home)
    assert result.code == 0, result
    return end_state(home / "runs/one")


@pytest.fixture
def grows_always() -> Iterator[None]:
    """However little is left."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_GROW_IF_LEFT", "0.1")
        yield


def end_state(folder: Path) -> checkpoint.State:
    newest = checkpoint.newest(folder)
    assert newest is not None
    return checkpoint.load(newest, 0)[0]


def assert_same_weights(found: checkpoint.State, expected: checkpoint.State) -> None:
    assert found["step"] == expected["step"] == STEPS
    for network in ("student", "teacher"):
        for key, value in expected[network].items():
            torch.testing.assert_close(found[network][key], value, rtol=0, atol=1e-5, msg=f"{network} {key}")


def newest_step(folder: Path) -> int:
    steps = [int(path.name.split("_")[1]) for path in (folder / "checkpoints").glob("step_*") if path.suffix == ""]
    return max(steps, default=0)


def test_workers_that_go_with_their_machines_and_come_back_change_nothing_but_speed(
    tmp_path: Path, undisturbed: checkpoint.State, grows_always: None
) -> None:
    """4 -> 2, since a machine dies, -> 4, since one comes, -> 2, since one has got notice."""
    home = tmp_path / "runs/e"
    with cluster(2) as address:
        with ray_start(f"--address={address}", "--num-cpus=2"):
            command = Watched(*SLOW, "--workers=1:4", "--name=e", f"--address={address}", cwd=tmp_path)
            command.wait("^4 worker")
            command.until(lambda: newest_step(home) >= 10)
        died = time.monotonic()
        two = command.wait("^2 worker")
        lost = newest_step(home)
        command.until(lambda: newest_step(home) > lost)
        print(f"a machine died after step {lost}: next steps after {time.monotonic() - died:.1f} s")
        with ray_start(f"--address={address}", "--num-cpus=2") as node:
            came = time.monotonic()
            grown = command.wait("there is room for 4 workers; saved at step", two)
            four = command.wait("^4 worker", grown)
            print(f"a machine came: left after {command.lines[grown][0] - came:.1f} s")
            command.until(lambda: newest_step(home) > command.saved_at(grown))
            print(f"next steps {time.monotonic() - command.lines[grown][0]:.1f} s later")
            sent = time.monotonic()
            node.send_signal(signal.SIGTERM)
            left = command.wait("about to go; saved at step", four)
            print(
                f"notice at step {command.saved_at(left)}: saved and left after {command.lines[left][0] - sent:.1f} s"
            )
            assert command.lines[left][0] - sent < 10
            command.until(lambda: newest_step(home) > command.saved_at(left))
            print(f"next steps {time.monotonic() - command.lines[left][0]:.1f} s later")
            result = command.finish()
    assert result.code == 0, result
    assert_same_weights(end_state(home), undisturbed)
    assert statuses(tmp_path) == {"e": "FINISHED"}
