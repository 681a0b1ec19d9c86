"""Run the project's commands in tests: in this process (fast), or as a user does."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from harness.cli.exit_code import run_command

TINY = (
    "--steps=6",
    "--eval_every=2",
    "--log_every=2",
    "--data.batch_labelled=2",
    "--data.batch_unlabelled=2",
    "--model.width=4",
    "--model.depth=1",
)
"""A training of seconds."""
TINY_TRAIN = tuple(f"--train.{word[2:]}" for word in TINY)

ROOT = Path(__file__).parents[1]
SPACE = ROOT / "search_spaces" / "tau_ema.yaml"


class Result(NamedTuple):
    code: int
    out: str
    err: str


def call(main: Callable[[Sequence[str]], int], capsys: pytest.CaptureFixture[str], *args: str) -> Result:
    """Run a command's main here, with its errors shown as they are to a user."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run_command(main, list(args))
    captured = capsys.readouterr()
    assert isinstance(stop.value.code, int)
    return Result(stop.value.code, captured.out, captured.err)


def assert_refused(result: Result, folder: Path, *words: str) -> None:
    """One line with all the words, exit code 2, no traceback, nothing written to the folder."""
    assert result.code == 2, result
    assert result.err.count("\n") == 1, result.err
    assert result.err.startswith("error: ")
    assert "Traceback" not in result.err + result.out
    for word in words:
        assert word in result.err, (word, result.err)
    assert not list(folder.iterdir()), list(folder.iterdir())


def files(folder: Path) -> dict[Path, int]:
    """All files below a folder, with the time of their last change."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def start(module: str, *args: str, cwd: Path) -> subprocess.Popen[str]:
    """`python -m module args` in a folder, in a process group of its own."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.Popen(
        [sys.executable, "-m", module, *args],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 240) -> Result:
    out, err = process.communicate(timeout=timeout)
    return Result(process.returncode, out, err)


def run(module: str, *args: str, cwd: Path) -> Result:
    return finish(start(module, *args, cwd=cwd))


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 180) -> None:
    """Until the condition holds; fails if the process ends first."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


def worker_processes(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Ray Train's workers among all that a command has started."""
    found = []
    for one in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.Error):  # it is gone by now, or a zombie
            if "RayTrainWorker" in " ".join(one.cmdline()):
                found.append(one)
    return found


class TrainingOnTwo:
    """A training on two workers whose output is read as it comes, so that nothing old is taken for new."""

    def __init__(self, *args: str, cwd: Path) -> None:
        self.process = start("harness.train", *args, "--gpus=0", "--workers=2", cwd=cwd)
        self.lines: list[str] = []
        self.seen: set[int] = set()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self) -> None:
        for line in self.process.stdout or ():
            self.lines.append(line)

    def await_workers(self) -> list[psutil.Process]:
        """The workers that have started since it was last asked, once they have evaluated twice."""
        found: list[psutil.Process] = []

        def there() -> bool:
            found[:] = [one for one in worker_processes(self.process) if one.pid not in self.seen]
            return len(found) == 2

        wait_for(there, self.process)
        self.seen.update(one.pid for one in found)
        before = len(self.lines)
        wait_for(lambda: sum(line.startswith("step ") for line in self.lines[before:]) > 1, self.process)
        return found

    def finish(self) -> Result:
        code = self.process.wait(240)
        self.reader.join(10)
        assert self.process.stderr is not None
        return Result(code, "".join(self.lines), self.process.stderr.read())


def interrupt(process: subprocess.Popen[str]) -> tuple[Result, float]:
    """Ctrl-C as a terminal sends it: to the command. Returns its result and how long it took."""
    before = time.monotonic()
    process.send_signal(signal.SIGINT)
    result = finish(process)
    return result, time.monotonic() - before
