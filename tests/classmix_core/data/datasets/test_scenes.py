"""The embedded data set: generated, the same every time, and with every class in it."""

import numpy as np
import pytest
import torch

from classmix_core.data import load_data
from classmix_core.data.datasets import scenes
from tests.classmix_core.data.roles import check, config, names


def test_one_seed_draws_one_scene_and_another_seed_another() -> None:
    (image, label), (again, label_again), (other, _) = (
        scenes.draw_scene(np.random.default_rng(seed)) for seed in (3, 3, 4)
    )
    assert np.array_equal(image, again)
    assert np.array_equal(label, label_again)
    assert not np.array_equal(image, other)


def test_a_split_is_drawn_alike_in_every_process() -> None:
    first = scenes.load_split("val")
    scenes.load_split.cache_clear()
    second = scenes.load_split("val")
    assert first is not second
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)
    assert first.names == second.names


def test_a_split_is_drawn_once_a_process() -> None:
    assert scenes.load_split("val") is scenes.load_split("val")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_images_and_labels_have_the_sizes_and_values_that_the_module_names(split: str) -> None:
    samples = scenes.load_split(split)
    count = len(samples.names)
    assert samples.images.shape == (count, 3, scenes.HEIGHT, scenes.WIDTH)
    assert samples.labels.shape == (count, scenes.HEIGHT, scenes.WIDTH)
    assert samples.images.dtype == samples.labels.dtype == torch.uint8
    assert samples.labels.unique().tolist() == list(range(len(scenes.CLASSES)))
    assert list(samples.names) == sorted(set(samples.names))


def test_no_scene_is_in_two_splits() -> None:
    train, val, test = (scenes.load_split(split) for split in ("train", "val", "test"))
    assert scenes.LABELLED < len(train.names)
    images = torch.cat((train.images, val.images, test.images)).flatten(1)
    assert len(images.unique(dim=0)) == len(images)
    assert len({*train.names, *val.names, *test.names}) == len(images)


def test_every_class_has_a_colour_of_its_own() -> None:
    assert len(set(scenes.PALETTE)) == len(scenes.PALETTE) == len(scenes.CLASSES)


def test_drawing_leaves_the_global_generators_alone() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    scenes.load_split.cache_clear()
    scenes.load_split("val")
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])


# ---- load


def test_scenes_keep_their_default_of_labels_and_use_the_rest_unlabelled() -> None:
    data, given = load_data(config()), config()
    train = list(scenes.load_split("train").names)
    found = names(data)
    assert len(found["labelled"]) == scenes.LABELLED
    assert sorted(found["labelled"] + found["unlabelled"]) == train
    assert found["val"] == list(scenes.load_split("val").names)
    assert found["test"] == list(scenes.load_split("test").names)
    assert (data.classes, data.palette) == (scenes.CLASSES, scenes.PALETTE)
    assert check(data, given) == []


@pytest.mark.parametrize("role", ["labelled", "unlabelled"])
def test_a_subset_of_scenes_holds_the_images_of_its_names(role: str) -> None:
    train = scenes.load_split("train")
    subset = load_data(config()).roles()[role]
    for place in (0, len(subset.names) - 1):
        assert torch.equal(subset.image(place), train.image(list(train.names).index(subset.names[place])))
