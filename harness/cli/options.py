"""The options that training and searching share."""

import re
import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from jsonargparse import Namespace

from harness.config.parser import Parser
from harness.errors import UserError
from harness.storage import storage_path


def default_uri() -> str:
    """The MLflow store that a plain `mlflow ui` in the current folder shows."""
    return sqlite_uri(Path.cwd() / "mlflow.db")


def sqlite_uri(path: Path) -> str:
    """The URI of an SQLite file, whatever characters its path holds."""
    escaped = str(path).replace("%", "%25").replace("?", "%3F")  # SQLAlchemy reads a URL, where they mean something
    # with sqlite:/// alone MLflow would also make the folder that has the escaped name
    return f"{'sqlite' if escaped == str(path) else 'sqlite+pysqlite'}:///{escaped}"


def place_to_look(uri: str) -> str:
    """Where a person sees the runs of an MLflow store: its server, or the command that starts one."""
    if uri.startswith("http"):
        return uri
    return "python -m harness.ui" + ("" if uri == default_uri() else f" --tracking-uri {shlex.quote(uri)}")


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """Where a run is kept and logged, and what it runs on."""

    name: str | None
    resume: bool
    tracking_uri: str | None
    storage_path: str
    address: str | None
    wait: bool = False
    verbose: bool

    def __post_init__(self) -> None:
        if self.wait and self.address is None:
            raise UserError("--wait: needs --address, the cluster that is waited for; this machine will have no more.")

    @classmethod
    def of(cls, parsed: Namespace) -> Self:
        return cls(**{item.name: getattr(parsed, item.name) for item in fields(cls)})

    @property
    def uri(self) -> str:
        """Of the MLflow store; that of an SQLite file without a folder is in this one, also for a later resume."""
        given = self.tracking_uri or default_uri()
        file = re.fullmatch(r"sqlite(?:\+\w+)?:///([^/:].*)", given)
        return f"{sqlite_uri(Path.cwd())}/{file[1]}" if file else given

    @property
    def storage(self) -> Path:
        return storage_path(self.storage_path, "--storage-path")


def add_common_options(parser: Parser, what: str) -> None:
    """Add the flags; `what` is a run or a study."""
    parser.add_argument("--name", type=str | None, help=f"Name of the {what} and of its folder; by default the time.")
    parser.add_argument("--resume", action="store_true", help=f"Go on with the {what} called --name, or the newest.")
    parser.add_argument("--tracking-uri", type=str | None, help="MLflow store; by default mlflow.db in this folder.")
    parser.add_argument(
        "--storage-path",
        type=str,
        default="runs",
        help=f"Folder that holds the {what} folders, or an address of object storage, such as s3://BUCKET/runs.",
    )
    parser.add_argument("--address", type=str | None, help="Ray cluster to run on, such as auto.")
    parser.add_argument(
        "--wait", action="store_true", help="With --address: also wait for CPUs and GPUs that the cluster has not yet."
    )
    parser.add_argument("--verbose", action="store_true", help="Show the logs of Ray as well.")
