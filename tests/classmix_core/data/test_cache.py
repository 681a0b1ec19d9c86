"""The cache gives the same bits as the files, to every process, and never a file that is not whole."""

import errno
import os
import re
import signal
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.io import write_png

from classmix_core.config import DataConfig
from classmix_core.data import Data, cache, check_data, load_data
from classmix_core.data.loader import TrainingSet, evaluation_batches, training_batches
from classmix_core.errors import DataError
from tests.conftest import random_image
from tests.trees import build_cityscapes, build_voc

ROLES = ("labelled", "unlabelled", "val", "test")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


@pytest.fixture(params=["camvid", "cityscapes", "voc"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> DataConfig:
    if request.param == "camvid":
        root: Path = request.getfixturevalue("camvid_root")
    else:
        root = {"cityscapes": build_cityscapes, "voc": build_voc}[request.param](tmp_path / "data")
    return DataConfig(name=request.param, root=str(root), labelled=2, holdout=0.4)


def items(data: Data, config: DataConfig, resize: tuple[int, int] | None = None) -> list[Tensor]:
    """All that training and evaluation ever see."""
    found: list[Tensor] = []
    for labels, role in ((True, data.labelled), (False, data.unlabelled)):
        training_set = TrainingSet(role, labels=labels, resize=config.resize, crop=config.crop, seed=3)
        for index in range(len(role.names)):
            found += training_set[index, 7 * index]
    for role in (data.val, data.test):
        for resize_labels in (True, False):
            batches = evaluation_batches(
                role, 2, resize=config.resize, resize_labels=resize_labels, rank=0, world_size=1
            )
            for batch in batches:
                found += batch
    return found


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: Any) -> Tensor:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr("torchvision.io.decode_image", refuse)
    monkeypatch.setattr("classmix_core.data.datasets.voc.read_sbd_label", refuse)


# ---- the same bits


@pytest.mark.parametrize("resize", [None, (10, 11), (40, 24)])
@pytest.mark.parametrize("crop", [None, (8, 9)])
def test_what_is_filled_and_what_is_found_equal_what_is_read(
    config: DataConfig,
    resize: tuple[int, int] | None,
    crop: tuple[int, int] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(config, resize=resize, crop=crop)
    expected = items(load_data(config), config)
    config = replace(config, cache="disk")
    assert same(items(load_data(config), config), expected)
    forbid_reading(monkeypatch)
    assert same(items(load_data(config), config), expected)


@pytest.mark.slow
def test_batches_of_loader_processes_are_the_same(camvid_root: Path) -> None:
    config = DataConfig(name="camvid", root=str(camvid_root), labelled=3, resize=(10, 12))

    def batches(given: DataConfig, workers: int) -> list[Tensor]:
        training_set = TrainingSet(load_data(given).labelled, labels=True, resize=given.resize, crop=None, seed=3)
        options: dict[str, Any] = {"seed": 3, "rank": 0, "world_size": 1, "first_step": 0}
        options |= {"loader_workers": workers, "device": torch.device("cpu")}
        return [tensor for batch in islice(training_batches(training_set, 2, **options), 6) for tensor in batch]

    assert same(batches(replace(config, cache="disk"), 2), batches(config, 0))


def test_names_subsets_and_checks_are_those_of_the_files(config: DataConfig) -> None:
    plain, cached = load_data(config), load_data(replace(config, cache="disk", resize=(10, 11)))
    for role in ROLES:
        first, second = plain.roles()[role], cached.roles()[role]
        assert list(first.names) == list(second.names)
        assert [first.check(i, 19 if config.name == "cityscapes" else 21) for i in range(2)] == [
            second.check(i, 19 if config.name == "cityscapes" else 21) for i in range(2)
        ]
        assert torch.equal(second.subset([1]).image(0), second.image(1))
        assert list(second.subset([1]).names) == [first.names[1]]


def test_checking_reads_the_files_and_not_the_cache(camvid_root: Path) -> None:
    config = DataConfig(name="camvid", root=str(camvid_root), labelled=3, cache="disk")
    data = load_data(config)
    items(data, config)
    path = camvid_root / "labels" / data.val.names[0]
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataError, match=re.escape(str(path))):
        list(check_data(data, config, ("val",)))


def test_what_is_done_to_a_sample_is_not_done_to_the_cache(config: DataConfig) -> None:
    config = replace(config, cache="disk")
    data = load_data(config)
    for _ in range(3):
        image, label = data.labelled.image(0), data.labelled.label(0)
        assert image.max() > 0
        image.zero_()
        label.fill_(7)
    assert not (data.labelled.label(0) == 7).all()


def test_masks_of_unlabelled_images_are_neither_needed_nor_kept(config: DataConfig) -> None:
    config = replace(config, cache="disk")
    data = load_data(config)
    for index in range(len(data.unlabelled.names)):
        data.unlabelled.image(index)
    assert len(list((Path(os.environ["XDG_CACHE_HOME"]) / "classmix_harness").iterdir())) == len(data.unlabelled.names)
    with pytest.raises(AssertionError):
        data.unlabelled.label(0)


# ---- what a file in the cache stands for


def test_another_split_finds_the_images_that_one_has_read(camvid_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig(name="camvid", root=str(camvid_root), labelled=3, cache="disk")
    items(load_data(config), config)
    forbid_reading(monkeypatch)
    for seed in range(5):
        data = load_data(replace(config, split_seed=seed, labelled=1))
        for role in ROLES:
            for index in range(len(data.roles()[role].names)):
                assert data.roles()[role].image(index).shape == (3, 9, 13)


@pytest.mark.parametrize("change", ["content", "time", "size of the file"])
def test_a_changed_file_is_read_again(camvid_root: Path, change: str) -> None:
    config = DataConfig(name="camvid", root=str(camvid_root), labelled=3, cache="disk")
    data = load_data(config)
    path = camvid_root / "images" / data.labelled.names[0]
    before, status = data.labelled.image(0).clone(), path.stat()
    write_png(random_image(99, 9, 13), str(path))
    if change == "time":
        path.write_bytes(path.read_bytes()[: status.st_size].ljust(status.st_size, b"\0"))
    if change == "size of the file":
        path.write_bytes(path.read_bytes() + b"\0")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert torch.equal(data.labelled.image(0), random_image(99, 9, 13))
    assert not torch.equal(data.labelled.image(0), before)


@pytest.mark.parametrize("field", [{"resize": (12, 16)}, {"resize": (9, 13)}, {"name": "folder"}])
def test_other_sizes_and_readers_are_other_files(camvid_root: Path, field: dict[str, Any]) -> None:
    """A folder of the same images has another void: its labels may not be taken for CamVid's."""
    (camvid_root / "classes.txt").write_text("\n".join(map(str, range(12))))
    first = DataConfig(name="camvid", root=str(camvid_root), cache="disk")
    second = replace(first, **field)
    for given in (first, second, first):
        expected = items(load_data(replace(given, cache="none")), given)
        assert same(items(load_data(given), given), expected)
    for given in (second, first):
        given = replace(given, cache_dir=str(camvid_root / "other"))
        assert same(
            items(load_data(given), given), items(load_data(replace(given, cache="none", cache_dir=None)), given)
        )


def test_a_file_that_is_gone_is_named(camvid_root: Path) -> None:
    config = DataConfig(name="camvid", root=str(camvid_root), labelled=3, cache="disk")
    data = load_data(config)
    path = camvid_root / "images" / data.labelled.names[0]
    data.labelled.image(0)
    path.unlink()
    with pytest.raises(DataError, match=re.escape(f"{path}: the file must exist.")):
        data.labelled.image(0)


# ---- whole or not there


def in_child(action: Any) -> int:
    """Run it in a forked process; its wait status."""
    child = os.fork()
    if child == 0:
        action()
        os._exit(0)
    return os.waitpid(child, 0)[1]


def test_a_filler_that_is_killed_leaves_nothing_that_is_taken_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = torch.arange(30, dtype=torch.uint8).view(5, 6)

    class Dying:
        """A file whose second part is written by half."""

        def __init__(self, file: Any) -> None:
            self.file, self.parts = file, 0

        def __enter__(self) -> "Dying":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def write(self, data: Any) -> None:
            self.parts += 1
            self.file.write(bytes(data)[:9] if self.parts == 2 else data)
            if self.parts == 2:
                self.file.flush()
                os.kill(os.getpid(), signal.SIGKILL)

    fdopen = os.fdopen
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdopen", lambda *args: Dying(fdopen(*args)))
        assert in_child(lambda: cache.store(tmp_path / "cache/x", value)) == signal.SIGKILL
    (left,) = (tmp_path / "cache").iterdir()
    assert left.suffix == ".part"
    assert left.stat().st_size == cache.HEADER.size + 9
    cache.store(tmp_path / "cache/x", value)
    assert torch.equal(cache.load(tmp_path / "cache/x"), value)


@pytest.mark.parametrize("keep", [0, 1, 6, 9, 10, 11, 127, 128, 129, 200, 128 + 3 * 9 * 13 - 1])
def test_a_file_that_lost_its_end_is_made_again(camvid_root: Path, keep: int) -> None:
    config = DataConfig(name="camvid", root=str(camvid_root), labelled=3, cache="disk")
    data = load_data(config)
    expected = data.labelled.image(0).clone()
    (file,) = (Path(os.environ["XDG_CACHE_HOME"]) / "classmix_harness").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:keep])
    assert torch.equal(data.labelled.image(0), expected)
    assert file.read_bytes() == whole


def test_processes_that_fill_at_once_all_see_the_right_bits(camvid_root: Path) -> None:
    config = DataConfig(name="camvid", root=str(camvid_root), labelled=3, cache="disk", resize=(32, 40))
    plain = load_data(replace(config, cache="none")).labelled
    expected = [TrainingSet(plain, labels=True, resize=(32, 40), crop=None, seed=0)[i, i] for i in range(3)]
    data = load_data(config).labelled

    def fill() -> None:
        torch.set_num_threads(1)  # the others do not survive a fork
        try:
            right = all(
                torch.equal(data.image(i), expected[i][0]) and torch.equal(data.label(i), expected[i][1])
                for i in (0, 1, 2) * 20
            )
            os._exit(0 if right else 1)
        finally:
            os._exit(2)

    children = []
    for _ in range(6):
        child = os.fork()
        if child == 0:
            fill()
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6
    folder = Path(os.environ["XDG_CACHE_HOME"]) / "classmix_harness"
    assert sorted(path.suffix for path in folder.iterdir()) == [""] * 6


def test_what_a_killed_process_left_is_deleted_a_day_later(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    for name, hours in (("old.part", 25), ("new.part", 1), ("old", 25)):
        (folder / name).touch()
        os.utime(folder / name, (time.time() - 3600 * hours,) * 2)
    cache.open_cache(str(folder))
    assert {path.name for path in folder.iterdir()} == {"new.part", "old"}


def test_no_room_is_said_and_nothing_is_left(camvid_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    config = DataConfig(name="camvid", root=str(camvid_root), cache="disk", cache_dir=str(camvid_root / "c"))
    expected = f"{camvid_root / 'c'}: the cache must have room there (--data.cache_dir DIR "
    with pytest.raises(DataError, match=re.escape(expected) + ".* but got: No space left on device"):
        load_data(config).labelled.image(0)
    assert list((camvid_root / "c").iterdir()) == []


# ---- where it lies


def test_disk_is_the_given_folder_or_one_below_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.open_cache(str(tmp_path / "c")) == tmp_path / "c"
    assert cache.open_cache(None) == tmp_path / "home/classmix_harness"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.open_cache(None) == tmp_path / ".cache/classmix_harness"
