"""How long a command takes before it does something, each in a process of its own.

    python benchmarks/start.py [--rounds 5]

import torch     python -c "import torch", which no training can do without.
train --help     and tune --help: what a mistyped flag costs.
first step       harness.train from the command to the end of a training of one step on CPU, on the embedded scenes,
                 with its evaluations and its summary: an upper bound of the time to that step.

By turns, medians over the same round's import of torch; in brackets between which values half of the rounds lie.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable

from timing import by_turns, quotients, told


def command(*words: str) -> Callable[[], None]:
    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), os.getenv("PYTHONPATH", "")])}
            found = subprocess.run([sys.executable, *words], capture_output=True, cwd=folder, env=environment)
        assert found.returncode == 0, found.stderr.decode()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    commands = {
        "import torch": command("-c", "import torch"),
        "train --help": command("-m", "harness.train", "--help"),
        "tune --help": command("-m", "harness.tune", "--help"),
        "first step": command("-m", "harness.train", "--steps=1", "--gpus=0"),
    }
    seconds = by_turns(commands, rounds, warm_up=1)
    for name, found in seconds.items():
        ratio = told(quotients(found, seconds["import torch"]))
        print(f"{name:13} {statistics.median(found):5.1f} s, over import torch {ratio}")


if __name__ == "__main__":
    main()
