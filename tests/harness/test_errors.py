"""Which failures are final, and which the fault of a machine or a moment."""

import errno
import pickle
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mlflow.exceptions import MlflowException
from ray.exceptions import ActorDiedError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from torchvision.io import write_png

from classmix_core.data import cache
from classmix_core.data.image_io import decode
from classmix_core.errors import DataError, InvalidValue
from harness.atomic import read_json
from harness.distributed.failures import final_reason, innermost, is_loss_of_worker
from harness.errors import NoRoom, RunFailed, TrainingError, UserError, is_out_of_memory
from harness.search.trial import is_own_fault


def error_of(call: Callable[[], object]) -> Exception:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError


def no_room_in_the_cache(folder: Path) -> None:
    (folder / "file").write_text("")
    cache.store(folder / "file/sample", torch.zeros(2, 2, dtype=torch.uint8))


def too_many_open_files(folder: Path) -> None:
    write_png(torch.zeros(3, 4, 5, dtype=torch.uint8), str(folder / "a.png"))
    decode(folder / "a.png", "RGB")  # imports what it needs
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        decode(folder / "a.png", "RGB")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def a_record_that_cannot_be_read(folder: Path) -> None:
    read_json(folder)


@pytest.mark.parametrize("call", [no_room_in_the_cache, too_many_open_files, a_record_that_cannot_be_read])
def test_what_the_system_refused_is_no_fault_of_a_trial(call: Callable[[Path], None], tmp_path: Path) -> None:
    error = error_of(lambda: call(tmp_path))
    assert isinstance(error, DataError | UserError)
    assert not is_own_fault(error)


def damaged_image(folder: Path) -> None:
    (folder / "a.png").write_bytes(b"no image")
    decode(folder / "a.png", "RGB")


def damaged_record(folder: Path) -> None:
    (folder / "a.json").write_text("{")
    read_json(folder / "a.json")


@pytest.mark.parametrize("call", [damaged_image, damaged_record])
def test_bad_data_are(call: Callable[[Path], None], tmp_path: Path) -> None:
    assert is_own_fault(error_of(lambda: call(tmp_path)))


def test_a_refused_value_survives_the_way_from_a_worker() -> None:
    error = pickle.loads(pickle.dumps(InvalidValue("name", "name is known", "x")))
    assert (str(error), error.field) == ("`name is known` must hold, but got 'x'.", "name")
    assert is_own_fault(error)


def too_much_memory() -> None:
    torch.empty(2**62, dtype=torch.uint8)


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (error_of(too_much_memory), "can't allocate memory"),
        (MemoryError("too much"), "too much"),
        (MlflowException("gone"), "MLflow's store failed: MlflowException: gone"),
        (FULL, "No space left on device"),
        (NoRoom("no room for step_00000004"), "no room for step_00000004"),
        (DataError("a.png: must exist."), "a.png: must exist."),
        (RuntimeError("a bug"), None),
        (RuntimeError("[gloo/transport/tcp/pair.cc:1] Connection closed"), None),
    ],
)
def test_workers_that_would_fail_again_are_not_tried_again(error: Exception, words: str | None) -> None:
    found = final_reason(error)
    assert found is None if words is None else words in str(found), found
    assert is_loss_of_worker(error) == ("gloo" in str(error))


def test_out_of_memory_is_known_on_each_device() -> None:
    for error in (error_of(too_much_memory), MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")):
        assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("else"))


def test_a_diverged_training_survives_the_way_from_a_worker_as_what_it_is() -> None:
    for kind in (TrainingError, RunFailed, NoRoom):
        assert type(pickle.loads(pickle.dumps(kind("x")))) is kind


def test_what_went_wrong_first_is_told_before_the_loss_of_a_worker() -> None:
    died = WorkerHealthCheckFailedError("it does not answer", ActorDiedError())
    full = OSError(errno.ENOSPC, "no room")
    assert innermost(WorkerGroupError("both", {0: died, 1: full})) is full
    assert is_loss_of_worker(innermost(WorkerGroupError("one", {0: died})))
