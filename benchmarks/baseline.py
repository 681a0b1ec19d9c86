"""ClassMix against supervised-only training: the same steps, labelled images and labelled augmentation, over seeds.

    python benchmarks/baseline.py [--seeds 5] [--config FILE] [any key of harness.train]

Seed s draws the labelled images (data.split_seed) and everything random in training (seed). Prints test mIoU, in
points, of the network of the last step; runs as many trainings at a time as there are cores, one thread each.
"""

import os
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from harness.cli.display import err, make_table, out
from harness.cli.exit_code import run_command
from harness.cli.preflight import check_data_and_network
from harness.config.batch_size import with_batch_size
from harness.config.parser import make_parser
from harness.config.train import TrainConfig, add_train_config, override, train_config
from harness.errors import DONE
from harness.tracking.experiment import find_or_create_experiment
from harness.tracking.store import create_run
from harness.training.context import LocalContext
from harness.training.trainer import TrainJob, train


def miou(config: TrainConfig, uri: str, experiment: str, folder: Path) -> float:
    """Train once; test mIoU in points."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True)
    run_id = create_run(uri, experiment, folder.name, {})
    context = LocalContext(torch.device("cpu"), show=lambda progress: None)
    return 100 * train(TrainJob(config, folder, uri, run_id), context)["test/final_miou"]


def main(args: Sequence[str] | None = None) -> int:
    parser = make_parser("python benchmarks/baseline.py", "ClassMix against supervised-only training.")
    add_train_config(parser)
    parser.add_argument("--seeds", type=int, default=5, help="Seeds of each arm.")
    options = parser.read(args)
    config = with_batch_size(train_config(options.as_dict()), 1)
    check_data_and_network(config, 1)
    arms = {"supervised": 0.0, "ClassMix": config.ssl.unlabelled_weight or 1.0}
    with tempfile.TemporaryDirectory() as home, ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        uri = f"sqlite:///{home}/mlflow.db"
        experiment = find_or_create_experiment(uri, "baseline")
        jobs = {}
        for seed in range(options.seeds):
            for arm, weight in arms.items():
                changes = {
                    "seed": seed,
                    "data.split_seed": seed,
                    "ssl.unlabelled_weight": weight,
                    "eval_every": config.steps,
                }
                folder = Path(home) / f"{arm}-{seed}"
                jobs[seed, arm] = pool.submit(miou, override(config, changes), uri, experiment, folder)
        title = f"test mIoU in points: {config.data.name}, {config.model.name}, {config.steps} steps"
        table = make_table(title, ("seed", *arms, "difference"))
        pairs = []
        for seed in range(options.seeds):
            supervised, classmix = (jobs[seed, arm].result() for arm in arms)
            pairs.append((supervised, classmix, classmix - supervised))
            err.print(f"seed {seed}: {supervised:.1f} {classmix:.1f}")
            table.add_row(str(seed), *(f"{value:.1f}" for value in pairs[-1]))
        table.add_section()
        columns = list(zip(*pairs, strict=True))
        table.add_row("mean", *(f"{statistics.mean(values):.1f}" for values in columns))
        table.add_row("std", *(f"{statistics.stdev(values) if len(values) > 1 else 0:.1f}" for values in columns))
        out.print(table)
        out.print(f"ClassMix is ahead on {sum(pair[2] > 0 for pair in pairs)} of {len(pairs)} seeds")
    return DONE


if __name__ == "__main__":
    run_command(main)
