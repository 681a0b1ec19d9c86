"""From a configuration to the four sets, and what is said about configurations and data that cannot be used."""

import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.io import write_png

from classmix_core.config import DataConfig
from classmix_core.data import Data, check_data, load_data
from classmix_core.data.datasets import camvid, cityscapes, scenes, voc
from classmix_core.data.loader import TrainingSet
from classmix_core.errors import DataError, InvalidValue
from tests.conftest import add_part, random_image, random_label
from tests.trees import EXTRA, TRAIN, TRAINAUG


def config(root: Path | None = None, **fields: Any) -> DataConfig:
    return DataConfig(root=None if root is None else str(root), **fields)


def names(data: Data) -> dict[str, list[str]]:
    return {role: list(samples.names) for role, samples in data.roles().items()}


def check(data: Data, given: DataConfig, unlabelled: bool = True) -> list[tuple[int, int]]:
    learnt = ("labelled", "unlabelled") if unlabelled else ("labelled",)
    return list(check_data(data, given, (*learnt, "val", "test")))


# ---- scenes


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


# ---- camvid


def test_camvid_splits_train_and_keeps_its_own_val_and_test(camvid_root: Path) -> None:
    data = load_data(config(camvid_root, name="camvid", labelled=2))
    found = names(data)
    assert (len(found["labelled"]), len(found["unlabelled"])) == (2, 5)
    assert sorted(found["labelled"] + found["unlabelled"]) == [f"train/seq{i}.png" for i in range(3, 10)]
    assert found["val"] == ["val/seq8.png", "val/seq9.png"]
    assert found["test"] == ["test/seq7.png", "test/seq8.png", "test/seq9.png"]
    assert (data.classes, data.palette) == (camvid.CLASSES, camvid.PALETTE)


def test_camvid_labels_everything_unless_told(camvid_root: Path) -> None:
    found = names(load_data(config(camvid_root, name="camvid")))
    assert (len(found["labelled"]), len(found["unlabelled"])) == (7, 0)


@pytest.mark.parametrize(("labelled", "count"), [(3, 3), (0.25, 2), (1.0, 7), (1, 1)])
def test_labelled_is_a_count_or_a_share(camvid_root: Path, labelled: int | float, count: int) -> None:
    assert len(load_data(config(camvid_root, name="camvid", labelled=labelled)).labelled.names) == count


def test_the_split_seed_decides_which_are_labelled(camvid_root: Path) -> None:
    def drawn(seed: int) -> tuple[str, ...]:
        return tuple(load_data(config(camvid_root, name="camvid", labelled=2, split_seed=seed)).labelled.names)

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(8)}) > 3


def test_masks_of_unlabelled_images_are_never_needed(camvid_root: Path) -> None:
    given = config(camvid_root, name="camvid", labelled=2)
    data = load_data(given)
    for name in data.unlabelled.names:
        (camvid_root / "labels" / name).unlink()
    again = load_data(given)
    assert names(again) == names(data)
    assert check(again, given)[-1] == (12, 12)
    for index in range(5):
        assert again.unlabelled.image(index).shape == (3, 9, 13)
    with pytest.raises(AssertionError):
        again.unlabelled.label(0)


def test_a_split_file_names_the_labelled(camvid_root: Path) -> None:
    path = camvid_root / "labeled.txt"
    path.write_text("train/seq8.png labels/train/seq8.png\ntrain/seq3.png labels/train/seq3.png\n")
    found = names(load_data(config(camvid_root, name="camvid", split_file=str(path))))
    assert found["labelled"] == ["train/seq3.png", "train/seq8.png"]
    assert found["unlabelled"] == [f"train/seq{i}.png" for i in (4, 5, 6, 7, 9)]


@pytest.mark.parametrize(("labelled", "fits"), [(2, True), (3, False), (0.3, False)])
def test_a_number_of_labelled_images_that_a_list_does_not_name_is_refused(
    camvid_root: Path, labelled: int | float, fits: bool
) -> None:
    path = camvid_root / "list.txt"
    path.write_text("train/seq5.png\ntrain/seq7.png\n")
    given = config(camvid_root, name="camvid", split_file=str(path), labelled=labelled)
    if fits:
        assert len(load_data(given).labelled.names) == 2
        return
    with pytest.raises(
        InvalidValue, match=r"labelled is unset where split_file is a list, or as many as the 2"
    ) as caught:
        load_data(given)
    assert caught.value.field == "labelled"


def test_a_name_in_the_split_file_that_is_not_there_is_refused(camvid_root: Path) -> None:
    path = camvid_root / "labeled.txt"
    path.write_text("val/seq8.png\n")
    with pytest.raises(DataError, match=r"labeled.txt: names must be .* 'train/seq3.png'\), but got 'val/seq8.png'"):
        load_data(config(camvid_root, name="camvid", split_file=str(path)))


# ---- cityscapes and voc


ROLES = ("labelled", "unlabelled", "val", "test")


def sizes(data: Data) -> list[int]:
    return [len(data.roles()[role].names) for role in ROLES]


@pytest.fixture(params=["cityscapes", "voc"])
def own_val(request: pytest.FixtureRequest) -> tuple[str, Path, int]:
    """Name, root and number of training images of a data set whose own val is test."""
    name: str = request.param
    root: Path = request.getfixturevalue(f"{name}_root")
    return name, root, {"cityscapes": len(TRAIN), "voc": len(TRAINAUG)}[name]


def test_cityscapes_holds_val_out_of_train_and_tests_on_its_own_val(cityscapes_root: Path) -> None:
    given = config(cityscapes_root, name="cityscapes", labelled=3, holdout=0.25)
    data = load_data(given)
    assert sizes(data) == [3, 3, 2, 3]
    assert (data.classes, data.palette) == (cityscapes.CLASSES, cityscapes.PALETTE)
    assert list(data.test.names) == list(cityscapes.load_split(cityscapes_root, "val").names)
    assert check(data, given)[-1] == (11, 11)


def test_voc_holds_val_out_of_trainaug_and_tests_on_its_own_val(voc_root: Path) -> None:
    given = config(voc_root, name="voc", labelled=3, holdout=0.25, crop=(16, 16))
    data = load_data(given)
    assert sizes(data) == [3, 4, 2, 3]
    assert (data.classes, data.palette) == (voc.CLASSES, voc.PALETTE)
    assert list(data.test.names) == list(voc.load_val(voc_root).names)
    assert check(data, given)[-1] == (12, 12)


def test_the_training_images_are_split_into_three(own_val: tuple[str, Path, int]) -> None:
    name, root, count = own_val
    found = names(load_data(config(root, name=name, labelled=2)))
    train = [*found["labelled"], *found["unlabelled"], *found["val"]]
    assert len(set(train)) == len(train) == count
    assert not set(train) & set(found["test"])
    assert all(found[role] == sorted(found[role]) for role in ROLES)


def test_own_val_stays_the_test_and_val_depends_on_the_seed_and_not_on_how_many_are_labelled(
    own_val: tuple[str, Path, int],
) -> None:
    name, root, _ = own_val

    def run_lock(seed: int, labelled: int | float) -> tuple[str, ...]:
        data = load_data(config(root, name=name, split_seed=seed, labelled=labelled))
        return tuple(data.val.names)

    assert run_lock(1, 2) == run_lock(1, 5) == run_lock(1, 0.3)
    assert len({run_lock(seed, 2) for seed in range(8)}) > 3


def test_everything_that_is_not_val_is_labelled_unless_told(own_val: tuple[str, Path, int]) -> None:
    name, root, count = own_val
    assert sizes(load_data(config(root, name=name, holdout=0.25))) == [count - 2, 0, 2, 3]


def test_train_extra_serves_unlabelled_if_asked_for(cityscapes_root: Path) -> None:
    data = load_data(config(cityscapes_root, name="cityscapes", labelled=3, holdout=0.25, extra_unlabelled=True))
    extra = [f"leftImg8bit/train_extra/{name}_leftImg8bit.png" for name in EXTRA]
    assert sizes(data) == [3, 5, 2, 3]
    assert data.unlabelled.names[-2:] == extra
    assert data.unlabelled.image(4).shape == (3, 16, 32)


@pytest.mark.parametrize("harm", ["missing", "broken"])
def test_no_mask_of_an_unlabelled_image_is_opened(own_val: tuple[str, Path, int], harm: str) -> None:
    name, root, _ = own_val
    given = config(root, name=name, labelled=2, crop=(16, 16))
    data = load_data(given)
    train = {"cityscapes": lambda: cityscapes.load_split(root, "train"), "voc": lambda: voc.load_train(root)}[name]()
    assert train.label_paths is not None
    for photo in data.unlabelled.names:
        mask = train.label_paths[list(train.names).index(photo)]
        mask.unlink()
        if harm == "broken":
            mask.write_text("not a mask")
    again = load_data(given)
    assert names(again) == names(data)
    total = sum(sizes(data))
    assert check(again, given)[-1] == (total, total)
    images = TrainingSet(again.unlabelled, labels=False, resize=(16, 24), crop=None, seed=0)
    assert images[0, 0][0].shape == (3, 16, 24)
    with pytest.raises(AssertionError):
        again.unlabelled.label(0)


def test_unimatchs_lists_name_the_labelled_of_cityscapes(cityscapes_root: Path, tmp_path: Path) -> None:
    path, chosen = tmp_path / "labeled.txt", (TRAIN[5], TRAIN[0], TRAIN[6])
    for mask in ("labelIds", "labelTrainIds"):
        line = f"leftImg8bit/train/{{0}}_leftImg8bit.png gtFine/train/{{0}}_gtFine_{mask}.png\n"
        path.write_text("".join(line.format(name) for name in chosen))
        data = load_data(config(cityscapes_root, name="cityscapes", split_file=str(path)))
        assert list(data.labelled.names) == sorted(f"leftImg8bit/train/{name}_leftImg8bit.png" for name in chosen)
        assert sizes(data) == [3, 3, 2, 3]


def test_unimatchs_lists_name_the_labelled_of_voc(voc_root: Path, tmp_path: Path) -> None:
    path = tmp_path / "labeled.txt"
    path.write_text("".join(f"JPEGImages/{TRAINAUG[i]}.jpg SegmentationClass/{TRAINAUG[i]}.png\n" for i in (7, 2)))
    data = load_data(config(voc_root, name="voc", split_file=str(path)))
    assert list(data.labelled.names) == [f"JPEGImages/{TRAINAUG[i]}.jpg" for i in (2, 7)]
    assert sizes(data) == [2, 5, 2, 3]


def test_val_is_drawn_from_what_the_split_file_does_not_name(own_val: tuple[str, Path, int], tmp_path: Path) -> None:
    name, root, count = own_val
    everything = names(load_data(config(root, name=name, labelled=1)))
    train = sorted(everything["labelled"] + everything["unlabelled"] + everything["val"])
    path = tmp_path / "labeled.txt"
    path.write_text("\n".join(train[:-2]))
    for seed in range(5):
        data = load_data(config(root, name=name, split_file=str(path), split_seed=seed, holdout=0.25))
        assert sizes(data) == [count - 2, 0, 2, 3]
    path.write_text(train[3])

    def run_lock(seed: int) -> tuple[str, ...]:
        return tuple(load_data(config(root, name=name, split_file=str(path), split_seed=seed)).val.names)

    assert run_lock(1) == run_lock(1)
    assert len({run_lock(seed) for seed in range(8)}) > 3
    path.write_text("\n".join(train[:-1]))
    rule = (
        r"`holdout leaves val at most the 1 training images that split_file does not name` must hold, but got 0\.25\."
    )
    with pytest.raises(InvalidValue, match=rule) as caught:
        load_data(config(root, name=name, split_file=str(path), holdout=0.25))
    assert caught.value.field == "holdout"


ORDER = [6, 2, 8, 0, 4, 1, 7, 3, 5]


@pytest.mark.parametrize(("labelled", "count"), [(1, 1), (4, 4), (0.5, 5)])
def test_the_first_of_classmixs_pickle_are_labelled_by_the_order_of_the_list(
    voc_root: Path, tmp_path: Path, labelled: int | float, count: int
) -> None:
    (tmp_path / "split_0.pkl").write_bytes(pickle.dumps(np.array(ORDER), 3))
    given = config(voc_root, name="voc", split_file=str(tmp_path / "split_0.pkl"), labelled=labelled)
    data = load_data(given)
    assert list(data.labelled.names) == [f"JPEGImages/{TRAINAUG[i]}.jpg" for i in sorted(ORDER[:count])]
    assert sizes(data) == [count, 7 - count, 2, 3]
    listed = voc_root / "VOCdevkit/VOC2012/ImageSets/Segmentation/train_aug.txt"
    listed.write_text("\n".join(reversed(TRAINAUG)))
    data = load_data(given)
    assert list(data.labelled.names) == sorted(f"JPEGImages/{TRAINAUG[8 - i]}.jpg" for i in ORDER[:count])


def test_a_pickle_of_another_number_of_images_is_refused(voc_root: Path, tmp_path: Path) -> None:
    (tmp_path / "split_0.pkl").write_bytes(pickle.dumps(np.arange(10582), 3))
    with pytest.raises(DataError, match=r"split_0\.pkl: must be a permutation of 0\.\.8, .* but has 10582 numbers"):
        load_data(config(voc_root, name="voc", split_file=str(tmp_path / "split_0.pkl"), labelled=2))


def test_a_pickle_that_is_not_there_is_refused(voc_root: Path) -> None:
    with pytest.raises(InvalidValue, match=r"split_file is an existing file.*no\.pkl") as caught:
        load_data(config(voc_root, name="voc", split_file="no.pkl", labelled=2))
    assert caught.value.field == "split_file"


# ---- folder


def test_a_folder_holds_out_val_and_test_of_its_labelled_images(folder_root: Path) -> None:
    given = config(folder_root, name="folder", labelled=3)
    data = load_data(given)
    found = names(data)
    assert [len(found[role]) for role in ("labelled", "unlabelled", "val", "test")] == [3, 3 + 2 + 3, 2, 2]
    everything = [name for listed in found.values() for name in listed]
    assert len(set(everything)) == len(everything) == 15
    assert all(listed == sorted(listed) for listed in found.values())
    assert data.classes == ("grass", "rock", "water")
    assert len(data.palette) == 3
    assert check(data, given)[-1] == (15, 15)


def test_the_hold_out_depends_on_the_split_seed_and_not_on_how_many_are_labelled(folder_root: Path) -> None:
    def run_lock(seed: int, labelled: int) -> tuple[tuple[str, ...], ...]:
        data = load_data(config(folder_root, name="folder", split_seed=seed, labelled=labelled))
        return tuple(data.val.names), tuple(data.test.names)

    assert run_lock(1, 2) == run_lock(1, 5)
    assert len({run_lock(seed, 2) for seed in range(8)}) > 4


def test_a_folder_with_val_and_test_holds_nothing_out(folder_root: Path) -> None:
    add_part(folder_root, "val", 2)
    add_part(folder_root, "test", 1)
    found = names(load_data(config(folder_root, name="folder")))
    assert [len(found[role]) for role in ("labelled", "unlabelled", "val", "test")] == [10, 5, 2, 1]


def test_a_folder_reads_no_mask_of_what_serves_unlabelled(folder_root: Path) -> None:
    given = config(folder_root, name="folder", labelled=3)
    data = load_data(given)
    for name in data.unlabelled.names:
        label = folder_root / "labels" / Path(name).relative_to(Path(name).parts[0]).with_suffix(".png")
        if label.is_file():
            label.write_text("not a mask")
    assert check(load_data(given), given)[-1] == (15, 15)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_folder_needs_4_labelled_images_to_hold_out_val_and_test(count: int, folder_root: Path) -> None:
    for path in sorted((folder_root / "labels/a").iterdir())[count:]:
        path.unlink()
    given = config(folder_root, name="folder")
    if count == 4:
        assert [len(load_data(given).roles()[role].names) for role in ("labelled", "val", "test")] == [2, 1, 1]
        return
    with pytest.raises(DataError, match=rf"labels: must label .* or more .*not {count}\."):
        load_data(given)


@pytest.mark.parametrize("count", [2, 3])
def test_a_folder_needs_3_labelled_images_where_only_test_is_held_out(count: int, folder_root: Path) -> None:
    add_part(folder_root, "val", 2)
    for path in sorted((folder_root / "labels/a").iterdir())[count:]:
        path.unlink()
    given = config(folder_root, name="folder")
    if count == 3:
        assert [len(load_data(given).roles()[role].names) for role in ("labelled", "val", "test")] == [2, 2, 1]
        return
    with pytest.raises(DataError, match=r"labels: must label 3 .* where .*test.* not 2\."):
        load_data(given)


# ---- checking


def test_checking_counts_every_file_that_will_be_read(camvid_root: Path) -> None:
    given = config(camvid_root, name="camvid", labelled=2)
    assert check(load_data(given), given) == [(done, 12) for done in range(1, 13)]
    assert check(load_data(given), given, unlabelled=False)[-1] == (7, 7)


@pytest.mark.parametrize("file", ["images/train/seq5.png", "images/val/seq8.png", "labels/test/seq7.png"])
def test_checking_finds_a_damaged_file_of_any_role(camvid_root: Path, file: str) -> None:
    (camvid_root / file).write_text("damaged")
    given = config(camvid_root, name="camvid", labelled=2)
    with pytest.raises(DataError, match=re.escape(f"{camvid_root / file}: must be a readable")):
        check(load_data(given), given)


def test_checking_finds_a_label_beyond_the_classes(camvid_root: Path) -> None:
    path = camvid_root / "labels/val/seq8.png"
    write_png(random_label(0, 9, 13, 13), str(path))
    given = config(camvid_root, name="camvid", labelled=2)
    with pytest.raises(DataError, match=r"seq8.png: label values must be 0\.\.10 \(the 11 classes\).*, but got 12\."):
        check(load_data(given), given)


def test_training_without_an_unlabelled_image_is_refused_unless_none_is_used(camvid_root: Path) -> None:
    given = config(camvid_root, name="camvid")
    data = load_data(given)
    with pytest.raises(InvalidValue, match=r"`labelled leaves images .*` must hold, but got None\.") as caught:
        check(data, given)
    assert caught.value.field == "labelled"
    assert check(data, given, unlabelled=False)[-1] == (12, 12)


def test_training_images_of_two_sizes_need_a_resize_or_a_crop(camvid_root: Path) -> None:
    write_png(random_image(0, 9, 14), str(camvid_root / "images/train/seq5.png"))
    write_png(random_label(0, 9, 14, 12), str(camvid_root / "labels/train/seq5.png"))
    given = config(camvid_root, name="camvid", labelled=2)
    with pytest.raises(InvalidValue, match=r"resize or crop .*\(9, 13\) and \(9, 14\)") as caught:
        check(load_data(given), given)
    assert caught.value.field == "resize"
    for size in ("resize", "crop"):
        assert check(load_data(given), replace(given, **{size: (8, 8)}))[-1] == (12, 12)


def test_images_of_other_sizes_in_val_are_taken(camvid_root: Path) -> None:
    write_png(random_image(0, 10, 14), str(camvid_root / "images/val/seq8.png"))
    write_png(random_label(0, 10, 14, 12), str(camvid_root / "labels/val/seq8.png"))
    given = config(camvid_root, name="camvid", labelled=2)
    assert check(load_data(given), given)[-1] == (12, 12)


# ---- configuration


@pytest.mark.parametrize("name", ["camvid", "cityscapes", "voc", "folder"])
def test_a_data_set_of_files_needs_a_root(name: str) -> None:
    with pytest.raises(InvalidValue, match=f"`root is set for name={name}` must hold, but got None") as caught:
        DataConfig(name=name)
    assert caught.value.field == "root"


def test_more_labelled_images_than_there_are_are_refused(camvid_root: Path) -> None:
    with pytest.raises(InvalidValue, match=r"`labelled <= 7 .*` must hold, but got 8\.") as caught:
        load_data(config(camvid_root, name="camvid", labelled=8))
    assert caught.value.field == "labelled"


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("labelled", [1, 1.0, 1e-6, None], [0, 0.0, -1, -0.5, 1.01]),
        ("holdout", [0.01, 0.49], [0, 0.5]),
        ("ignore_value", [0, 255], [-1, 256]),
        ("resize", [None, (8, 8)], [(7, 8), (8, 7)]),
        ("crop", [None, (8, 8)], [(7, 8), (8, 7)]),
        ("scale", [(1.0, 1.0), (0.01, 3.0)], [(0.0, 1.0), (-1.0, 1.0), (1.5, 1.0)]),
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
        ("cache", {"cache": "ram"}, "cache is none for name=scenes, which is in memory"),
        ("cache", {"cache": "disk"}, "cache is none for name=scenes, which is in memory"),
        ("cache_dir", {"name": "voc", "root": "x", "cache_dir": "y"}, "cache_dir is set for cache=disk alone"),
        (
            "cache_dir",
            {"name": "voc", "root": "x", "cache_dir": "y", "cache": "ram"},
            "cache_dir is set for cache=disk alone",
        ),
        (
            "extra_unlabelled",
            {"name": "voc", "root": "x", "extra_unlabelled": True},
            "extra_unlabelled is for name=cityscapes alone",
        ),
        (
            "split_file",
            {"name": "cityscapes", "root": "x", "split_file": "s.pkl", "labelled": 100},
            "split_file is a text file of names for name=cityscapes: a pickle numbers an unsorted walk over folders, "
            "which no other machine repeats",
        ),
        (
            "split_file",
            {"name": "camvid", "root": "x", "split_file": "s.pkl", "labelled": 100},
            "split_file is a text file of names for name=camvid: a pickle numbers the lines of VOC's list",
        ),
        (
            "labelled",
            {"name": "voc", "root": "x", "split_file": "s.pkl"},
            "labelled is set where split_file is a pickle, of which the first `labelled` keep their labels",
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
        {"name": "voc", "split_file": "s.pkl", "labelled": 1},
        {"name": "camvid", "cache": "ram"},
        {"name": "folder", "cache": "disk"},
        {"name": "camvid", "cache": "disk", "cache_dir": "y"},
        {"name": "cityscapes", "extra_unlabelled": True, "split_file": "s.txt"},
    ],
)
def test_fields_that_go_together_are_taken(fields: dict[str, Any]) -> None:
    assert DataConfig(root="x", **fields).root == "x"
