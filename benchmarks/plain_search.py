"""The loop that one would write by hand: Optuna's ask and tell over a process pool. benchmarks/search.py compares.

    python benchmarks/plain_search.py SPACE FOLDER

The same training function, parallelism and configurations as harness.tune over the same file; random sampling, no early
stopping, no resume, no display. Writes FOLDER/plain.json: [end (time.time()), val metric, seconds] of each trial.
"""

import argparse
import json
import os
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path

import torch

from harness.cli.preflight import check_data_and_network
from harness.config.batch_size import with_batch_size
from harness.config.search import read_space
from harness.config.train import TrainConfig, check_types, override
from harness.search.search_space import initial_points, search_parameters
from harness.search.searcher import OptunaSampler
from harness.search.trial_store import TrialRecord
from harness.tracking.experiment import find_or_create_experiment
from harness.tracking.run import Run
from harness.tracking.store import create_run
from harness.training.context import LocalContext
from harness.training.trainer import TrainJob, train


def run(config: TrainConfig, uri: str, experiment: str, folder: Path) -> tuple[dict[str, float], float, float]:
    """Train one configuration: its metrics, when it ended, and how long it took."""
    start = time.time()
    torch.set_num_threads(1)
    folder.mkdir(parents=True)
    run_id = create_run(uri, experiment, folder.name, {})
    job = TrainJob(config, folder, uri, run_id, "trial")
    metrics = train(job, LocalContext(torch.device("cpu"), lambda _: None))
    with Run(uri, run_id, folder) as run:
        run.finish("FINISHED")
    return metrics, time.time(), time.time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", type=Path, metavar="SPACE")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    source, folder = given.space, given.folder
    search = read_space(source)
    base = with_batch_size(check_types(search.train, str(source)), 1)
    check_data_and_network(base, 1, ("val",))
    axes = search_parameters(search, base, source)
    trials, points = initial_points(search, axes, source)
    optuna = OptunaSampler(axes, sampler="random", seed=search.seed, mode=search.mode, trials=trials, points=points)
    uri = f"sqlite:///{folder}/plain.db"
    experiment, cores = find_or_create_experiment(uri, "plain"), os.cpu_count() or 1
    records: list[TrialRecord] = []
    running: dict[Future[tuple[dict[str, float], float, float]], TrialRecord] = {}
    ended: list[tuple[float, float, float]] = []
    with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
        while len(ended) < trials:
            while len(running) < cores and len(records) < trials:
                record = TrialRecord(len(records), optuna.ask().values, base.steps)
                records.append(record)
                job = pool.submit(run, override(base, record.values), uri, experiment, folder / str(record.number))
                running[job] = record
            for job in wait(running, return_when=FIRST_COMPLETED).done:
                record, (metrics, end, seconds) = running.pop(job), job.result()
                record.state, record.intermediate_values = "complete", [(base.steps, metrics[search.metric])]
                optuna.tell(record)
                ended.append((end, metrics[search.metric], seconds))
    (folder / "plain.json").write_text(json.dumps(ended))


if __name__ == "__main__":
    main()
