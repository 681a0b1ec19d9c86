"""Where a result comes from, in tags and inputs of its MLflow run: command, user, code, versions, device, images."""

import getpass
import json
import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import torch
from mlflow.entities import Dataset, DatasetInput, InputTag

import harness
from classmix_core.data import Data
from harness.config.train import TrainConfig
from harness.tracking.run import Run

PACKAGES = ("torch", "torchvision", "numpy", "ray", "optuna", "mlflow")


def provenance_tags(module: str, words: Sequence[str]) -> dict[str, str]:
    """Who started a command, how and with which code; gathered once a command, for all runs that it makes.

    Args:
        module: such as harness.train.
        words: that were typed after it.
    """
    command = f"python -m {module}"
    versions = {"python": platform.python_version(), "harness": harness.__version__}
    versions |= {name: version(name) for name in PACKAGES}
    tags = {
        "mlflow.source.name": command,
        "mlflow.source.type": "LOCAL",
        "harness.argv": f"{command} {shlex.join(words)}".rstrip(),
        "harness.versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
    }
    with suppress(KeyError, OSError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    return tags | git_tags(Path(harness.__file__).parents[1])


def git_tags(root: Path) -> dict[str, str]:
    """The commit of the code in `root`, and whether it has been changed since; nothing where it is no checkout."""
    try:
        git(root, "ls-files", "--error-unmatch", "harness/__init__.py")  # else it is a repository around an environment
        commit = git(root, "rev-parse", "HEAD")
        changes = git(root, "status", "--porcelain", "--", "harness", "classmix_core")
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"mlflow.source.git.commit": commit, "harness.git_dirty": str(bool(changes)).lower()}


def git(root: Path, *words: str) -> str:
    """What git prints; its own environment, such as a hook's GIT_DIR, would lead elsewhere."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    done = subprocess.run(
        ["git", "-C", str(root), *words], env=environment, check=True, capture_output=True, text=True, timeout=10
    )
    return done.stdout.strip()


def log_start(run: Run, config: TrainConfig, data: Data, device: torch.device, workers: int) -> None:
    """What the training itself knows: its device, and the images of each role that it may see."""
    name = device_name(device)
    run.note({"harness.device": name if workers == 1 else f"{workers} x {name}"})
    run.inputs(datasets(config, data))


def device_name(device: torch.device) -> str:
    """The model of a GPU or CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def datasets(config: TrainConfig, data: Data) -> list[DatasetInput]:
    """Each role that is used as an MLflow data set; its digest is of the names of its images."""
    root = config.data.root
    name = Path(root).name if config.data.name == "folder" and root else config.data.name
    source = ("local", {"uri": root}) if root else ("code", {"tags": {"mlflow.source.name": f"{name}.py"}})
    found = []
    for role, samples in data.roles().items():
        if role == "unlabelled" and config.ssl.unlabelled_weight == 0:
            continue
        digest = sha256("\n".join(sorted(samples.names)).encode()).hexdigest()[:16]
        profile = json.dumps({"images": len(samples.names)})
        dataset = Dataset(name, digest, source[0], json.dumps(source[1]), profile=profile)
        found.append(DatasetInput(dataset, [InputTag("mlflow.data.context", role)]))
    return found
