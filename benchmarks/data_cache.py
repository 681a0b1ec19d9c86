"""How much faster training samples come from the cache than from files, in one process and one run.

    python benchmarks/data_cache.py --root DIR [--name camvid] [--resize 120 160] [--rounds 3] [--images 100]

Reads the same images and labels without a cache and from one, by turns, and prints samples per second (the median of
the rounds) and the ratio to no cache. The cache is filled before, in a folder of its own.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace

import torch

from classmix_core.config import DataConfig
from classmix_core.data import load_data
from classmix_core.data.loader import TrainingSet


def labelled(config: DataConfig, count: int) -> TrainingSet:
    samples = load_data(config).labelled
    samples = samples.subset(range(min(count, len(samples.names))))
    return TrainingSet(samples, labels=True, resize=config.resize, crop=config.crop, seed=0)


def seconds(samples: TrainingSet) -> float:
    start = time.perf_counter()
    for index in range(len(samples.samples.names)):
        image, label = samples[index, index]
        image.clone(), label.clone()  # as a batch does: what is mapped must be read
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="Folder of the data set.")
    parser.add_argument("--name", default="camvid", choices=("camvid", "cityscapes", "voc", "folder"))
    parser.add_argument("--resize", type=int, nargs=2, metavar=("H", "W"), help="Unset: as large as the files.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=100, help="How many are read, at most.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = tuple(options.resize) if options.resize else None
    config = DataConfig(name=options.name, root=options.root, resize=size)
    with tempfile.TemporaryDirectory(prefix="classmix_cache_") as home:
        sets = {"none": labelled(config, options.images)}
        sets["disk"] = labelled(replace(config, cache="disk", cache_dir=home), options.images)
        first = {kind: seconds(samples) for kind, samples in sets.items()}
        rounds = [{kind: seconds(samples) for kind, samples in sets.items()} for _ in range(options.rounds)]
    count = len(sets["none"].samples.names)
    rate = {kind: count / statistics.median(times[kind] for times in rounds) for kind in sets}
    print(f"{options.name}, {count} images with labels, resize {size}, one thread, {options.rounds} rounds")
    print("cache  samples/s  ratio  while it fills")
    for kind in sets:
        print(f"{kind:5}  {rate[kind]:9.0f}  {rate[kind] / rate['none']:5.1f}  {count / first[kind]:14.0f}")


if __name__ == "__main__":
    main()
