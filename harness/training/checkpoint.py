"""The whole state of a training run in plain folders, written atomically.

RUN/config.yaml
RUN/checkpoints/step_00000100/{state.pt, rank_0.pt, ...}     the newest one; what a resumed run starts from
RUN/best.safetensors, best_teacher.safetensors               weights of the best step on val; the first: of eval.network
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from harness.atomic import FORMAT, atomic_file, publish_folder, require_format

State = dict[str, Any]
"""What torch.save writes and `weights_only` reads."""
BEST = "best.safetensors"


def save(
    folder: Path,
    step: int,
    shared: Callable[[], State],
    own: State,
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
    with atomic_file(part / f"rank_{rank}.pt") as file:
        torch.save(own, file)
    if rank == 0:
        with atomic_file(part / "state.pt") as file:
            torch.save({"format": FORMAT, **shared()}, file)
    barrier()
    if rank == 0:
        publish_folder(part, final)
        for old in parent.iterdir():
            if old != final:
                shutil.rmtree(old)
    barrier()


def newest(folder: Path) -> Path | None:
    """The checkpoint that a run in `folder` goes on from, if there is one."""
    found = [path for path in (folder / "checkpoints").glob("step_*") if path.suffix != ".part"]
    return max(found, default=None)


def step_of(checkpoint: Path) -> int:
    """Optimiser steps done, by its name."""
    return int(checkpoint.name.split("_")[1])


def load(checkpoint: Path, rank: int) -> tuple[State, State | None]:
    """The shared state, and this worker's own (None if there were fewer workers then).

    Raises:
        UserError: the checkpoint is of another format.
    """
    own = checkpoint / f"rank_{rank}.pt"
    shared = load_file_safely(checkpoint / "state.pt")
    require_format(shared.pop("format", None), checkpoint / "state.pt")
    return shared, load_file_safely(own) if own.exists() else None


def load_file_safely(path: Path) -> State:
    return torch.load(path, map_location="cpu", weights_only=True)


def random_state(device: torch.device) -> State:
    """Of torch's own generators, which dropout draws from."""
    state = {"torch": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(device: torch.device, state: State) -> None:
    """Put back what `random_state` gave, as far as it is of this kind of device."""
    torch.set_rng_state(state["torch"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def save_weights(path: Path, model: nn.Module) -> None:
    """Weights alone, as safetensors, replaced atomically."""
    weights: dict[str, Tensor] = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with atomic_file(path) as part:
        save_file(weights, part)


def load_weights(path: Path, model: nn.Module) -> None:
    model.load_state_dict(load_file(path))
