"""Rules that all data sets share: which images serve in which role, and the check of their files."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision.io import write_png

from classmix_core.data import load_data
from classmix_core.data.datasets import cityscapes, voc
from classmix_core.data.loader import TrainingSet
from classmix_core.data.splits import hash_fraction
from classmix_core.errors import DataError, InvalidValue
from tests.classmix_core.data.roles import ROLES, check, config, names, sizes
from tests.conftest import random_image, random_label
from tests.trees import TRAIN, TRAINAUG

# ---- labelled and unlabelled


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
    with pytest.raises(InvalidValue, match=r"labelled is unset where split_file is set, or as many as the 2") as caught:
        load_data(given)
    assert caught.value.field == "labelled"


def test_a_name_in_the_split_file_that_is_not_there_is_refused(camvid_root: Path) -> None:
    path = camvid_root / "labeled.txt"
    path.write_text("val/seq8.png\n")
    with pytest.raises(DataError, match=r"labeled.txt: names must be .* 'train/seq3.png'\), but got 'val/seq8.png'"):
        load_data(config(camvid_root, name="camvid", split_file=str(path)))


def test_more_labelled_images_than_there_are_are_refused(camvid_root: Path) -> None:
    with pytest.raises(InvalidValue, match=r"`labelled <= 7 .*` must hold, but got 8\.") as caught:
        load_data(config(camvid_root, name="camvid", labelled=8))
    assert caught.value.field == "labelled"


# ---- val out of the training images


@pytest.fixture(params=["cityscapes", "voc"])
def own_val(request: pytest.FixtureRequest) -> tuple[str, Path, int]:
    """Name, root and number of training images of a data set whose own val is test."""
    name: str = request.param
    root: Path = request.getfixturevalue(f"{name}_root")
    return name, root, {"cityscapes": len(TRAIN), "voc": len(TRAINAUG)}[name]


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

    def held(seed: int, labelled: int | float) -> tuple[str, ...]:
        data = load_data(config(root, name=name, split_seed=seed, labelled=labelled))
        return tuple(data.val.names)

    assert held(1, 2) == held(1, 5) == held(1, 0.3)
    assert len({held(seed, 2) for seed in range(8)}) > 3


def test_everything_that_is_not_val_is_labelled_unless_told(own_val: tuple[str, Path, int]) -> None:
    name, root, count = own_val
    assert sizes(load_data(config(root, name=name, holdout=0.25))) == [count - 2, 0, 2, 3]


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


def test_val_is_taken_from_what_the_split_file_does_not_name(own_val: tuple[str, Path, int], tmp_path: Path) -> None:
    name, root, count = own_val
    everything = names(load_data(config(root, name=name, labelled=1)))
    train = sorted(everything["labelled"] + everything["unlabelled"] + everything["val"])
    path = tmp_path / "labeled.txt"
    path.write_text("\n".join(train[:2]))

    def held(seed: int) -> tuple[str, ...]:
        data = load_data(config(root, name=name, split_file=str(path), split_seed=seed))
        assert len(data.labelled.names) == 2
        return tuple(data.val.names)

    for seed in range(8):
        by_name = [one for one in train if hash_fraction(one, seed) < 0.2]
        lowest = min(train[2:], key=lambda one: hash_fraction(one, seed))
        assert list(held(seed)) == ([one for one in by_name if one in train[2:]] or [lowest])
    path.write_text("\n".join(train[:-1]))
    assert sizes(load_data(config(root, name=name, split_file=str(path)))) == [count - 1, 0, 1, 3]
    path.write_text("\n".join(train))
    rule = r"`holdout has 1 images or more to take val from` must hold, but got 0\."
    with pytest.raises(InvalidValue, match=rule) as caught:
        load_data(config(root, name=name, split_file=str(path)))
    assert caught.value.field == "holdout"


# ---- the names that a run has stored


@pytest.mark.parametrize("cache", ["none", "disk"])
@pytest.mark.parametrize("name", ["camvid", "cityscapes", "voc", "folder"])
def test_images_have_the_roles_of_the_stored_names_however_the_folder_would_divide_them(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, cache: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root: Path = request.getfixturevalue(f"{name}_root")
    given = config(root, name=name, labelled=2, split_seed=1, cache=cache)
    first, other = load_data(given), load_data(replace(given, split_seed=2))
    stored = names(first)
    assert names(other) != stored
    again = load_data(replace(given, split_seed=2), names=stored)
    assert names(again) == stored
    assert again.warnings == ()
    for role in ("labelled", "val", "test"):
        for index in range(len(stored[role])):
            assert torch.equal(again.roles()[role].image(index), first.roles()[role].image(index))
            assert torch.equal(again.roles()[role].label(index), first.roles()[role].label(index))
    with pytest.raises(AssertionError):
        again.unlabelled.label(0)
    only_val = load_data(replace(given, split_seed=2), ("val",), stored)
    assert names(only_val) == {role: stored[role] for role in ("labelled", "unlabelled", "val")}


def test_an_image_that_was_labelled_since_stays_what_it_was(folder_root: Path) -> None:
    given = config(folder_root, name="folder")
    stored = names(load_data(given))
    for index in (4, 7):
        write_png(random_label(index, 9, 14, 3), str(folder_root / f"labels/a/photo {index:02}.png"))
    write_png(random_image(99, 9, 14), str(folder_root / "images/new.png"))
    assert names(load_data(given)) != stored
    again = load_data(given, names=stored)
    assert names(again) == stored
    assert check(again, given)[-1] == (15, 15)
    with pytest.raises(AssertionError):
        again.unlabelled.label(0)


@pytest.mark.parametrize(("part", "message"), [("images", "must hold {}, one of"), ("labels", "{}, one of")])
def test_an_image_or_a_label_that_is_gone_is_named_with_role_and_folder(
    folder_root: Path, part: str, message: str
) -> None:
    given = config(folder_root, name="folder")
    stored = names(load_data(given))
    gone = stored["val"][0]
    path = folder_root / part / Path(gone).relative_to("images")
    path.with_suffix(".png" if part == "labels" else ".jpg").unlink()
    with pytest.raises(DataError, match=re.escape(f"{folder_root}: {message.format(gone)} the run's val images")):
        load_data(given, names=stored)


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
