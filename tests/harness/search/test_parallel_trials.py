"""Trials of several workers, on a Ray cluster of the test's own, which the command joins."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import run
from tests.studies import BASE, mlflow_runs, records, write_space

SPACE = """
sampler: grid
early_stopping: {grace_steps: 16, reduction_factor: 2}
confirm: {top: 0}
resources: {workers: 2}
space:
  optim.lr: {values: [0.1, 1.0e-9, 0.09]}
"""
"""The second learns nothing, so it is stopped after 16 steps: 0.03 against 0.12."""
LEFT = """
import ray
ray.init(address="{address}", log_to_driver=False, logging_level="ERROR")
print([one["state"] for one in ray.util.placement_group_table().values()])
print(ray.available_resources().get("CPU"))
"""


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Ray with 2 cores and the State API."""
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"},
    )
    assert process.stdout
    assert process.stdin
    yield process.stdout.readline().strip()
    process.stdin.close()
    process.wait(timeout=60)


HEAD = """
import sys
import harness
import ray
memory = 100 * 1024 * 1024
context = ray.init(
    "local", num_cpus=2, include_dashboard=True, logging_level="ERROR", object_store_memory=memory
)
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_without_rays_state_api_trials_of_several_workers_are_refused(tmp_path: Path) -> None:
    script = """
import harness
from harness.cli.exit_code import run_command
from harness.config.search import Resources
from harness.distributed.connection import connected, refuse_leaks
def main(args):
    with connected(None, False, num_cpus=2):
        refuse_leaks(Resources())
        print("one worker may")
        refuse_leaks(Resources(workers=2))
run_command(main)
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    words = [sys.executable, "-c", script]
    found = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (found.returncode, found.stdout) == (2, "one worker may\n"), found
    assert "resources.workers: trials of several workers need Ray's State API" in " ".join(found.stderr.split())


@pytest.mark.slow
def test_an_early_stopped_trial_of_two_workers_leaves_no_placement_group(
    tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    flag = write_space(tmp_path, BASE.replace("24", "32").replace("every: 4", "every: 16") + SPACE)
    result = run("harness.tune", flag, "--name=s", f"--address={cluster}", cwd=tmp_path)
    assert result.code == 0, result
    assert "1 at a time on 2 core(s) each in 2 workers" in result.out
    found = records(tmp_path)
    states = [one["state"] for one in found]
    assert states[:2] == ["complete", "pruned"]
    assert states[2] in ("complete", "pruned"), "it needs all cores, and would wait for ever"
    _, children = mlflow_runs(tmp_path)
    assert {item.info.status for item in children} == {"FINISHED"}
    left = subprocess.run([sys.executable, "-c", LEFT.format(address=cluster)], capture_output=True, text=True)
    states, free = left.stdout.splitlines()[-2:]
    assert set(eval(states)) <= {"REMOVED"}, left
    assert float(free) == 2, "all cores are free again"
