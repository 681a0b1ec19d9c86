"""The whole state of a training run in plain folders, written atomically.

RUN/config.yaml
RUN/checkpoints/step_00000100/{state.pt, rank_0.pt, ...}     the newest one; what a resumed run starts from
RUN/best.safetensors, best_teacher.safetensors               weights of the best step on val; the first: of eval.network
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

BEST = "best.safetensors"


def save(
    folder: Path,
    step: int,
    shared: Callable[[], dict[str, Any]],
    own: dict[str, Any],
    rank: int,
    barrier: Callable[[], None],
) -> None:
    """Write one checkpoint, of all workers, and remove the older ones.

    It appears under its name only when all of it is there, so that a killed run leaves the one before.

    Args:
        folder: of the run.
        step: optimiser steps done.
        shared: gives what is the same on every worker; called and written by rank 0.
        own: what differs by worker, such as random states.
        barrier: returns when every worker has called it.
    """
    parent = folder / "checkpoints"
    final = parent / f"step_{step:08d}"
    part = parent / f"{final.name}.part"
    part.mkdir(parents=True, exist_ok=True)
    torch.save(own, part / f"rank_{rank}.pt")
    if rank == 0:
        torch.save(shared(), part / "state.pt")
    barrier()
    if rank == 0:
        if final.exists():  # the same step again, so nothing in it may be missing at any moment
            for path in sorted(part.iterdir()):
                os.replace(path, final / path.name)
            part.rmdir()
        else:
            part.rename(final)
        for old in parent.iterdir():
            if old != final:
                shutil.rmtree(old)
    barrier()


def newest(folder: Path) -> Path | None:
    """The checkpoint that a run in `folder` goes on from, if there is one."""
    found = [path for path in (folder / "checkpoints").glob("step_*") if path.suffix != ".part"]
    return max(found, default=None)


def load(checkpoint: Path, rank: int) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The shared state, and this worker's own (None if there were fewer workers then)."""
    own = checkpoint / f"rank_{rank}.pt"
    return load_file_safely(checkpoint / "state.pt"), load_file_safely(own) if own.exists() else None


def load_file_safely(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True)


def save_weights(path: Path, model: nn.Module) -> None:
    """Weights alone, as safetensors, replaced atomically."""
    part = path.with_suffix(".part")
    weights: dict[str, Tensor] = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, part)
    os.replace(part, path)


def load_weights(path: Path, model: nn.Module) -> None:
    model.load_state_dict(load_file(path))
