"""How many training images a second come from disk to the device, and how many a step of the default network takes.

    python benchmarks/input.py [--name camvid --root DIR] [--resize 180 240] [--batches 25] [--rounds 3]
        [--workers 0 1 2] [--device cuda]

Batches of 4 labelled images by the training's own loader, without a cache and from a filled one, for each number of
loader processes; 0 loads in the training process. By turns, medians: images a second, and the ratio to no cache with
the same processes. Without --name the embedded scenes, which need no cache. One thread in each process.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice, product

import torch
from data_arguments import add_data_arguments, data_config
from step import Case, our_step, random_batch
from timing import by_turns, quotients, told
from torch import Tensor

from classmix_core.config import DataConfig
from classmix_core.data import load_data
from classmix_core.data.loader import training_batches
from harness.training.dataloaders import training_set

BATCH = 4


def batches(config: DataConfig, workers: int, device: str) -> Iterator[tuple[Tensor, Tensor]]:
    samples = load_data(config).labelled
    data = training_set(config, samples, True, 0)
    for index in range(len(samples.names)):
        data[index, index]  # the cache is filled, the files are in the system's memory
    return training_batches(
        data,
        BATCH,
        seed=0,
        rank=0,
        world_size=1,
        first_step=0,
        loader_workers=workers,
        device=torch.device(device),
    )


def taker(stream: Iterator[tuple[Tensor, Tensor]], count: int) -> Callable[[], None]:
    def take() -> None:
        for image, label in islice(stream, count):
            image.sum(), label.sum()  # what is mapped must be read

    return take


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_arguments(parser)
    parser.add_argument("--batches", type=int, default=25, help="Of 4 images, a round.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    configs = {"none": data_config(given)}
    with tempfile.TemporaryDirectory(prefix="classmix_cache_") as home:
        if given.root is not None:
            configs["disk"] = replace(configs["none"], cache="disk", cache_dir=home)
        keys = list(product(configs, given.workers))
        streams = {str(key): batches(configs[key[0]], key[1], given.device) for key in keys}
        height, width = next(streams[str(keys[0])])[0].shape[-2:]
        taken = by_turns({key: taker(stream, given.batches) for key, stream in streams.items()}, given.rounds, 1)
        streams.clear()  # ends the loaders before their cache is gone
    print(f"{given.name}, {height} x {width}: images with labels a second")
    for cache, workers in keys:
        found = taken[str((cache, workers))]
        rate = BATCH * given.batches / statistics.median(found)
        ratio = told(quotients(taken[str(("none", workers))], found))
        print(f"  cache {cache:4}, {workers} loader processes {rate:8.0f}, over no cache {ratio}")
    case = Case("unet", height, width, BATCH, 11)
    networks = argparse.Namespace(device=given.device, channels_last=False, compile=False, precision="fp32")
    step = our_step(case, networks, random_batch(case, given.device))
    seconds = statistics.median(by_turns({"step": step}, given.rounds, device=given.device)["step"])
    print(f"  a step of the default network takes {2 * BATCH / seconds:.0f} images a second, labelled and unlabelled")


if __name__ == "__main__":
    main()
