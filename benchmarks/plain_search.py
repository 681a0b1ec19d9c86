"""The loop that one would write by hand: Optuna's ask and tell over a process pool. benchmarks/search.py compares.

    python benchmarks/plain_search.py SPACE FOLDER

The same training function, parallelism and configurations as harness.tune over the same file; random sampling, no early
stopping, no resume, no display. Writes FOLDER/plain.json: [end (time.time()), val metric, seconds] of each trial.
"""

import json
import os
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path

import torch

from harness.config.search import read_space
from harness.config.train import TrainConfig, from_mapping, override
from harness.search.search_space import parameters, planned
from harness.search.searcher import OptunaProposer
from harness.search.trial_store import Entry
from harness.tracking import Run, open_experiment
from harness.train import check
from harness.training.context import LocalSession
from harness.training.trainer import Job, train


def run(config: TrainConfig, uri: str, experiment: str, folder: Path) -> tuple[dict[str, float], float, float]:
    """Train one configuration: its metrics, when it ended, and how long it took."""
    start = time.time()
    torch.set_num_threads(1)
    folder.mkdir(parents=True)
    log = Run.create(uri, experiment, folder.name, {})
    metrics = train(Job(config, folder, uri, log.run_id, "trial"), LocalSession(torch.device("cpu"), lambda _: None))
    log.finish("FINISHED")
    return metrics, time.time(), time.time() - start


def main() -> None:
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    search = read_space(source)
    base = from_mapping(TrainConfig, search.train)
    check(base, ("val",))
    axes = parameters(search, base, source)
    trials, points = planned(search, axes, source)
    optuna = OptunaProposer(axes, sampler="random", seed=search.seed, mode=search.mode, trials=trials, points=points)
    uri = f"sqlite:///{folder}/plain.db"
    experiment, cores = open_experiment(uri, "plain"), os.cpu_count() or 1
    entries: list[Entry] = []
    running: dict[Future[tuple[dict[str, float], float, float]], Entry] = {}
    ended = []
    with ProcessPoolExecutor(cores, get_context("spawn")) as pool:
        while len(ended) < trials:
            while len(running) < cores and len(entries) < trials:
                entry = Entry(len(entries), optuna.ask().values, base.steps)
                entries.append(entry)
                job = pool.submit(run, override(base, entry.values), uri, experiment, folder / str(entry.number))
                running[job] = entry
            for job in wait(running, return_when=FIRST_COMPLETED).done:
                entry, (metrics, end, seconds) = running.pop(job), job.result()
                entry.state, entry.history = "complete", [(base.steps, metrics[search.metric])]
                optuna.tell(entry)
                ended.append((end, metrics[search.metric], seconds))
    (folder / "plain.json").write_text(json.dumps(ended))


if __name__ == "__main__":
    main()
