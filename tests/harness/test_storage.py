"""Runs in object storage: an S3 server on this machine."""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import Timeout
from torchvision.io import write_png

from harness import train
from harness.errors import UserError
from harness.storage import is_remote, lease, local_copy, locked, read_text, remove_folder, storage_path
from harness.storage.lease import Lease
from tests.buckets import s3_server
from tests.commands import TINY, TINY_TRAIN, assert_refused, call, finish, run, start, wait_for
from tests.conftest import random_image
from tests.studies import write_space


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server() as address:
        yield address


def test_an_address_is_a_path_and_a_path_is_absolute(bucket: str, here: Path) -> None:
    found = storage_path("runs", "--storage-path")
    assert (found, is_remote(found)) == (here / "runs", False)
    remote = storage_path(f"{bucket}/", "--storage-path")
    assert is_remote(remote)
    assert str(remote / "a" / "b.txt") == f"{bucket}/a/b.txt"


def test_an_address_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match=r"--storage-path: must be a folder, or an address .* zz://x/y"):
        storage_path("zz://x/y", "--storage-path")


def test_folders_are_copied_and_removed(bucket: str) -> None:
    folder = storage_path(bucket, "") / "copied"
    (folder / "a/b.txt").parent.mkdir(parents=True)
    (folder / "a/b.txt").write_text("1")
    (folder / "c.txt").write_text("2")
    with local_copy(folder) as here:
        assert {str(path.relative_to(here)) for path in here.rglob("*.txt")} == {"a/b.txt", "c.txt"}
    with local_copy(folder / "c.txt") as here:
        assert (here.name, here.read_text()) == ("c.txt", "2")
    remove_folder(folder)
    assert not folder.exists()
    remove_folder(folder)  # it is gone already


# -- locks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases of a second."""
    monkeypatch.setattr(lease, "RENEWED_EVERY", 0.2)
    monkeypatch.setattr(lease, "VALID_FOR", 1.0)
    monkeypatch.setattr(lease, "SKEW", 0.5)
    monkeypatch.setattr(lease, "POLL", 0.1)


def test_a_lock_keeps_others_out_until_its_block_ends(bucket: str, short: None) -> None:
    path = storage_path(bucket, "") / "lock"
    with locked(path, 0):
        time.sleep(2.0)  # longer than it would be valid
        began = time.monotonic()
        with pytest.raises(Timeout), locked(path, 0):
            pass
        assert time.monotonic() - began < 1.5, "an owner that is alive is heard of soon"
    assert not path.exists()
    with locked(path, 0):
        pass


def test_a_lock_whose_owner_was_killed_is_free_after_its_time(bucket: str, short: None) -> None:
    path = storage_path(bucket, "") / "killed"
    Lease(path).acquire(0)  # whom nobody renews
    began = time.monotonic()
    with locked(path, 0):
        assert 0.5 < time.monotonic() - began < 5


def test_of_many_who_want_a_lock_that_has_run_out_one_gets_it(bucket: str, short: None) -> None:
    path = storage_path(bucket, "") / "wanted"
    Lease(path).acquire(0)
    time.sleep(1.6)
    leases = [Lease(path) for _ in range(5)]
    with ThreadPoolExecutor(5) as pool:
        taken = list(pool.map(Lease.take, leases))
    assert taken.count(True) == 1


# -- whole commands ---------------------------------------------------------------------------------------------------


def newest(address: str) -> int:
    """The step of the newest whole checkpoint of a run; 0: there is none."""
    found = storage_path(address, "").glob("checkpoints/*/manifest.json")
    return max((int(path.parent.name.split("_")[1]) for path in found), default=0)


@pytest.mark.slow
def test_a_training_is_killed_resumed_and_predicted_from(bucket: str, tmp_path: Path) -> None:
    words = (*TINY[2:], "--steps=200", "--eval_every=50", "--checkpoint_every=10", "--gpus=0")
    remote = f"--storage-path={bucket}"
    process = start("harness.train", *words, remote, "--name=t", cwd=tmp_path)
    wait_for(lambda: newest(f"{bucket}/t") >= 40, process)
    process.kill()
    process.wait()
    saved = newest(f"{bucket}/t")
    resumed = start("harness.train", "--resume", remote, cwd=tmp_path)
    wait_for(lambda: newest(f"{bucket}/t") > saved, resumed)
    second = run("harness.train", "--resume", "--name=t", remote, cwd=tmp_path)
    assert (second.code, second.err.count("\n")) == (2, 1), second
    assert "another command is at work on it" in second.err
    result = finish(resumed)
    assert result.code == 0, result
    assert f"resuming {bucket}/t" in result.out
    whole = run("harness.train", *words, "--name=whole", cwd=tmp_path)
    assert whole.code == 0, whole
    assert re.findall(r"mean │ ([\d.]+)", result.out) == re.findall(r"mean │ ([\d.]+)", whole.out) != []
    label = ("--images", str(tmp_path / "image.png"), "--out", str(tmp_path / "out"))

    write_png(random_image(0, 48, 96), str(tmp_path / "image.png"))
    result = run("harness.predict", f"--checkpoint={bucket}/t", *label, cwd=tmp_path)
    assert result.code == 0, result
    again = run("harness.train", f"--config={bucket}/t/config.yaml", "--steps=4", "--name=again", cwd=tmp_path)
    assert again.code == 0, again
    taken = run("harness.train", *words, remote, "--name=t", cwd=tmp_path)
    assert (taken.code, taken.err.count("\n")) == (2, 1), taken
    assert "another --name" in taken.err


@pytest.mark.slow
def test_a_training_on_two_workers_is_kept_there(bucket: str, tmp_path: Path) -> None:
    words = (*TINY, "--gpus=0", "--workers=2", f"--storage-path={bucket}", "--name=two")
    result = run("harness.train", *words, cwd=tmp_path)
    assert result.code == 0, result
    folder = storage_path(bucket, "") / "two"
    assert newest(f"{bucket}/two") == 6
    assert not (folder / "ray").exists()
    assert (folder / "best.safetensors").is_file()


@pytest.mark.slow
def test_a_study_is_killed_and_resumed_there(bucket: str, tmp_path: Path) -> None:
    space = write_space(
        tmp_path,
        "trials: 6\nconfirm: {top: 1, seeds: 2}\nbaseline: {trials: 1}\nspace:\n  ssl.tau: {low: 0.3, high: 0.9}\n",
    )
    words = (space, *TINY_TRAIN, "--train.steps=60", "--train.eval_every=20", f"--storage-path={bucket}", "--name=s")
    process = start("harness.tune", *words, cwd=tmp_path)
    folder = storage_path(bucket, "") / "s"
    wait_for(lambda: sum(read_text(path).count('"complete"') for path in folder.glob("trials/*/trial.json")), process)
    process.kill()
    process.wait()
    result = run("harness.tune", "--resume", f"--storage-path={bucket}", cwd=tmp_path)
    assert result.code == 0, result
    assert "6/6 done" in result.out
    for name in ("best.yaml", "report.html", "plots.html", "optuna.db", "trials.csv"):
        assert (folder / name).is_file(), name
    assert not (folder / "tune").exists()
    best = run("harness.train", f"--config={bucket}/s/best.yaml", "--steps=4", "--name=best", cwd=tmp_path)
    assert best.code == 0, best


@pytest.mark.slow
def test_storage_that_goes_away_ends_a_training_in_one_line(tmp_path: Path) -> None:
    words = (*TINY[2:], "--steps=100000", "--eval_every=100000", "--checkpoint_every=50", "--gpus=0", "--name=t")
    with s3_server() as address:
        process = start("harness.train", *words, f"--storage-path={address}", cwd=tmp_path)
        wait_for(lambda: newest(f"{address}/t") >= 50, process)
    result = finish(process)
    lines = [line for line in result.err.splitlines() if not line.startswith("warning: ")]
    assert (result.code, len(lines)) == (1, 1), result
    assert "cannot be written" in lines[0] or "cannot be reached" in lines[0]
    assert f"python -m harness.train --resume --name=t --storage-path={address}" in lines[0]


def test_storage_that_cannot_be_reached_is_refused_in_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], bucket: str
) -> None:
    refused = call(train.main, capsys, "--name=x", "--storage-path=s3://no-such-bucket/runs")
    assert_refused(refused, here, "--storage-path: must be a folder", "s3://no-such-bucket/runs")
