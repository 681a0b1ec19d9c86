"""Checkpoints that are written while the training goes on."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map_only

from harness.background import in_background
from harness.tracking.run import Run
from harness.training.checkpoint import Checkpoints, State
from harness.training.context import TrainContext


def copy_to_cpu(state: State) -> State:
    """The same with copies of its tensors, that no step changes any more."""
    copied: Any = tree_map_only(Tensor, lambda one: one.detach().to("cpu", copy=True), dict(state))
    return dict(copied)


class Saver:
    """Writes one checkpoint at a time in a thread of its own. All workers call each method together.

    Args:
        folder: of the run.
        run: what it logs is kept before a checkpoint: a run that goes on from there does not log it again.
    """

    def __init__(self, folder: Path, context: TrainContext, run: Run | None) -> None:
        self.run = run
        self.checkpoints = Checkpoints(folder, context.aside())
        self.writing: Future[None] | None = None

    def save(self, step: int, shared: State, own: State, best: Mapping[Path, State]) -> None:
        """Begin to write a checkpoint, and after it weights: whatever a run goes on from, they are those of the best
        step that its checkpoint names. (Or of one that a damaged checkpoint named, which it comes to again.)

        Args:
            step, own: see `Checkpoints.save`.
            shared: what is the same on every worker; rank 0 alone writes it, the others may give nothing.
            best: files of weights alone.

        Raises:
            RunFailed: the one before could not be written.
        """
        self.wait()

        def write() -> None:
            if self.run:
                self.run.keep()
            self.checkpoints.save(step, lambda: shared, own)
            if best:
                self.checkpoints.save_weights(best)

        self.writing = in_background(write)

    @contextmanager
    def closing(self) -> Iterator[None]:
        """However the block ends, nothing is being written after it."""
        try:
            yield
        except BaseException:
            with suppress(Exception):  # the error of the block says more
                self.wait()
            raise
        self.wait()

    def wait(self) -> None:
        """Until all is on disk.

        Raises:
            RunFailed: it could not be written.
        """
        writing, self.writing = self.writing, None
        if writing is not None:
            writing.result()
