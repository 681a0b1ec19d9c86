"""Sets of images and labels in memory and in files."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.io import write_png

from classmix_core.constants import IGNORE_INDEX
from classmix_core.data.image_io import read_label
from classmix_core.data.samples import ArraySamples, FileSamples, pair_files
from classmix_core.errors import DataError
from tests.conftest import random_image, random_label

HEIGHT, WIDTH = 5, 7


@pytest.fixture
def files(tmp_path: Path) -> FileSamples:
    """Three images and their labels of 4 classes."""
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    for index in range(3):
        write_png(random_image(index, HEIGHT, WIDTH), str(tmp_path / f"images/{index}.png"))
        write_png(random_label(index, HEIGHT, WIDTH, 4), str(tmp_path / f"labels/{index}.png"))
    return pair_files(tmp_path / "images", tmp_path / "labels", tmp_path / "images")


def label_file(files: FileSamples, index: int) -> Path:
    assert files.label_paths is not None
    return files.label_paths[index]


def test_images_and_labels_are_what_was_written(files: FileSamples) -> None:
    for index in range(3):
        assert torch.equal(files.image(index), random_image(index, HEIGHT, WIDTH))
        assert torch.equal(files.label(index), random_label(index, HEIGHT, WIDTH, 4)[0])
        assert files.check(index, 4) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("ignore_value", [0, 3, IGNORE_INDEX])
def test_the_ignore_value_and_255_become_ignore_and_nothing_else_does(files: FileSamples, ignore_value: int) -> None:
    raw = random_label(0, HEIGHT, WIDTH, 4)
    raw[0, 0, :2] = IGNORE_INDEX
    write_png(raw, str(label_file(files, 0)))
    label = FileSamples(files.names, files.image_paths, files.label_paths, ignore_value).label(0)
    assert torch.equal(label, torch.where((raw == ignore_value) | (raw == IGNORE_INDEX), IGNORE_INDEX, raw)[0])


def test_a_reader_of_ones_own_reads_the_labels_before_the_ignore_value_is_looked_for(files: FileSamples) -> None:
    given = FileSamples(files.names, files.image_paths, files.label_paths, ignore_value=9, reader=plus_7)
    raw = random_label(2, HEIGHT, WIDTH, 4)[0]
    assert torch.equal(given.label(2), torch.where(raw == 2, IGNORE_INDEX, raw + 7))
    assert torch.equal(given.subset([2]).label(0), given.label(2))


def plus_7(path: Path) -> Tensor:
    return read_label(path) + 7


def array_samples() -> ArraySamples:
    images = torch.stack([random_image(index, HEIGHT, WIDTH) for index in range(4)])
    labels = torch.cat([random_label(index, HEIGHT, WIDTH, 4) for index in range(4)])
    return ArraySamples(["a", "b", "c", "d"], images, labels)


def test_a_subset_keeps_names_images_and_labels_together(files: FileSamples) -> None:
    for samples, chosen in ((array_samples(), [3, 1]), (files, [2, 0])):
        subset = samples.subset(chosen)
        assert list(subset.names) == [samples.names[index] for index in chosen]
        for place, index in enumerate(chosen):
            assert torch.equal(subset.image(place), samples.image(index))
            assert torch.equal(subset.label(place), samples.label(index))


def test_a_subset_may_be_empty(files: FileSamples) -> None:
    assert list(files.subset([]).names) == []
    assert list(array_samples().subset([]).names) == []
    assert array_samples().subset([]).images.shape == (0, 3, HEIGHT, WIDTH)


def test_arrays_check_as_their_size() -> None:
    assert array_samples().check(0, 4) == (HEIGHT, WIDTH)


def test_without_labels_no_label_is_ever_looked_for(files: FileSamples) -> None:
    unlabelled = files.without_labels()
    for index in range(3):
        label_file(files, index).unlink()
        assert unlabelled.check(index, 4) == (HEIGHT, WIDTH)
    assert unlabelled.subset([1]).label_paths is None


def test_a_label_has_its_images_relative_stem(tmp_path: Path) -> None:
    (tmp_path / "images/x.y").mkdir(parents=True)
    (tmp_path / "images/x.y/photo.1.jpg").touch()
    (tmp_path / "labels").mkdir()
    samples = pair_files(tmp_path / "images", tmp_path / "labels", tmp_path)
    assert list(samples.names) == ["images/x.y/photo.1.jpg"]
    assert label_file(samples, 0) == tmp_path / "labels/x.y/photo.1.png"


def test_a_missing_file_is_named(files: FileSamples) -> None:
    label_file(files, 1).unlink()
    with pytest.raises(DataError, match=re.escape(f"{label_file(files, 1)}: the file must exist.")):
        files.check(1, 4)


def test_label_and_image_of_two_sizes_are_refused_with_both(files: FileSamples) -> None:
    write_png(random_label(0, HEIGHT, WIDTH + 1, 4), str(label_file(files, 2)))
    expected = "must be of one size, but got 5x8 and 5x7 (height x width); the image is "
    with pytest.raises(DataError, match=re.escape(expected) + ".*images/2.png") as caught:
        files.check(2, 4)
    assert str(caught.value).startswith(str(label_file(files, 2)))


@pytest.mark.parametrize("highest", [3, 254])
def test_a_label_beyond_the_classes_is_refused_with_its_value(files: FileSamples, highest: int) -> None:
    label = random_label(0, HEIGHT, WIDTH, 3)
    label[0, -1, -1], label[0, 0, 0] = highest, IGNORE_INDEX
    write_png(label, str(label_file(files, 0)))
    expected = f"label values must be 0..2 (the 3 classes) or 255 (ignore), but got {highest}."
    with pytest.raises(DataError, match=re.escape(f"{label_file(files, 0)}: {expected}")):
        files.check(0, 3)
    if highest == 3:
        assert files.check(0, 4) == (HEIGHT, WIDTH)


def test_a_label_that_is_all_ignored_is_taken(files: FileSamples) -> None:
    write_png(torch.full((1, HEIGHT, WIDTH), IGNORE_INDEX, dtype=torch.uint8), str(label_file(files, 0)))
    assert files.check(0, 2) == (HEIGHT, WIDTH)
