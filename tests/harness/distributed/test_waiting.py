"""A Ray cluster that is too small or busy: refused, or waited for with a line every few seconds that a Ctrl-C ends."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.config.search import Resources
from harness.distributed.bundles import Bundle, training_bundles, trial_bundles
from harness.distributed.waiting import what_is_missing
from tests.clusters import busy, cluster, ray_start
from tests.commands import TINY, TINY_TRAIN, Result, finish, run, start
from tests.harness.test_train import statuses
from tests.studies import write_space

FOUR = (*TINY, "--data.batch_labelled=4", "--data.batch_unlabelled=4", "--gpus=0", "--workers=4", "--name=a")
SPACE = "trials: 1\nconfirm: {top: 0}\nspace: {ssl.tau: {low: 0.1, high: 0.9}}\nresources: {cpus: %d}\n"


@pytest.mark.parametrize(
    ("bundles", "free", "line"),
    [
        (training_bundles(5, 0), {"CPU": 2.0}, "3 more CPUs, 2 of 5 there"),
        (training_bundles(5, 0), {"CPU": 4.0}, "1 more CPU, 4 of 5 there"),
        (training_bundles(2, 2), {"CPU": 8.0}, "2 more GPUs, 0 of 2 there"),
        (trial_bundles(Resources(cpus=2)), {"CPU": 0.0}, "2 more CPUs, 0 of 2 there"),
        (trial_bundles(Resources(gpus=0.25)), {"CPU": 1.0, "GPU": 0.1}, "0.15 more GPUs, 0.1 of 0.25 there"),
        (
            trial_bundles(Resources(gpus=2, cpus=3)),
            {"CPU": 5.0, "GPU": 0.0},
            "1 more CPU, 5 of 6 there; 2 more GPUs, 0 of 2 there",
        ),
        (
            trial_bundles(Resources(cpus=3)),
            {"CPU": 4.0},
            "a machine with 3 CPU free: there are enough, but on several",
        ),
    ],
)
def test_the_line_says_what_is_missing(bundles: list[Bundle], free: dict[str, float], line: str) -> None:
    assert what_is_missing(bundles, free) == f"waiting for {line}"


INTERRUPTED = """
import harness, ray
from harness.distributed.waiting import wait_for_room
ray.init("local", num_cpus=1, include_dashboard=False, logging_level="ERROR")
try:
    wait_for_room([{"CPU": 5}], print, lambda: True)
except KeyboardInterrupt:
    print("ended")
"""


@pytest.mark.slow
def test_a_signal_that_came_before_the_waiting_ends_it() -> None:
    found = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60)
    assert found.stdout.splitlines()[-1] == "ended", found


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster with three CPUs."""
    with cluster(3) as found:
        yield found


def read_until(process: "subprocess.Popen[str]", words: str) -> str:
    """What the command printed, up to a line that holds the words."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if words in line:
            return said
    raise AssertionError((said, process.communicate()))


def stop(process: "subprocess.Popen[str]", number: int) -> Result:
    """Its result after a signal, which ends it within 5 seconds."""
    before = time.monotonic()
    process.send_signal(number)
    result = finish(process)
    assert time.monotonic() - before < 5
    return result


@pytest.mark.slow
def test_of_two_trainings_that_wait_for_the_same_room_each_gets_it(address: str, tmp_path: Path) -> None:
    """Both are given it at once, and one comes too late: it waits again."""
    words = (*TINY, "--data.batch_labelled=4", "--data.batch_unlabelled=4", "--gpus=0", f"--address={address}")
    with busy(address, 2):
        waiting = [start("harness.train", *words, "--workers=2", f"--name={name}", cwd=tmp_path) for name in "ab"]
        for process in waiting:
            read_until(process, "waiting for 1 more CPU, 1 of 2 there")
    for result in [finish(process) for process in waiting]:
        assert (result.code, result.err) == (0, ""), result
    alone = run("harness.train", *words, "--workers=1", "--name=c", cwd=tmp_path)
    assert (alone.code, alone.err) == (0, ""), alone
    assert statuses(tmp_path) == dict.fromkeys("abc", "FINISHED")


@pytest.mark.slow
def test_more_workers_than_cpus_are_refused_or_waited_for_until_the_cluster_has_grown(
    address: str, tmp_path: Path
) -> None:
    words = (*FOUR, f"--address={address}")
    refused = run("harness.train", *words, cwd=tmp_path)
    assert (refused.code, refused.err.count("\n")) == (2, 1), refused
    for part in ("workers: 4 asked for", f"{address.partition(':')[2]} has 3 CPU(s)", "--workers=2", "--wait"):
        assert part in refused.err
    assert not list(tmp_path.iterdir())

    process = start("harness.train", *words, "--wait", cwd=tmp_path)
    said = read_until(process, "waiting for 1 more CPU, 3 of 4 there")
    assert re.search(rf"^on the Ray cluster at [\d.]+:{address.partition(':')[2]}$", said, re.MULTILINE)
    read_until(process, "waiting for 1 more CPU, 3 of 4 there")
    result = stop(process, signal.SIGINT)
    assert result.code == 130, result
    resume = f"--resume --name=a --address={address} --wait"
    assert resume in result.out
    assert statuses(tmp_path) == {"a": "KILLED"}

    process = start("harness.train", *resume.split(), cwd=tmp_path)
    read_until(process, "waiting for")
    with ray_start(f"--address={address}", "--num-cpus=1"):
        result = finish(process)
    assert result.code == 0, result
    assert statuses(tmp_path) == {"a": "FINISHED"}


@pytest.mark.slow
def test_a_study_waits_for_room_for_a_trial_where_the_cluster_is_busy_and_refuses_what_never_fits(
    address: str, tmp_path: Path
) -> None:
    words = ("--space=space.yaml", f"--address={address}", "--name=s", *TINY_TRAIN)
    write_space(tmp_path, SPACE % 9)
    refused = run("harness.tune", *words, cwd=tmp_path)
    assert (refused.code, refused.err.count("\n")) == (2, 1), refused
    assert "9 asked for each trial" in refused.err
    assert "--wait" in refused.err

    write_space(tmp_path, SPACE % 3)
    with busy(address, 2):
        process = start("harness.tune", *words, cwd=tmp_path)
        read_until(process, "waiting for 2 more CPUs, 1 of 3 there")
        result = stop(process, signal.SIGTERM)
        assert (result.code, result.err) == (130, ""), result
        assert "the same command" in result.out
        process = start("harness.tune", *words, cwd=tmp_path)
        said = read_until(process, "waiting for 2 more CPUs, 1 of 3 there")
        assert "on the Ray cluster at" in said
    result = finish(process)
    assert result.code == 0, result
