"""Records trainings in full for `harness.tune --simulate`: their curves, and what they got right in each image.

    python benchmarks/record_curves.py search_spaces/tau_ema.yaml OUT.npz --work DIR [--curves 128] [--baseline 24]
        [--repeats 8] [--processes 2] [--set data.name=camvid data.root=DIR ...]

Trained are, at full length: `--curves` configurations spread evenly over the space (Sobol) with the start points among
them; `--baseline` ones without unlabelled images (ssl.unlabelled_weight 0), spread over the axes that mean something
there; then the best three, the start points and the best baseline again from `--repeats` seeds, the same for each. A
run of seed s has the labelled images that are drawn by data.split_seed s. DIR keeps each run: the same command goes on
where it was interrupted.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
import yaml
from optuna.distributions import FloatDistribution
from scipy.stats import qmc

from classmix_core.data.loader import evaluation_batches
from classmix_core.evaluate import evaluate
from harness.cli.display import err
from harness.cli.exit_code import run_command
from harness.config.batch_size import with_batch_size
from harness.config.search import UNLABELLED_WEIGHT, read_space
from harness.config.train import TrainConfig, Values, check_types, flatten, override
from harness.errors import DONE, TrainingError, UserError
from harness.search.search_space import SearchParameter, decode, search_parameters, supervised_axes
from harness.training.context import LocalContext
from harness.training.trainer import Trainer, TrainJob

BASELINE = {UNLABELLED_WEIGHT: 0.0}
REPEATED = 3
"""How many of the best are repeated."""
FIRST_SEED = 1000
"""Of the runs that are not repeated, so that none has the images and weights of a repeated one."""


@dataclass
class Recorder(LocalContext):
    """Keeps what each evaluation reports."""

    curve: dict[int, float] = field(default_factory=dict)

    def report(self, metrics: dict[str, float]) -> None:
        self.curve[int(metrics["step"])] = metrics["val/miou"]


def record(base: TrainConfig, values: Values, seed: int, path: Path) -> None:
    """Train one configuration and write what it reached; of a run that diverges an empty curve."""
    torch.set_num_threads(1)
    config = with_batch_size(override(base, {**values, "seed": seed, "data.split_seed": seed}), 1)
    context = Recorder(torch.device("cpu"), lambda progress: None)
    found: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(TrainJob(config, Path(folder), f"sqlite:///{folder}/mlflow.db", "none", "run"), context)
        trainer.run_log = None
        trainer.finish = trainer.report  # type: ignore[method-assign]
        trainer.save = lambda: None  # type: ignore[method-assign]
        try:
            trainer.run()
        except TrainingError:
            context.curve = {}
        for role in ("val", "test"):
            number = len(getattr(trainer.data, role).names)
            found[role] = np.stack([image_counts(trainer, role, place) for place in range(number)])
    steps = np.array(sorted(context.curve), dtype=np.int32)
    curve = np.array([context.curve[step] for step in steps])
    about = json.dumps({"values": values, "seed": seed, "classes": list(trainer.data.classes)})
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, steps=steps, curve=curve, about=np.array(about), **found)  # type: ignore[arg-type]
    part.rename(path)


def image_counts(trainer: Trainer, role: str, place: int) -> np.ndarray:
    """int32 (3, K) of one image: pixels that are rightly predicted, predicted, and labelled as each class."""
    samples, config = getattr(trainer.data, role), trainer.config
    batches = evaluation_batches(
        samples, 1, resize=config.data.resize, resize_labels=True, rank=place, world_size=len(samples.names)
    )
    matrix = evaluate(trainer.evaluated, batches, len(trainer.data.classes), torch.device("cpu")).numpy()
    return np.stack([matrix.diagonal(), matrix.sum(0), matrix.sum(1)]).astype(np.int32)


def spread(axes: Sequence[SearchParameter], count: int) -> list[Values]:
    """So many points, spread evenly over ranges on the scale that they are drawn on."""
    for axis in axes:
        if not isinstance(axis.distribution, FloatDistribution):
            rule = "curves are recorded over ranges of real numbers"
            raise UserError(f"space.{axis.key}: {rule}, but got {axis.distribution}.")
    shares = qmc.Sobol(len(axes), rng=0).random_base2((count - 1).bit_length())[:count].tolist()
    return [decode(axes, {axis.name: axis.drawn_at(at) for axis, at in zip(axes, row, strict=True)}) for row in shares]


def final(path: Path) -> float:
    with np.load(path) as found:
        return float(found["curve"][-1]) if len(found["curve"]) else -1.0


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", type=Path, metavar="SPACE")
    parser.add_argument("out", type=Path, metavar="OUT.npz")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR")
    parser.add_argument("--curves", type=int, default=128)
    parser.add_argument("--baseline", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="Of the training, beside SPACE.")
    given = parser.parse_args(args)
    search, work = read_space(given.space), given.work
    work.mkdir(parents=True, exist_ok=True)
    settings = dict(word.partition("=")[::2] for word in given.set)
    base = override(
        check_types(search.train, str(given.space)), {key: yaml.safe_load(text) for key, text in settings.items()}
    )
    axes = search_parameters(search, base, given.space)
    plain_axes = supervised_axes(axes)
    points = [*search.start, *spread(axes, given.curves - len(search.start))]
    baseline = [{**values, **BASELINE} for values in spread(plain_axes, given.baseline)]
    jobs = [(values, FIRST_SEED + number) for number, values in enumerate([*points, *baseline])]
    with ProcessPoolExecutor(given.processes, get_context("spawn")) as pool:
        files = train_all(pool, base, jobs, work, "one")
        found = list(zip(files, [values for values, _ in jobs], strict=True))
        best = [values for _, values in sorted(found[: len(points)], key=lambda one: -final(one[0]))[:REPEATED]]
        best += [values for _, values in sorted(found[len(points) :], key=lambda one: -final(one[0]))[:1]]
        again = [*search.start, *best]
        jobs = [(values, seed) for seed in range(given.repeats) for values in again]
        files += train_all(pool, base, jobs, work, "again")
    write_table(files, list(search.space), base, given.out)
    return DONE


def train_all(
    pool: ProcessPoolExecutor, base: TrainConfig, jobs: Sequence[tuple[Values, int]], work: Path, name: str
) -> list[Path]:
    files = [work / f"{name}_{number:03d}.npz" for number in range(len(jobs))]
    waiting = [
        pool.submit(record, base, values, seed, file)
        for (values, seed), file in zip(jobs, files, strict=True)
        if not file.exists()
    ]
    for done, future in enumerate(as_completed(waiting), 1):
        future.result()
        err.print(f"{name}: {done} of {len(waiting)}")
    return files


def write_table(files: Sequence[Path], keys: Sequence[str], base: TrainConfig, out: Path) -> None:
    """All runs as arrays; the pixels that each class has in an image are the same in all of them."""
    runs = []
    for file in files:
        with np.load(file) as found:
            runs.append({name: found[name] for name in found.files})
    about = [json.loads(str(run["about"])) for run in runs]
    steps = max((run["steps"] for run in runs), key=len)
    columns = [*keys, *(key for key in BASELINE if key not in keys)]
    known = flatten(base)
    values = [[one["values"].get(key, known[key]) for key in columns] for one in about]
    empty = np.full(len(steps), np.nan)
    arrays = {
        "keys": np.array(columns),
        "classes": np.array(about[0]["classes"]),
        "values": np.array(values, dtype=np.float64),
        "seeds": np.array([one["seed"] for one in about], dtype=np.int32),
        "steps": steps,
        "curves": np.stack([run["curve"] if len(run["curve"]) else empty for run in runs]).astype(np.float32),
    }
    for role in ("val", "test"):
        arrays[f"{role}_labelled"] = runs[0][role][:, 2]
        arrays[f"{role}_counts"] = np.stack([run[role][:, :2] for run in runs]).astype(np.uint32)
    np.savez_compressed(out, **arrays)  # type: ignore[arg-type]
    whole = fmean(len(run["curve"]) > 0 for run in runs)
    err.print(f"{out}: {len(runs)} curves, {whole:.0%} to the end, {out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    run_command(main)
