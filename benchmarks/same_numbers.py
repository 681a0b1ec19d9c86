"""Whether two commits compute the same, bit for bit: run it on both and compare what it prints.

    python benchmarks/same_numbers.py > after.txt

It goes through the commands alone, so it runs on any commit: the losses of 20 seeded steps of one and two CPU workers
for each mask and each lambda, and the networks that they end with; the first 12 configurations of the default search,
one trial at a time, and what they reach; `--print_config` of every recipe. Each line is a digest of exact numbers.
"""

import hashlib
import io
import json
import os
import sqlite3
import sys
import tempfile
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from contextlib import redirect_stdout
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))  # of the commit that it is run in

import torch
import yaml

from harness.train import main as train
from harness.tune import main as tune

MASKS, WEIGHTS = ("class", "cut", "cow", "none"), ("image", "batch", "pixel", "ramp", "constant")
CURVES = ("train/loss", "train/loss_labelled", "train/loss_unlabelled", "train/lambda", "train/lr", "val/miou")


def digest(value: object) -> str:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def quietly(command, words: list[str]) -> str:  # type: ignore[no-untyped-def]
    """Run a command in this process; its output."""
    out = io.StringIO()
    with redirect_stdout(out):
        try:
            code = command(words)
        except SystemExit as end:
            code = end.code
    assert code in (0, None), (words, code, out.getvalue())
    return out.getvalue()


def training(home: Path, workers: int, mask: str, weight: str) -> str:
    name = f"{workers}-{mask}-{weight}"
    words = ["--steps=20", "--log_every=1", "--eval_every=10", f"--ssl.mix={mask}", f"--ssl.weight={weight}"]
    words += ["--gpus=0", f"--workers={workers}", f"--name={name}", f"--storage-path={home}/runs"]
    quietly(train, [*words, f"--tracking-uri=sqlite:///{home}/{name}.db"])
    with sqlite3.connect(f"{home}/{name}.db") as store:
        query = f"SELECT key, step, value FROM metrics WHERE key IN {CURVES} ORDER BY key, step"
        curves = [(key, step, value.hex()) for key, step, value in store.execute(query)]
    assert len(curves) == 5 * 20 + 2, len(curves)
    networks = [(home / "runs" / name / file).read_bytes() for file in ("best.safetensors", "best_teacher.safetensors")]
    return f"{digest(curves)} {digest(b''.join(networks))}"


def search(home: Path) -> list[str]:
    space = yaml.safe_load(Path("search_spaces/tau_ema.yaml").read_text())
    space |= {"trials": 12, "confirm": {"top": 0}, "resources": {"cpus": os.cpu_count()}}
    (home / "space.yaml").write_text(yaml.safe_dump(space, sort_keys=False))
    words = [f"--space={home}/space.yaml", "--name=s", f"--storage-path={home}/studies"]
    quietly(tune, [*words, f"--tracking-uri=sqlite:///{home}/search.db"])
    lines = []
    for file in sorted((home / "studies/s/trials").glob("*/trial.json")):
        known = json.loads(file.read_text())
        reached = known["history"] if "history" in known else known["intermediate_values"]
        values = ", ".join(f"{key} {value!r}" for key, value in known["values"].items())
        lines.append(f"trial {known['number']}: {values}: {digest(reached)}")
    assert len(lines) == 12
    return lines


def main() -> None:
    ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    for recipe in sorted(Path("recipes").glob("*.yaml")):
        print(f"{recipe}: {digest(quietly(train, [f'--config={recipe}', '--print_config']))}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for workers, mask, weight in product((1, 2), MASKS, WEIGHTS):
            line = training(Path(folder), workers, mask, weight)
            print(f"{workers} worker(s), {mask}, {weight}: {line}", flush=True)
        print(*search(Path(folder)), sep="\n")


if __name__ == "__main__":
    main()
