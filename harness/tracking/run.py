"""All that goes to MLflow, by explicit run id: no global active run, so nothing is left running and trials never mix.

A run gets its configuration and lists of images (train.py, search/trial.py, search/study.py), where it comes from
(training/provenance.py), what it costs (training/cost.py), curves and pictures (training/trainer.py), tables and
confusion matrix (training/evaluator.py), its model (inference/registry.py); the parent of a search gets plots, tables
and best.yaml (search/study.py, search/plots.py)."""

import re
import time
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mlflow.entities import DatasetInput
from torch import Tensor

from harness.storage import local_copy
from harness.tracking.names import REASON
from harness.tracking.outbox import STALLED, Call, Outbox
from harness.tracking.patience import one_line
from harness.tracking.writer import Writer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HAND_OVER = 5.0
"""Seconds without an answer after which what is noted is left to those who train."""
INVALID_CHARS = re.compile(r"[^/\w.\- :]")
"""In the name of a metric, such as one with the name of a class, MLflow refuses these."""


def now() -> int:
    """In ms since 1970."""
    return int(time.time() * 1000)


class Run:
    """One MLflow run, as one process tells of it. No call waits for the store; `close` does.

    A call raises what an earlier one has failed with, unless that may pass: a store that is away is tried again, and
    what it lacks in the end is in the outbox of the run's folder, for the next command or `harness.sync`.

    Args:
        uri: of the store.
        run_id: None: it is made (`create`), or its id is beside it.
        home: the run's folder.
    """

    def __init__(self, uri: str, run_id: str | None, home: Path) -> None:
        self.uri, self.home = uri, home
        self.writer = Writer(uri, run_id, home)
        self.outbox = Outbox(self.writer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.close()
        except Exception:
            if error is None:  # which says more
                raise

    @property
    def run_id(self) -> str:
        """
        Raises:
            NotCreated: it is not in the store yet.
        """
        return self.writer.run_id

    # -- how it is sent -----------------------------------------------------------------------------------------------

    def adopt(self, ended: bool = False) -> int:
        """Send what other processes, which have ended, could not; returns how many calls.

        Args:
            ended: whether the run has; else it goes on, and earlier ends of it are no longer true.
        """
        return self.outbox.adopt(() if ended else ("finish",))

    def keep(self) -> None:
        """Whatever was noted is in the store, or beside the run, when this returns."""
        self.outbox.keep()

    def settle(self) -> str | None:
        """Wait until all is sent; returns why it is kept instead, in one line.

        Raises:
            Exception: what a call has failed with.
        """
        return self.outbox.settle()

    def close(self, patience: float = STALLED) -> str | None:
        """`settle`, and leave what is kept to other processes.

        Args:
            patience: seconds without an answer from the store.
        """
        try:
            return self.outbox.settle(patience)
        finally:
            self.outbox.release()

    # -- what is sent -------------------------------------------------------------------------------------------------

    def call(self, method: str, content: bytes | None = None, **arguments: Any) -> None:
        self.outbox.add(Call(method, arguments, content))

    def create(self, experiment_id: str, name: str, tags: Mapping[str, str]) -> None:
        """Make it, as that of a trial, unless that was done before."""
        self.call("create", experiment_id=experiment_id, name=name, tags=dict(tags), start_time=now())

    def restart(self) -> None:
        """Mark a run that ended as running again; why it failed then is no longer true."""
        self.call("restart")

    def params(self, values: Mapping[str, Any]) -> None:
        """Note parameters; those that are known, from before an interruption, stay as they are."""
        self.call("params", values={key: str(value) for key, value in values.items()})

    def tags(self, values: Mapping[str, str]) -> None:
        self.call("tags", values=dict(values))

    def note(self, values: Mapping[str, str]) -> None:
        """Tags of which a run that is resumed loses none: what has changed since is added, `before | now`."""
        self.call("note", values=dict(values))

    def inputs(self, datasets: Sequence[DatasetInput]) -> None:
        """Data sets that the run reads; those that it has already are not added again."""
        self.call("inputs", datasets=[one.to_dictionary() for one in datasets])

    def experiment_tags(self, experiment_id: str, values: Mapping[str, str]) -> None:
        """Of the experiment that it is in."""
        self.call("experiment_tags", experiment_id=experiment_id, values=dict(values))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Note metrics at an optimiser step; NaN (a class that is not there) is left out, as is what a curve has."""
        keys = {re.sub("/+", "/", INVALID_CHARS.sub("_", name)).rstrip("/"): value for name, value in values.items()}
        time = now()
        self.call("metrics", points=[(key, value, time, step) for key, value in keys.items() if value == value])

    def text(self, name: str, content: str) -> None:
        self.call("artifact", content.encode(), name=name)

    def file(self, path: Path, folder: str | None = None) -> None:
        with local_copy(path) as here:
            self.call("artifact", here.read_bytes(), name=f"{folder}/{path.name}" if folder else path.name)

    def files(self, home: Path, *names: str) -> None:
        """Files of a run's folder, and its lists of images."""
        for name in names:
            self.file(home / name)
        for path in sorted((home / "splits").iterdir()):
            self.file(path, "splits")

    def figure(self, name: str, figure: "Figure") -> None:
        """A picture of matplotlib's under a file name."""
        file = BytesIO()
        figure.savefig(file, format=Path(name).suffix[1:])
        self.call("artifact", file.getvalue(), name=name)

    def table(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """A table under a file name."""
        self.call("table", name=name, columns={key: list(values) for key, values in columns.items()})

    def image(self, key: str, image: Tensor, step: int) -> None:
        """A uint8 image (3, H, W) in the series `key`."""
        from torchvision.io import encode_png

        self.call("image", encode_png(image.cpu(), 1).numpy().tobytes(), key=key, step=step)

    def failed(self, error: BaseException) -> None:
        """Note on the run's page, in one line, why it failed."""
        self.tags({REASON: one_line(error)})

    def finish(self, status: str) -> None:
        """`status`: FINISHED, FAILED or KILLED."""
        self.call("finish", status=status, end_time=now())
