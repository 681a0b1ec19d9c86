"""DataConfig and ClassMixConfig: each field beyond its range, and fields that do not go together, are refused."""

import math
import re
from typing import Any

import pytest

from classmix_core.config import ClassMixConfig, DataConfig
from classmix_core.errors import InvalidValue

NOT_FINITE = [(0.5, math.inf), (math.nan, 1.0), (1.0, math.nan), (math.inf, math.inf)]


@pytest.mark.parametrize("name", ["camvid", "cityscapes", "voc", "folder"])
def test_a_data_set_of_files_needs_a_root(name: str) -> None:
    with pytest.raises(InvalidValue, match=f"`root is set for name={name}` must hold, but got None") as caught:
        DataConfig(name=name)
    assert caught.value.field == "root"


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("labelled", [1, 1.0, 1e-6, None], [0, 0.0, -1, -0.5, 1.01]),
        ("holdout", [0.01, 0.49], [0, 0.5]),
        ("ignore_value", [0, 255], [-1, 256]),
        ("resize", [None, (8, 8)], [(7, 8), (8, 7)]),
        ("crop", [None, (8, 8)], [(7, 8), (8, 7)]),
        ("scale", [(1.0, 1.0), (0.01, 8.0)], [(0.0, 1.0), (-1.0, 1.0), (1.5, 1.0), (1.0, 8.1), *NOT_FINITE]),
        ("batch_labelled", [1], [0]),
        ("batch_unlabelled", [2], [1, 0]),
        ("loader_workers", [0], [-1]),
    ],
)
def test_each_field_is_refused_beyond_its_range_alone(field: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert getattr(DataConfig(**{field: value}), field) == value
    for value in bad:
        expected = re.escape(f"must hold, but got {value!r}.")
        with pytest.raises(InvalidValue, match=rf"`.*\b({field}|low)\b.*` {expected}") as caught:
            DataConfig(**{field: value})
        assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "fields", "rule"),
    [
        ("cache", {"cache": "disk"}, "cache is none for name=scenes, which is in memory"),
        ("cache_dir", {"name": "voc", "root": "x", "cache_dir": "y"}, "cache_dir is set for cache=disk alone"),
        (
            "extra_unlabelled",
            {"name": "voc", "root": "x", "extra_unlabelled": True},
            "extra_unlabelled is for name=cityscapes alone",
        ),
        (
            "split_file",
            {"name": "voc", "root": "x", "split_file": "s.pkl", "labelled": 100},
            "split_file is a text file of names (of ClassMix's pickles for VOC it is made by: "
            "python -m classmix_core.data.convert_split FILE.pkl --root ROOT --labelled N > labelled.txt)",
        ),
    ],
)
def test_fields_that_do_not_go_together_are_refused(field: str, fields: dict[str, Any], rule: str) -> None:
    with pytest.raises(InvalidValue, match=re.escape(f"`{rule}` must hold, but got ")) as caught:
        DataConfig(**fields)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "voc", "split_file": "s.txt", "labelled": 1},
        {"name": "folder", "cache": "disk"},
        {"name": "camvid", "cache": "disk", "cache_dir": "y"},
        {"name": "cityscapes", "extra_unlabelled": True, "split_file": "s.txt"},
    ],
)
def test_fields_that_go_together_are_taken(fields: dict[str, Any]) -> None:
    assert DataConfig(root="x", **fields).root == "x"


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("tau", [0, 1], [-1e-9, 1.001, math.nan]),
        ("ema_decay", [0, 0.9999], [-0.1, 1]),
        ("ramp_fraction", [1e-9, 1], [0, 1.01]),
        ("unlabelled_weight", [0, 10], [-1e-9]),
        ("jitter", [0, 0.5], [-0.01, 0.51]),
        ("jitter_probability", [0, 1], [-0.01, 1.01]),
        ("blur", [0, 0.15, 3], [-1, 0.149]),
        ("blur_probability", [0, 1], [-0.01, 1.01]),
    ],
)
def test_each_field_of_the_step_is_refused_beyond_its_range_alone(
    field: str, good: list[float], bad: list[float]
) -> None:
    for value in good:
        assert getattr(ClassMixConfig(**{field: value}), field) == value
    for value in bad:
        with pytest.raises(InvalidValue, match=rf"`.*\b{field}\b.*` must hold, but got {value}\.") as caught:
            ClassMixConfig(**{field: value})
        assert caught.value.field == field


def test_the_defaults_are_the_papers() -> None:
    config = ClassMixConfig()
    assert (config.tau, config.ema_decay, config.mix, config.weight) == (0.968, 0.99, "class", "image")
    assert config.teacher_mode == "train"
