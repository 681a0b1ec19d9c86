"""Checkpoints appear whole or not at all, the last two are kept, and what is not as it was written is seen."""

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.atomic import FORMAT
from harness.errors import RunFailed, UserError
from harness.training import checkpoint
from harness.training.checkpoint import Checkpoints
from harness.training.context import LocalContext, first_said
from tests.commands import ROOT


def alone() -> LocalContext:
    return LocalContext(torch.device("cpu"), lambda progress: None)


def save(folder: Path, step: int, checkpoints: Checkpoints | None = None) -> Checkpoints:
    """By a new process, unless one is given."""
    checkpoints = checkpoints or Checkpoints(folder, alone())
    checkpoints.save(step, lambda: {"step": step, "weights": torch.arange(step)}, {"rank": 0})
    return checkpoints


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def newest(folder: Path) -> Path:
    found = checkpoint.newest(folder)
    assert found is not None
    return found


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    save(tmp_path, 3)
    shared, own = checkpoint.load(newest(tmp_path), 0)
    assert shared["step"] == 3
    assert torch.equal(shared["weights"], torch.arange(3))
    assert own == {"rank": 0}


def test_a_worker_that_was_not_there_has_no_state_of_its_own(tmp_path: Path) -> None:
    save(tmp_path, 3)
    assert checkpoint.load(newest(tmp_path), 1)[1] is None


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    checkpoints = save(tmp_path, 9)
    for step in (10, 11):
        save(tmp_path, step, checkpoints)
    assert names(tmp_path) == ["step_00000010", "step_00000011"]
    assert checkpoints.last == newest(tmp_path) == tmp_path / "checkpoints/step_00000011"


def test_a_save_that_is_cut_off_leaves_the_one_before(tmp_path: Path) -> None:
    checkpoints = save(tmp_path, 3)

    def cut_off() -> checkpoint.State:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(6, cut_off, {})
    assert newest(tmp_path).name == "step_00000003"
    save(tmp_path, 6)
    assert checkpoint.load(newest(tmp_path), 0)[0]["step"] == 6


def test_a_step_that_is_saved_again_has_a_folder_of_its_own_and_the_last_one_counts(tmp_path: Path) -> None:
    save(tmp_path, 3)
    for number in range(9):
        checkpoints = Checkpoints(tmp_path, alone())
        checkpoints.save(3, lambda number=number: {"number": number}, {})  # type: ignore[misc]
    assert names(tmp_path) == ["step_00000003_10", "step_00000003_9"]
    assert checkpoint.load(newest(tmp_path), 0)[0]["number"] == 8
    save(tmp_path, 4)
    assert names(tmp_path) == ["step_00000003_10", "step_00000004"]


def test_nothing_that_a_killed_attempt_left_gets_into_a_checkpoint(tmp_path: Path) -> None:
    for name in ("step_00000003.part", "step_00000007.part"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "rank_1.pt").write_text("of an attempt with more workers")
    save(tmp_path, 3)
    assert names(tmp_path) == ["step_00000003"]
    assert sorted(path.name for path in newest(tmp_path).iterdir()) == ["manifest.json", "rank_0.pt", "state.pt"]


def test_an_empty_folder_has_none(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None
    checkpoints = Checkpoints(tmp_path, alone())
    assert (checkpoints.last, checkpoints.passed_over) == (None, "")


# -- damage -----------------------------------------------------------------------------------------------------------


def cut(share: float) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, int(share * path.stat().st_size))


def flip(share: float) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(share * (len(content) - 1))] ^= 1
        path.write_bytes(content)

    return change


DAMAGES = {
    "empty": cut(0),
    "cut at a third": cut(0.3),
    "cut at the end": cut(0.999),
    "first byte": flip(0),
    "byte in the middle": flip(0.5),
    "last byte": flip(1),
    "gone": os.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["state.pt", "rank_0.pt", "manifest.json"])
def test_a_damaged_one_is_passed_over_for_the_one_before(file: str, damage: str, tmp_path: Path) -> None:
    checkpoints = save(tmp_path, 3)
    save(tmp_path, 6, checkpoints)
    DAMAGES[damage](newest(tmp_path) / file)
    checkpoints = Checkpoints(tmp_path, alone())
    assert checkpoints.last == tmp_path / "checkpoints/step_00000003"
    for words in ("going on from step 3", "checkpoints/step_00000006: ", file):
        assert words in checkpoints.passed_over
    save(tmp_path, 6, checkpoints)
    assert names(tmp_path) == ["step_00000003", "step_00000006"], "the damaged one makes room"
    assert Checkpoints(tmp_path, alone()).passed_over == ""


def test_any_flipped_bit_of_a_manifest_is_seen(tmp_path: Path) -> None:
    save(tmp_path, 3)
    file = newest(tmp_path) / "manifest.json"
    whole = file.read_bytes()
    harmless = 0
    for index in range(len(whole)):
        for bit in range(8):
            file.write_bytes(whole[:index] + bytes([whole[index] ^ 1 << bit]) + whole[index + 1 :])
            if checkpoint.newest(tmp_path) is not None:
                harmless += 1
                assert json.loads(file.read_bytes()) == json.loads(whole)
    assert harmless < 100, "one blank for another"


def test_where_none_is_whole_it_starts_from_the_beginning_and_says_so(tmp_path: Path) -> None:
    checkpoints = save(tmp_path, 3)
    save(tmp_path, 6, checkpoints)
    for name in names(tmp_path):
        cut(0.5)(tmp_path / "checkpoints" / name / "state.pt")
    checkpoints = Checkpoints(tmp_path, alone())
    assert checkpoints.last is None
    assert checkpoints.passed_over.startswith("starting from the beginning, since what is newer is damaged (")
    assert names(tmp_path) == ["step_00000003", "step_00000006"], "nothing is removed before a new one is written"
    save(tmp_path, 1, checkpoints)
    assert names(tmp_path) == ["step_00000001"]


def test_one_that_may_not_be_read_is_not_taken_for_damaged(tmp_path: Path) -> None:
    save(tmp_path, 3)
    (newest(tmp_path) / "state.pt").unlink()
    (tmp_path / "checkpoints/step_00000003/state.pt").symlink_to("state.pt")  # as unreadable for root as for others
    with pytest.raises(RunFailed, match=r"checkpoints cannot be read: Too many levels of symbolic links\.$"):
        Checkpoints(tmp_path, alone())


@pytest.mark.parametrize("found", [None, 99])
def test_a_checkpoint_of_another_format_is_one_line_with_the_file(found: int | None, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, alone())
    checkpoints.save(3, lambda: {"step": 3, "format": found}, {})
    given = "none" if found is None else found
    with pytest.raises(UserError, match=rf"{newest(tmp_path)}/state.pt: format must be {FORMAT}, but got {given}"):
        checkpoint.load(newest(tmp_path), 0)


# -- a disk that takes no more ----------------------------------------------------------------------------------------


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The system refuses to write more into a file, as it does where a disk is full. Python ignores its signal."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 100, 9_000, 100_000, 799_000])
def test_one_that_cannot_be_written_stops_the_run_and_leaves_the_one_before(size: int, tmp_path: Path) -> None:
    checkpoints = save(tmp_path, 3)
    with largest_file(size), pytest.raises(RunFailed) as stopped:
        save(tmp_path, 100_000, checkpoints)  # 800 kB
    assert str(stopped.value) == (
        f"{tmp_path}/checkpoints/step_00100000 cannot be written: File too large; "
        "the last checkpoint, of step 3, is whole."
    )
    assert names(tmp_path) == ["step_00000003"]
    assert newest(tmp_path).name == "step_00000003"
    save(tmp_path, 100_000, checkpoints)
    assert names(tmp_path) == ["step_00000003", "step_00100000"]


def test_weights_that_cannot_be_written_stop_the_run_and_leave_the_old_ones(tmp_path: Path) -> None:
    checkpoints, path, model = save(tmp_path, 3), tmp_path / "a.safetensors", torch.nn.Linear(20, 20)
    checkpoints.save_weights({path: model.state_dict()})
    before = path.read_bytes()
    with largest_file(100), pytest.raises(RunFailed, match=f"^{path} cannot be written: File too large; the last"):
        checkpoints.save_weights({path: torch.nn.Linear(20, 20).state_dict()})
    assert path.read_bytes() == before
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.safetensors", "checkpoints"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_full_disk_stops_the_run_and_leaves_the_one_before(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounts are not allowed")
    try:
        checkpoints = save(tmp_path, 50_000)  # 400 kB
        with pytest.raises(RunFailed, match=r"cannot be written: No space left on device; .* step 50000, is whole"):
            save(tmp_path, 90_000, checkpoints)
        assert names(tmp_path) == [newest(tmp_path).name] == ["step_00050000"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


# -- several workers --------------------------------------------------------------------------------------------------


class Worker(LocalContext):
    """One of several workers, each a thread."""

    def __init__(self, rank: int, shared: list[Tensor], barrier: threading.Barrier) -> None:
        super().__init__(torch.device("cpu"), lambda progress: None, rank=rank, world_size=len(shared))
        self.shared, self.barrier = shared, barrier

    def mean(self, value: Tensor) -> Tensor:
        self.shared[self.rank] = value
        self.barrier.wait(20)
        mean = torch.stack(self.shared).sum(0) / self.world_size
        self.barrier.wait(20)
        return mean


def on_workers(count: int, work: Callable[[Worker], object]) -> list[object]:
    """What each worker returns, or its RunFailed."""
    shared, barrier = [torch.zeros(())] * count, threading.Barrier(count)

    def run(rank: int) -> object:
        try:
            return work(Worker(rank, shared, barrier))
        except RunFailed as stopped:
            return str(stopped)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


@pytest.mark.parametrize("texts", [("", "", ""), ("", "on 1: ü", "on 2"), ("on 0", "", "")])
def test_all_workers_hear_what_the_first_has_to_say(texts: tuple[str, ...]) -> None:
    said = on_workers(3, lambda worker: first_said(worker, texts[worker.rank]))
    assert said == [next(filter(None, texts), "")] * 3


def test_workers_agree_on_the_checkpoint_that_rank_0_finds_whole(tmp_path: Path) -> None:
    def train(worker: Worker) -> object:
        checkpoints = Checkpoints(tmp_path, worker)
        for step in (3, 6, 6):
            checkpoints.save(step, lambda: {"step": step}, {"rank": worker.rank})  # noqa: B023
        return checkpoints.last

    assert on_workers(2, train) == [tmp_path / "checkpoints/step_00000006_2"] * 2
    flip(0.5)(newest(tmp_path) / "rank_1.pt")
    found = on_workers(2, lambda worker: Checkpoints(tmp_path, worker).last)
    assert found == [tmp_path / "checkpoints/step_00000006"] * 2
    assert [checkpoint.load(newest(tmp_path), rank)[1] for rank in (0, 1)] == [{"rank": 0}, {"rank": 1}]


@pytest.mark.parametrize("rank", [0, 1])
def test_where_one_worker_cannot_write_all_stop_for_its_reason(rank: int, tmp_path: Path) -> None:
    def train(worker: Worker) -> object:
        large = torch.zeros(100_000 if worker.rank == rank else 1)
        Checkpoints(tmp_path, worker).save(6, dict, {"large": large})
        return "saved"

    on_workers(2, lambda worker: Checkpoints(tmp_path, worker).save(3, dict, {}))
    with largest_file(100_000):
        (one, other) = on_workers(2, train)
    assert one == other
    assert str(one).startswith(f"{tmp_path}/checkpoints/step_00000006 cannot be written: File too large; the last")
    assert names(tmp_path) == ["step_00000003"]


# -- weights ----------------------------------------------------------------------------------------------------------


def test_weights_come_back(tmp_path: Path) -> None:
    model, other = torch.nn.Conv2d(2, 3, 1), torch.nn.Conv2d(2, 3, 1)
    checkpoint.save_weights(tmp_path / "a.safetensors", model.state_dict())
    checkpoint.load_weights(tmp_path / "a.safetensors", other)
    assert torch.equal(model.weight, other.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("damage", ["empty", "cut at a third", "cut at the end", "gone"])
def test_damaged_weights_are_one_line_with_the_file(damage: str, tmp_path: Path) -> None:
    path, model = tmp_path / "a.safetensors", torch.nn.Conv2d(2, 3, 1)
    checkpoint.save_weights(path, model.state_dict())
    DAMAGES[damage](path)
    with pytest.raises(UserError, match=f"^{path}: must hold the weights of the network, but got: ") as refused:
        checkpoint.load_weights(path, model)
    assert "\n" not in str(refused.value)


def test_weights_of_another_network_are_one_line_with_the_file(tmp_path: Path) -> None:
    checkpoint.save_weights(tmp_path / "a.safetensors", torch.nn.Conv2d(2, 4, 1).state_dict())
    with pytest.raises(UserError, match=r"a.safetensors: must hold the weights of the network, .* size mismatch"):
        checkpoint.load_weights(tmp_path / "a.safetensors", torch.nn.Conv2d(2, 3, 1))


# -- one writer -------------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
import torch
from harness.training.checkpoint import sole_writer
from harness.training.context import LocalContext
with sole_writer(Path(sys.argv[1]), LocalContext(torch.device("cpu"), print)):
    print("training", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "patience"), [(2, 60), (60, 0.5)])
def test_a_process_left_by_a_killed_command_is_waited_for_but_not_for_ever(
    seconds: float, patience: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "PATIENCE", patience)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), str(seconds)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "training\n"
        before = time.monotonic()
        if seconds < patience:
            with checkpoint.sole_writer(tmp_path, alone()):
                assert time.monotonic() - before > seconds - 0.5, "it was waited for"
            assert other.wait(60) == 0
        else:
            words = f"^{tmp_path}: a process of another command still trains there, after 0.5 s.$"
            with pytest.raises(RunFailed, match=words), checkpoint.sole_writer(tmp_path, alone()):
                pass
    finally:
        other.kill()
