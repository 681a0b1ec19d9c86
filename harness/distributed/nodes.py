"""Whether each machine of a cluster has what shall run there needs: our code, the data, the runs' folder, MLflow."""

import hashlib
import importlib.util
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.config.train import DOWNLOADS, TrainConfig
from harness.distributed.cluster import leaving
from harness.errors import UserError
from harness.storage import is_remote

PATIENCE = 120.0
"""Seconds in which a machine must answer; it may have to start a process and read our code over a network."""
PACKAGES = ("harness", "classmix_core")


class Needs(NamedTuple):
    """Of a run."""

    paths: Mapping[str, str]
    """What must be there, by the key or flag that names it."""
    store: str
    """URI of MLflow's; empty: it may be away."""

    @classmethod
    def of(cls, config: TrainConfig, folder: Path, store: str) -> "Needs":
        weights = config.model.weights
        given = {
            "data.root": config.data.root,
            "data.split_file": config.data.split_file,
            "model.weights": None if weights is None or weights.startswith(DOWNLOADS) else weights,
            "--storage-path": None if is_remote(folder) else str(folder),
        }
        return cls({key: path for key, path in given.items() if path is not None}, store)


def is_for_one_machine(store: str) -> bool:
    """Whether it is a file, which several machines cannot share."""
    return store.startswith("sqlite")


def refuse_sqlite(store: str, machines: str) -> None:
    """
    Raises:
        UserError: the store is for one machine.
    """
    if is_for_one_machine(store):
        rule = f"a cluster of {machines} needs an MLflow server that all of them reach"
        server = "mlflow server --host HOST --port 5000, then add --tracking-uri http://HOST:5000"
        raise UserError(f"--tracking-uri: {rule}, but got {store}; start one on HOST: {server}")


def check_nodes(needs: Needs) -> None:
    """Look on every machine of the cluster that is connected.

    Raises:
        UserError: with the machine and what it lacks.
    """
    nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving()]
    machines = {node["NodeManagerAddress"] for node in nodes}
    if len(machines) > 1:
        refuse_sqlite(needs.store, f"{len(machines)} machines")

    def look(needs: tuple[Mapping[str, str], str], packages: tuple[str, ...]) -> tuple[str, list[str]]:
        """What a machine has of our code, and lacks of the rest. Sent as it stands, since our code may not be there."""
        troubles = [f"{key}: {path} must be there" for key, path in needs[0].items() if not os.path.exists(path)]
        place = urlsplit(needs[1])
        if place.scheme in ("http", "https") and place.hostname:
            port = place.port or {"http": 80, "https": 443}[place.scheme]
            try:
                socket.create_connection((place.hostname, port), timeout=10).close()
            except OSError as error:
                troubles.append(f"--tracking-uri: {needs[1]} must be reached ({error})")
        digest = hashlib.sha256()
        for package in packages:
            found = importlib.util.find_spec(package)
            if found is None or found.origin is None:
                return "", [f"{package} must be installed", *troubles]
            for file in sorted(Path(found.origin).parent.rglob("*.py")):
                digest.update(file.read_bytes())
        return digest.hexdigest(), troubles

    own, _ = look(tuple(needs), PACKAGES)  # type: ignore[arg-type]
    remote: Any = ray.remote(num_cpus=0)(look)
    answers = []
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        answers.append(remote.options(scheduling_strategy=there).remote(tuple(needs), PACKAGES))
    found = []
    for node, answer in zip(nodes, answers, strict=True):
        try:
            code, troubles = ray.get(answer, timeout=PATIENCE)
        except ray.exceptions.RayError as error:
            if node["NodeID"] not in {one["NodeID"] for one in ray.nodes() if one["Alive"]}:
                continue  # it has gone meanwhile
            code, troubles = own, [f"it must answer within {PATIENCE:g} s ({str(error).splitlines()[0]})"]
        if code and code != own:
            troubles.append("its version of this program must be the one here")
        found += [f"{node['NodeManagerAddress']}: {trouble}" for trouble in troubles]
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise UserError(
            f"--address: each machine of the cluster must be ready, but on {'; on '.join(found[:3])}{more}."
        )
