"""The flags by which a benchmark is told on what data set it runs."""

import argparse
from typing import get_args, get_type_hints

from classmix_core.config import DataConfig


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    names = get_args(get_type_hints(DataConfig)["name"])
    parser.add_argument("--name", default="scenes", choices=names)
    parser.add_argument("--root", help="Folder of the data set; the embedded scenes, which are in memory, have none.")
    parser.add_argument("--resize", type=int, nargs=2, metavar=("H", "W"), help="Unset: as large as the files.")


def data_config(given: argparse.Namespace) -> DataConfig:
    size = (given.resize[0], given.resize[1]) if given.resize else None
    return DataConfig(name=given.name, root=given.root, resize=size)
