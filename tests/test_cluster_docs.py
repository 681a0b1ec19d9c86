"""What docs/cluster has for Docker, Kubernetes and Slurm: linted, and the Slurm script run with a stand-in for srun."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from harness.config.train import train_config
from harness.train import build_parser
from tests.clusters import free_port
from tests.commands import ROOT, TINY
from tests.harness.test_train import statuses

HOME = ROOT / "docs/cluster"
# of KubeRay 1.7's API reference
JOB = {"entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec"}
CLUSTER = {"rayVersion", "enableInTreeAutoscaling", "headGroupSpec", "workerGroupSpecs"}
GROUP = {"rayStartParams", "template", "groupName", "replicas", "minReplicas", "maxReplicas"}


@pytest.mark.parametrize("command", ["shellcheck slurm.sh", "hadolint Dockerfile"])
def test_linters_find_nothing(command: str) -> None:
    tool, file = command.split()
    found = subprocess.run([Path(sys.executable).with_name(tool), HOME / file], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, ""), found


def test_what_the_image_copies_is_there() -> None:
    lines = (HOME / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert copied
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_the_manifest_has_fields_that_kuberay_knows_and_pods_that_kubernetes_takes() -> None:
    manifest: dict[str, Any] = yaml.safe_load((HOME / "rayjob.yaml").read_text())
    job = manifest["spec"]
    cluster = job["rayClusterSpec"]
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job) <= JOB
    assert set(cluster) <= CLUSTER
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert set(group) <= GROUP
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": group["template"]["spec"]}
        kubernetes_validate.validate(pod, "1.28", strict=True)
    words = job["entrypoint"].split()[3:]
    config = train_config(build_parser().read(words).as_dict())
    assert (config.gpus, config.min_workers) == (8, 1)


@pytest.mark.slow
def test_the_slurm_script_trains_on_a_cluster_and_a_requeued_job_finds_its_run(tmp_path: Path) -> None:
    """`srun` runs what it is given once, as node 0."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "srun").write_text('#!/bin/bash\nSLURM_NODEID=0 exec setsid "$@"\n')
    (tools / "srun").chmod(0o755)
    home = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # its own; Ray's sockets need a short path
    environment = os.environ | {
        "RAY_TMPDIR": home,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "VENV": str(Path(sys.executable).parents[1]),
        "RAY_PORT": str(free_port()),
        "SLURM_JOB_NAME": "job",
        "SLURM_JOB_ID": "1",
        "MLFLOW": f"sqlite:///{tmp_path}/mlflow.db",
        "HOME": home,  # where Ray's token is made
    }
    environment.pop("RAY_AUTH_MODE", None)
    words = ["bash", str(HOME / "slurm.sh"), *TINY, "--gpus=0", "--workers=1"]
    process = subprocess.Popen(
        words, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if "curves and pictures" in line:
                break
        assert process.wait(60) == 0, said
    finally:
        subprocess.run(["pkill", "-KILL", "-f", home], check=False)
        shutil.rmtree(home, ignore_errors=True)
    assert statuses(tmp_path) == {"job-1": "FINISHED"}
