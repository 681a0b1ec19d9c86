"""Shared by tests: a cache folder of their own, a seeded generator, an empty folder to run in, and miniature data sets
as files."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torchvision.io import write_jpeg, write_png

from classmix_core.batch_generator import BatchGenerator
from tests.trees import build_cityscapes, build_voc


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests remember and cache is no user's, nor that of an earlier run; the processes they start inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        patch.setenv("MPLCONFIGDIR", os.environ.get("MPLCONFIGDIR", f"{home}/matplotlib"))  # its fonts take seconds
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread_in_each_command() -> Iterator[None]:
    """Commands that tests start share few cores, where threads of torch that wait for each other double their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture
def generator() -> BatchGenerator:
    return BatchGenerator().manual_seed(20)


@pytest.fixture
def group_of_one() -> Iterator[None]:
    """torch.distributed's default group, of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def cuda() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that commands run in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def random_image(seed: int, height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def random_label(seed: int, height: int, width: int, values: int) -> Tensor:
    """uint8 (1, H, W) of 0..values-1, each of which is there."""
    label = torch.randint(0, values, (height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    label.view(-1)[:values] = torch.arange(values, dtype=torch.uint8)
    return label[None]


@pytest.fixture
def camvid_root(tmp_path: Path) -> Path:
    """train 7, val 2 and test 3 images of 9 x 13 pixels; labels 0..11, of which 11 is void."""
    for number, (split, count) in enumerate({"train": 7, "val": 2, "test": 3}.items()):
        images, labels = tmp_path / "images" / split, tmp_path / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for index in range(count):
            name = f"seq{9 - index}"  # written in an order that is not the sorted one
            write_png(random_image(10 * number + index, 9, 13), str(images / f"{name}.png"))
            write_png(random_label(10 * number + index, 9, 13, 12), str(labels / f"{name}.png"))
    return tmp_path


@pytest.fixture
def folder_root(tmp_path: Path) -> Path:
    """3 classes; images/ with 10 labelled and 2 unlabelled photographs of 9 x 14, unlabelled/ with 3 more."""
    (tmp_path / "classes.txt").write_text("grass\nrock \n\nwater\n")
    for part in ("images/a", "labels/a", "unlabelled"):
        (tmp_path / part).mkdir(parents=True)
    for index in range(12):
        write_jpeg(random_image(index, 9, 14), str(tmp_path / f"images/a/photo {index:02}.jpg"))
        if index not in (4, 7):
            write_png(random_label(index, 9, 14, 3), str(tmp_path / f"labels/a/photo {index:02}.png"))
    for index in range(3):
        write_png(random_image(50 + index, 9, 14), str(tmp_path / f"unlabelled/extra{index}.png"))
    return tmp_path


@pytest.fixture
def cityscapes_root(tmp_path: Path) -> Path:
    """8 training and 3 val images of 16 x 32 with labelIds, 2 of train_extra without."""
    return build_cityscapes(tmp_path / "cityscapes")


@pytest.fixture
def voc_root(tmp_path: Path) -> Path:
    """VOCdevkit/VOC2012 and SBD: trainaug has 9 images, 4 of them VOC's own, val 3; of two sizes."""
    return build_voc(tmp_path / "voc")


def add_part(root: Path, part: str, count: int) -> None:
    """A val/ or test/ folder."""
    for kind in ("images", "labels"):
        (root / part / kind).mkdir(parents=True)
    for index in range(count):
        write_png(random_image(70 + index, 9, 14), str(root / part / f"images/{index}.png"))
        write_png(random_label(70 + index, 9, 14, 3), str(root / part / f"labels/{index}.png"))
