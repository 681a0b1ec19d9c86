"""Whether a training that is killed again and again ends as if it never was, bit for bit.

    python benchmarks/kill_and_resume.py [--kills 30] [--workers 1] [--steps 60] [--seed 0]

It trains once undisturbed. Then it trains the same, kills it with SIGKILL and resumes it: by turns at a random moment,
from the start of Python on, and while a checkpoint is being written. With several workers half of the kills hit one
worker alone, which the training must survive by itself. In the end networks, optimiser, random states and the curves in
MLflow must be those of the undisturbed run; a run that ends before the last kill is checked and followed by another.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mlflow import MlflowClient

from harness.cli.exit_code import run_command
from harness.errors import DONE, RunFailed
from harness.run_dir import read_run_record
from harness.training import checkpoint

TINY = ("--data.batch_labelled=2", "--data.batch_unlabelled=2", "--model.width=4", "--model.depth=1", "--ssl.tau=0.3")
PACE = ("--checkpoint_every=1", "--eval_every=10", "--log_every=1")
OF_THE_CLOCK = ("worker_seconds", "train/images_per_second", "train/data_wait")
ROOT = Path(__file__).parents[1]


class Training:
    """A training in a folder, as one command or as several, of which each resumes the one before."""

    def __init__(self, home: Path, name: str, workers: int, steps: int) -> None:
        self.folder, self.name, self.home = home / "runs" / name, name, home
        self.words = ["--gpus=0", f"--workers={workers}", f"--steps={steps}", *TINY, *PACE]

    def start(self) -> subprocess.Popen[bytes]:
        known = (self.folder / "run.json").exists()
        words = ["--resume"] if known else self.words
        with (self.home / f"{self.name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "harness.train", f"--name={self.name}", *words],
                cwd=self.home,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def checkpoints(self, pattern: str) -> set[str]:
        return {path.name for path in (self.folder / "checkpoints").glob(pattern)}

    def log(self) -> str:
        return (self.home / f"{self.name}.log").read_text(errors="replace")

    def require_resumable(self, process: subprocess.Popen[bytes], workers: int) -> None:
        """One that ended by itself may have failed only where its workers were killed again and again."""
        if process.returncode > 0 and (workers == 1 or "go on with:" not in self.log()):
            raise RunFailed(f"{self.name} ended with {process.returncode}:\n{self.log()}")

    def result(self) -> dict[str, Any]:
        """All that must be the same."""
        newest = checkpoint.newest(self.folder)
        assert newest is not None
        files = {path.name: torch.load(path, weights_only=True) for path in newest.glob("*.pt")}
        weights = {path.name: path.read_bytes() for path in self.folder.glob("best*.safetensors")}
        return {"checkpoint": files, "weights": weights, "curves": self.curves()}

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        record = read_run_record(self.folder)
        assert record is not None
        client = MlflowClient(record.tracking_uri)
        names = [name for name in client.get_run(record.run_id).data.metrics if name.split("/")[0] in ("train", "val")]
        histories = {name: client.get_metric_history(record.run_id, name) for name in names}
        return {name: [(point.step, point.value) for point in points] for name, points in histories.items()}


def difference(one: Any, other: Any, path: str = "") -> str | None:
    """Where two results differ, to the bit, but for what the clock says."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        keys = (key for key in one if key not in OF_THE_CLOCK)
        return next(filter(None, (difference(one[key], other[key], f"{path}.{key}") for key in keys)), None)
    if isinstance(one, list | tuple) and type(one) is type(other) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return next(filter(None, (difference(*pair, f"{path}.{index}") for index, pair in pairs)), None)
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return None if torch.equal(one, other) else path
    return None if type(one) is type(other) and (one == other or (one != one and other != other)) else path


class Killer:
    """Kills a training at moments of its choice.

    Args:
        longest: seconds from the start of a command to its latest random moment.
    """

    def __init__(self, training: Training, workers: int, longest: float, draw: random.Random) -> None:
        self.training, self.workers, self.longest, self.draw = training, workers, longest, draw

    def wait(self, process: subprocess.Popen[bytes], writing: bool) -> None:
        """Until the moment has come, or the training has ended."""
        end, moment = time.monotonic() + self.draw.uniform(0, self.longest), self.draw.uniform(0, 0.03)
        writes, seen = self.draw.randint(1, 4), set[str]()
        while process.poll() is None and (writing or time.monotonic() < end):
            if writing:
                seen |= self.training.checkpoints("*.part")
                if len(seen) >= writes:
                    time.sleep(moment)
                    return
            time.sleep(0.0005 if writing else 0.01)

    def kill(self, process: subprocess.Popen[bytes]) -> str:
        """All of it or one worker; says which."""
        found = workers_below(process.pid) if self.workers > 1 and self.draw.random() < 0.5 else []
        if found:
            os.kill(self.draw.choice(found), signal.SIGKILL)
            return "one worker"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return "all"


def workers_below(root: int) -> list[int]:
    """The processes of Ray Train's workers among the descendants of a process."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    below, level = set[int](), {root}
    while level := {pid for pid, parent in parents.items() if parent in level}:
        below |= level
    return [pid for pid in sorted(below) if "RayTrainWorker" in command_line(pid)]


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="Of the moments.")
    options = parser.parse_args(args)
    draw, killed, runs = random.Random(options.seed), 0, 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        straight, start = Training(Path(folder), "straight", options.workers, options.steps), time.monotonic()
        if straight.start().wait():
            raise RunFailed(straight.log())
        longest, expected = 1.2 * (time.monotonic() - start), straight.result()
        print(f"undisturbed: {longest / 1.2:.0f} s", flush=True)
        while killed < options.kills:
            runs += 1
            training = Training(Path(folder), f"killed-{runs}", options.workers, options.steps)
            killer, process = Killer(training, options.workers, longest, draw), training.start()
            while killed < options.kills:
                writing = killed % 2 == 1
                killer.wait(process, writing)
                if process.poll() is None:
                    killed += 1
                    moment, whom = "in a write" if writing else "at random", killer.kill(process)
                    at = max(training.checkpoints("step_*"), default="no checkpoint")
                    print(f"kill {killed}: {moment}, {whom}; {at}", flush=True)
                elif process.returncode == 0:
                    break
                if process.poll() is not None:
                    training.require_resumable(process, options.workers)
                    process = training.start()
            while process.wait():
                training.require_resumable(process, options.workers)
                process = training.start()
            if place := difference(expected, training.result()):
                raise RunFailed(f"{training.name} differs from the undisturbed run: {place}\n{training.log()}")
    print(f"{killed} kills in {runs} run(s) of {options.workers} worker(s): all equal the undisturbed one, bit for bit")
    return DONE


if __name__ == "__main__":
    run_command(main)
