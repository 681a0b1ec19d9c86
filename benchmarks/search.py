"""harness.tune against the loop that one would write by hand (benchmarks/plain_search.py), on the same trials.

    python benchmarks/search.py [--space search_spaces/tau_ema.yaml] [--trials 24] [--steps 500]

Prints, from one run of each, one after the other: trials per hour without early stopping, the plain loop's as the mean
of a run before and one after, as machines drift; the time to the plain search's final best with early stopping; how
busy the cores were; and what a trial costs besides its steps and evaluations. Every time counts from the start of the
command.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from harness.cli.display import err, make_table, out
from harness.cli.exit_code import run_command
from harness.errors import DONE
from harness.search.trial_store import TrialStore

CORES = os.cpu_count() or 1
TICKS = os.sysconf("SC_CLK_TCK")


class TrialCpu(threading.Thread):
    """CPU seconds of the trials' processes below a process, sampled while it lives."""

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self.root, self.seconds = root, {}  # type: ignore[var-annotated]
        self.samples: list[tuple[float, float]] = []

    def run(self) -> None:
        while Path(f"/proc/{self.root}").exists():
            for pid in descendants(self.root):
                try:
                    name = Path(f"/proc/{pid}/cmdline").read_text()
                    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                except OSError:
                    continue
                if "ImplicitFunc" in name or self.seconds.get(pid):  # the actors in which trials run
                    self.seconds[pid] = (int(fields[11]) + int(fields[12])) / TICKS
            self.samples.append((time.time(), sum(self.seconds.values())))
            time.sleep(0.25)

    def share(self, start: float, end: float) -> float:
        """Of all cores, between two times."""
        inside = [total for at, total in self.samples if start <= at <= end]
        return (inside[-1] - inside[0]) / (end - start) / CORES


def descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found, queue = [], [root]
    while queue:
        queue += (below := children.get(queue.pop(), []))
        found += below
    return found


class Run:
    """A search by harness.tune: when its trials ended and with what."""

    def __init__(self, space: dict[str, Any], folder: Path) -> None:
        folder.mkdir()
        (folder / "space.yaml").write_text(yaml.safe_dump(space))
        self.start = time.time()
        command = [sys.executable, "-m", "harness.tune", "--space=space.yaml", "--name=s"]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        cpu = TrialCpu(process.pid)
        cpu.start()
        assert process.wait() == 0
        self.records = TrialStore(folder / "runs/s", "trials").records
        files = [folder / f"runs/s/trials/{record.number:03d}/trial.json" for record in self.records]
        self.ends = [file.stat().st_mtime for file in files]
        self.seconds = max(self.ends) - self.start
        self.first = min((folder / f"runs/s/trials/{n:03d}/config.yaml").stat().st_mtime for n in range(len(files)))
        self.busy = cpu.share(self.first, max(self.ends))

    def reached(self, value: float) -> float | None:
        """Seconds to the end of the first complete trial as good as a value."""
        pairs = zip(self.ends, self.records, strict=True)
        good = [end for end, one in pairs if one.state == "complete" and (one.metric or 0) >= value - 1e-9]
        return min(good) - self.start if good else None


def plain(space: dict[str, Any], folder: Path) -> tuple[float, list[tuple[float, float, float]]]:
    folder.mkdir()
    (folder / "space.yaml").write_text(yaml.safe_dump(space))
    start = time.time()
    subprocess.run([sys.executable, "benchmarks/plain_search.py", folder / "space.yaml", folder], check=True)
    return start, json.loads((folder / "plain.json").read_text())


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", type=Path, default=Path("search_spaces/tau_ema.yaml"))
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--steps", type=int, default=500)
    options = parser.parse_args(args)
    shipped = yaml.safe_load(options.space.read_text())
    train = {**shipped.get("train", {}), "steps": options.steps}
    space = {**shipped, "train": train, "trials": options.trials, "sampler": "random", "confirm": {"top": 0}}
    through = {**space, "early_stopping": None}
    with tempfile.TemporaryDirectory() as home:
        start, ended = plain(through, Path(home) / "plain")
        first_seconds = max(end for end, _, _ in ended) - start
        best = max(value for _, value, _ in ended)
        plain_best = min(end for end, value, _ in ended if value == best) - start
        err.print(f"plain loop: {first_seconds:.0f} s, best {best:.3f} after {plain_best:.0f} s")
        ours = Run(through, Path(home) / "through")
        err.print(f"harness.tune, no early stopping: {ours.seconds:.0f} s")
        start, again = plain(through, Path(home) / "plain again")
        second_seconds = max(end for end, _, _ in again) - start
        plain_seconds = fmean((first_seconds, second_seconds))
        err.print(f"plain loop again: {second_seconds:.0f} s")
        stopping = Run(space, Path(home) / "stopping")
        reached = stopping.reached(best)
        err.print(f"harness.tune, ASHA: {stopping.seconds:.0f} s, best reached after {reached} s")
        short = Run({**through, "trials": 20, "train": {**train, "steps": 1, "log_every": 1}}, Path(home) / "short")
    title = f"{options.trials} trials of {options.steps} steps on {CORES} cores"
    table = make_table(title, ("", "plain loop", "harness.tune", "ratio"))
    per_hour = [3600 * options.trials / seconds for seconds in (plain_seconds, ours.seconds)]
    row = (f"{per_hour[0]:.0f}", f"{per_hour[1]:.0f}", f"{per_hour[1] / per_hour[0]:.2f}")
    table.add_row("trials per hour, no early stopping", *row)
    if reached is None:
        table.add_row("time to the plain search's best, ASHA", f"{plain_best:.0f} s", "never", "-")
    else:
        row = (f"{plain_best:.0f} s", f"{reached:.0f} s", f"{plain_best / reached:.2f}")
        table.add_row("time to the plain search's best, ASHA", *row)
    table.add_row("time to the end, ASHA", f"{plain_seconds:.0f} s", f"{stopping.seconds:.0f} s", "")
    table.add_row("busy core share, no early stopping", "", f"{ours.busy:.2f}", "")
    table.add_row("busy core share, ASHA", "", f"{stopping.busy:.2f}", "")
    out.print(table)
    gap = (max(short.ends) - sorted(short.ends)[CORES - 1]) * CORES / (len(short.ends) - CORES)
    out.print(f"a trial of one step and one evaluation: {gap:.2f} s from one to the next in an actor")
    out.print(f"training function in the plain loop: {fmean(seconds for _, _, seconds in ended):.1f} s a trial")
    return DONE


if __name__ == "__main__":
    run_command(main)
