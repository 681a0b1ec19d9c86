"""What tests of data sets ask of a `Data`."""

from pathlib import Path
from typing import Any

from classmix_core.config import DataConfig
from classmix_core.data import Data, check_data

ROLES = ("labelled", "unlabelled", "val", "test")


def config(root: Path | None = None, **fields: Any) -> DataConfig:
    return DataConfig(root=None if root is None else str(root), **fields)


def names(data: Data) -> dict[str, list[str]]:
    return {role: list(samples.names) for role, samples in data.roles().items()}


def sizes(data: Data) -> list[int]:
    return [len(data.roles()[role].names) for role in ROLES]


def check(data: Data, given: DataConfig, unlabelled: bool = True) -> list[tuple[int, int]]:
    learnt = ("labelled", "unlabelled") if unlabelled else ("labelled",)
    return list(check_data(data, given, (*learnt, "val", "test")))
