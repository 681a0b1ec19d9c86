"""What Ray, a second worker, checkpoints and validation cost, as ratios; and a step's time on 8, 64 and 1,000 workers.

    python benchmarks/scaling.py [--rounds 5] [--only ray,workers,checkpoints,validation,simulation]

Each pair is measured by turns, so that a machine whose speed drifts slows both; what is printed is the median of the
ratios, with the least and the most. A worker computes with one thread, has 4 + 4 images a step as by default, and reads
its own data. Speed is the median over windows of steps, as MLflow has it.
"""

import argparse
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from mlflow import MlflowClient
from rich.console import Console
from rich.table import Table

from classmix_core.models import build_model
from harness.config.batch_size import PER_WORKER, with_batch_size
from harness.config.train import TrainConfig, override
from harness.distributed.elastic import train_on_workers
from harness.tracking.experiment import find_or_create_experiment
from harness.tracking.store import create_run
from harness.training.context import LocalContext
from harness.training.trainer import Purpose, Trainer, TrainJob, train

DEFAULT = {"steps": 900, "log_every": 20}
LARGE = {"steps": 150, "log_every": 5, "model.width": 52}
"""A network whose step takes more than 200 ms on one core. Each trains for half a minute, of which the second half
counts: while workers begin, Ray still starts processes that they share the cores with."""
IMAGES = 2 * PER_WORKER
out = Console(soft_wrap=True)


# -- a training and its speed -----------------------------------------------------------------------------------------


def seconds_an_image(config: TrainConfig, workers: int, ray: bool) -> float:
    """Train in a process of its own."""
    with tempfile.TemporaryDirectory() as home, multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (config, workers, ray, Path(home)))


def measure(config: TrainConfig, workers: int, ray: bool, home: Path) -> float:
    torch.set_num_threads(1)
    config = with_batch_size(override(config, {"eval_every": config.steps}), workers)
    job = new_job(config, home, "trial")
    if ray:
        train_on_workers(job, (workers,), False, None, False, lambda: False, lambda _: None, lambda _: None)
    else:
        train(job, LocalContext(torch.device("cpu"), lambda _: None))
    rates = images_per_second(job)
    return 1 / statistics.median(rates[len(rates) // 2 :])


def new_job(config: TrainConfig, home: Path, purpose: Purpose) -> TrainJob:
    uri = f"sqlite:///{home}/mlflow.db"
    run_id = create_run(uri, find_or_create_experiment(uri, "scaling"), "a", {})
    return TrainJob(config, home / "run", uri, run_id, purpose)


def images_per_second(job: TrainJob) -> list[float]:
    """Of each window."""
    points = MlflowClient(job.tracking_uri).get_metric_history(job.run_id, "train/images_per_second")
    return [point.value for point in points]


def ratios(one: Callable[[], float], other: Callable[[], float], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of `one` over those of `other`, measured by turns; and the seconds of `one`."""
    found, seconds = [], []
    for number in range(rounds):
        pair = [one(), other()] if number % 2 == 0 else [other(), one()][::-1]
        found.append(pair[0] / pair[1])
        seconds.append(pair[0])
    return found, seconds


def told(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


# -- where a training stands still ------------------------------------------------------------------------------------


def stall_by(method: str, config: TrainConfig) -> float:
    """For how long a training stands still in a method of `Trainer`, as a share of its steps' time."""
    held = 0.0
    original = getattr(Trainer, method)

    def timed(*given: object) -> None:
        nonlocal held
        began = time.perf_counter()
        original(*given)
        held += time.perf_counter() - began

    setattr(Trainer, method, timed)
    try:
        with tempfile.TemporaryDirectory() as home:
            steps = 4 * config.eval_every
            config = with_batch_size(override(config, {"steps": steps}), 1)
            torch.set_num_threads(1)
            job = new_job(config, Path(home), "run")
            train(job, LocalContext(torch.device("cpu"), lambda _: None))
            return held / (steps * IMAGES / statistics.median(images_per_second(job)))
    finally:
        setattr(Trainer, method, original)


# -- many workers -----------------------------------------------------------------------------------------------------

SIZES = (2**12, 2**16, 2**20, 2**24)
"""Bytes of the tensors that two processes exchange to learn latency and bandwidth."""
NETWORKS = {"unet, the default": ("unet", 48 * 96), "deeplabv2, the paper's": ("deeplabv2", 512 * 1024)}
"""And pixels of an image."""
LINKS = {
    "this machine, gloo": None,
    "10 Gbit/s Ethernet": (25e-6, 10e9 / 8),
    "100 Gbit/s": (10e-6, 100e9 / 8),
    "8 x 400 Gbit/s InfiniBand": (5e-6, 8 * 400e9 / 8),
}
"""Seconds of latency and bytes a second; but for the first, which is measured, what their makers say."""
WORKERS = (2, 8, 64, 1000)


def exchange(rank: int, port: int, answer: "multiprocessing.Queue[dict[int, float]]") -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    found = {}
    for size in SIZES:
        tensor, times = torch.ones(size // 4), []
        for _ in range(12):
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(tensor)
            times.append(time.perf_counter() - began)
        found[size] = statistics.median(times[2:])
    if rank == 0:
        answer.put(found)
    dist.destroy_process_group()


def measured_link() -> tuple[float, float]:
    """Latency (s) and bandwidth (bytes/s) between two processes here."""
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    spawn = multiprocessing.get_context("spawn")
    answer = spawn.Queue()
    processes = [spawn.Process(target=exchange, args=(rank, port, answer)) for rank in range(2)]
    for process in processes:
        process.start()
    found = answer.get(timeout=120)
    for process in processes:
        process.join()
    small, large = SIZES[0], SIZES[-1]
    bandwidth = (large - small) / (found[large] - found[small])  # of two workers, each sends all of it once
    return found[small] / 2, bandwidth


def all_reduce(size: float, workers: int, latency: float, bandwidth: float) -> float:
    """Seconds of one in a ring, as gloo and NCCL do large ones: each worker passes on 2 (n - 1) / n of it."""
    return 2 * (workers - 1) * latency + 2 * (workers - 1) / workers * size / bandwidth


def tree(size: float, workers: int, latency: float, bandwidth: float) -> float:
    """Seconds of one in a tree, as NCCL does small ones."""
    return 2 * math.ceil(math.log2(workers)) * (latency + size / bandwidth)


def simulate() -> None:
    link = measured_link()
    for title, (name, pixels) in NETWORKS.items():
        config = override(TrainConfig(), {"model.name": name})
        network = build_model(config.model, 19)
        size = 4 * sum(one.numel() for one in network.parameters())
        norms = sum(isinstance(one, torch.nn.modules.batchnorm._BatchNorm) for one in network.modules())
        table = Table(title=f"{title}: {size / 1e6:.1f} MB of gradients, {norms} batch norms")
        table.add_column("link")
        for workers in WORKERS:
            table.add_column(f"{workers:,} workers", justify="right")
        for label, given in LINKS.items():
            latency, bandwidth = given or link
            cells = []
            for workers in WORKERS:
                gradients = min(all_reduce(size, workers, latency, bandwidth), tree(size, workers, latency, bandwidth))
                pasted = (
                    2 * latency + 4 * (3 + 2) * pixels / bandwidth
                )  # image, label and confidence of the next worker
                small = 2 * tree(4, workers, latency, bandwidth)  # pixel counts, the stop flag
                synced = 2 * norms * 2 * tree(4096, workers, latency, bandwidth)
                cells.append(f"{1000 * (gradients + pasted + small):.1f} + {1000 * synced:.1f}")
            table.add_row(f"{label} ({1e6 * latency:.0f} us, {bandwidth / 1e9:.1f} GB/s)", *cells)
        out.print(table)
    out.print("ms a step that workers spend on exchange, if none of it overlaps with computing, + those of sync_bn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="ray,workers,checkpoints,validation,simulation")
    given = parser.parse_args()
    wanted, rounds, base = given.only.split(","), given.rounds, override(TrainConfig(), DEFAULT)
    large = override(base, LARGE)
    if "ray" in wanted:
        found, _ = ratios(
            lambda: seconds_an_image(base, 1, ray=True), lambda: seconds_an_image(base, 1, ray=False), rounds
        )
        out.print(f"time of a TorchTrainer with one worker / of a plain process: {told(found)}")
    if "workers" in wanted:
        for name, config in (("default network", base), ("large network", large)):
            found, seconds = ratios(
                lambda config=config: seconds_an_image(config, 1, ray=True),  # type: ignore[misc]
                lambda config=config: seconds_an_image(config, 2, ray=True),  # type: ignore[misc]
                rounds,
            )
            step = 1000 * IMAGES * statistics.median(seconds)
            out.print(f"images a second of two workers / of one, {name}: {told(found)}; {step:.0f} ms a step of one")
    often = override(large, {"eval_every": 10})
    for what, method, slow in (("checkpoints", "save", often), ("validation", "validate", large)):
        for name, config in (("default network", base), ("large network", slow)) if what in wanted else ():
            found = [100 * stall_by(method, config) for _ in range(rounds)]
            out.print(f"stall by {what}, {name}: {told(found)} % of the steps' time")
    if "simulation" in wanted:
        simulate()
    out.print(f"{os.cpu_count()} CPUs, torch {torch.__version__}, gloo")


if __name__ == "__main__":
    main()
