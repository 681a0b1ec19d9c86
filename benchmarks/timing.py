"""Ratios of times that were measured by turns, so that a machine whose speed drifts slows all alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch


def by_turns(
    functions: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 2, device: str = "cpu"
) -> dict[str, list[float]]:
    """Seconds of each function in each round, forwards and backwards through them in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    names = list(functions)
    for number in range(-warm_up, rounds):
        for name in names if number % 2 == 0 else reversed(names):
            wait_for(device)
            began = time.perf_counter()
            functions[name]()
            wait_for(device)
            if number >= 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def wait_for(device: str) -> None:
    """Until all that was begun on it has ended."""
    if device == "cuda":
        torch.cuda.synchronize()


def quotients(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """Of the times of each round."""
    return [a / b for a, b in zip(one, other, strict=True)]


def told(values: Sequence[float]) -> str:
    """The median, and between which values half of them lie."""
    if len(values) < 4:
        return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"
