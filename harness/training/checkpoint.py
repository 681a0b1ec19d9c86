"""The whole state of a training run in plain folders that are whole or not there, also after a loss of power.

RUN/config.yaml
RUN/checkpoints/step_00000100/{state.pt, rank_0.pt, ..., manifest.json}   the last two; a resume checks them
RUN/checkpoints/step_00000100_2/                  saved once more at that step, by a resumed run
RUN/best.safetensors, best_teacher.safetensors    weights of the best step on val; the first: of eval.network
RUN/training.lock                                 held by rank 0 while it trains
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import Timeout
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from harness.atomic import FORMAT, atomic_file, flush_to_disk, publish_folder, require_format
from harness.errors import NO_ROOM, NoRoom, RunFailed, UserError, is_of_storage
from harness.storage import is_remote, locked, remove_folder
from harness.training.context import TrainContext, Workers, first_said
from harness.training.manifest import SHARED, choose, in_order, key, write_manifest

State = dict[str, Any]
"""What torch.save writes and `weights_only` reads."""
BEST = "best.safetensors"
PART = ".part"
PATIENCE = 60.0
"""Seconds to wait for what a killed command has left running: Ray's workers outlive it by 3 to 11."""


class Checkpoints:
    """The checkpoints of a run, for one of its workers. All workers make it, and call each method, together.

    Args:
        folder: of the run.

    Raises:
        RunFailed: they cannot be read.
    """

    def __init__(self, folder: Path, context: Workers) -> None:
        self.parent, self.context = folder / "checkpoints", context
        self.last: Path | None = None
        """The newest that is whole: at first what the run goes on from."""
        found: list[str] = []
        self.together(lambda: found.extend(choose(self.parent)), f"{self.parent} cannot be read", rank_0_alone=True)
        name, _, self.passed_over = first_said(context, "\n".join(found)).partition("\n")
        """The second is a line for the user, if newer ones are damaged."""
        self.last = self.parent / name if name else None

    def save(self, step: int, shared: Callable[[], State], own: State) -> None:
        """Write one checkpoint, of all workers, and remove all but it and the one before.

        It appears under its name only when all of it is on disk, so that a killed run leaves the ones before.

        Args:
            step: optimiser steps done.
            shared: gives what is the same on every worker; called and written by rank 0.
            own: what differs by worker, such as random states.

        Raises:
            RunFailed: it cannot be written, on any worker. What was is removed; those before are left.
        """
        rank, final = self.context.rank, self.parent / self.next_name(step)
        part, trouble = final if is_remote(final) else final.with_suffix(PART), f"{final} cannot be written"

        def clear() -> None:
            """What killed attempts left, maybe of more workers, must not get into this one; what is damaged goes."""
            if not is_remote(self.parent) and not self.parent.is_dir():
                self.parent.mkdir()
                flush_to_disk(self.parent.parent)
            damaged = [path for path in in_order(self.parent) if self.last is None or key(path) > key(self.last)]
            for path in (*self.parent.glob(f"*{PART}"), *damaged):
                remove_folder(path)
            part.mkdir()

        def write() -> None:
            write_state(part / f"rank_{rank}.pt", own)
            if rank == 0:
                write_state(part / SHARED, {"format": FORMAT, **shared()})

        def publish() -> None:
            write_manifest(part)
            if part != final:
                publish_folder(part, final)
            for old in in_order(self.parent)[:-2]:
                remove_folder(old, ignore_errors=True)  # once more after the next one

        try:
            self.together(clear, trouble, rank_0_alone=True)
            self.together(write, trouble)
            self.together(publish, trouble, rank_0_alone=True)
        except RunFailed:
            remove_folder(part, ignore_errors=True)
            raise
        self.last = final

    def next_name(self, step: int) -> str:
        """That of the next checkpoint: a second one at a step gets a number of its own, from 2 on."""
        before, number = key(self.last) if self.last else (-1, 0)
        return f"step_{step:08d}" + (f"_{number + 1}" if before == step else "")

    def save_weights(self, files: Mapping[Path, State]) -> None:
        """Weights alone, by rank 0.

        Args:
            files: the weights of each.

        Raises:
            RunFailed: a file cannot be written; the old one is left.
        """

        def write() -> None:
            for path, weights in files.items():
                save_weights(path, weights)

        if files:
            self.together(write, f"{' and '.join(map(str, files))} cannot be written", rank_0_alone=True)

    def together(self, work: Callable[[], object], trouble: str, rank_0_alone: bool = False) -> None:
        """Do the work; no worker goes on before all are done, and none if one could not.

        Args:
            trouble: what is the case if it cannot be done.
            rank_0_alone: all others only wait.

        Raises:
            RunFailed: the system refused to read or to write.
        """
        reason = "" if rank_0_alone and self.context.rank > 0 else reason_of_failure(work)
        if reason := first_said(self.context, reason):
            kept = f"; the last checkpoint, of step {step_of(self.last)}, is whole" if self.last else ""
            full = reason in [os.strerror(code) for code in NO_ROOM]
            raise (NoRoom if full else RunFailed)(f"{trouble}: {reason}{kept}.")


@contextmanager
def sole_writer(folder: Path, context: TrainContext) -> Iterator[None]:
    """Wait until no other process trains in a run's folder, and keep others out while the block lasts.

    Raises:
        RunFailed: one still does after `PATIENCE` seconds.
    """
    trouble = ""
    with ExitStack() as stack:
        if context.rank == 0:
            try:
                stack.enter_context(locked(folder / "training.lock", PATIENCE))
            except Timeout:
                trouble = f"{folder}: a process of another command still trains there, after {PATIENCE:g} s."
        if trouble := first_said(context, trouble):
            raise RunFailed(trouble)
        yield


def newest(folder: Path) -> Path | None:
    """The checkpoint that a run in `folder` goes on from, if there is one."""
    name, _ = choose(folder / "checkpoints")
    return folder / "checkpoints" / name if name else None


def reason_of_failure(work: Callable[[], object]) -> str:
    """Do the work; if the system refused to read or to write, why, else nothing."""
    try:
        work()
    except OSError as error:
        return error.strerror or str(error)
    except RuntimeError as error:  # by which torch.save replaces what writing to the file has raised
        if not isinstance(error.__context__, OSError):
            raise
        return error.__context__.strerror or str(error.__context__)
    except Exception as error:
        if not is_of_storage(error):
            raise
        return " ".join(str(error).split())
    return ""


def write_state(path: Path, state: State) -> None:
    """By torch.save, and onto the disk."""
    with path.open("wb") as file:
        torch.save(state, file)
        if not is_remote(path):
            file.flush()
            os.fsync(file.fileno())


def step_of(checkpoint: Path) -> int:
    """Optimiser steps done, by its name."""
    return int(checkpoint.name.split("_")[1])


def load(checkpoint: Path, rank: int) -> tuple[State, State | None]:
    """The shared state, and this worker's own (None if there were fewer workers then).

    Raises:
        UserError: the checkpoint is of another format.
    """
    own = checkpoint / f"rank_{rank}.pt"
    shared = load_file_safely(checkpoint / SHARED)
    require_format(shared.pop("format", None), checkpoint / SHARED)
    return shared, load_file_safely(own) if own.exists() else None


def load_file_safely(path: Path) -> State:
    with path.open("rb") as file:
        return torch.load(file, map_location="cpu", weights_only=True)


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


def set_generator(generator: torch.Generator, shared: State, seed: int) -> None:
    """Let a generator go on where it stood; on another kind of device, whose numbers differ, begin anew from a seed."""
    if shared["device"] == generator.device.type:
        generator.set_state(shared["generator"])
    else:
        generator.manual_seed(seed)


def save_weights(path: Path, weights: State) -> None:
    """Weights alone, as safetensors, replaced atomically."""
    plain: dict[str, Tensor] = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    with atomic_file(path) as part:
        part.write_bytes(to_bytes(plain))


def load_weights(path: Path, model: nn.Module) -> None:
    """
    Raises:
        UserError: the file is missing or damaged, or of another network.
    """
    try:
        model.load_state_dict(from_bytes(path.read_bytes()))
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: must hold the weights of the network, but got: {reason}") from error
