"""Cityscapes, as a miniature."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from classmix_core.constants import IGNORE_INDEX
from classmix_core.data import load_data
from classmix_core.data.datasets import cityscapes
from classmix_core.data.image_io import read_label
from classmix_core.errors import DataError
from tests.classmix_core.data.roles import check, config, sizes
from tests.trees import EXTRA, GREY, TRAIN, VAL, write_raw_png


@pytest.mark.parametrize(("split", "names"), [("train", TRAIN), ("val", VAL)])
def test_a_split_holds_the_photographs_of_its_cities_sorted_and_named_relative_to_the_root(
    cityscapes_root: Path, split: str, names: tuple[str, ...]
) -> None:
    samples = cityscapes.load_split(cityscapes_root, split)
    assert list(samples.names) == sorted(f"leftImg8bit/{split}/{name}_leftImg8bit.png" for name in names)


def test_image_and_label_of_one_number_belong_together(cityscapes_root: Path) -> None:
    samples = cityscapes.load_split(cityscapes_root, "train")
    assert samples.label_paths is not None
    for index, name in enumerate(samples.names):
        assert samples.image_paths[index] == cityscapes_root / name
        stem = name.removeprefix("leftImg8bit/").removesuffix("_leftImg8bit.png")
        assert samples.label_paths[index] == cityscapes_root / f"gtFine/{stem}_gtFine_labelIds.png"
        assert samples.check(index, 19) == (16, 32)


@pytest.mark.parametrize(
    ("label_id", "name"),
    [
        (7, "road"),
        (8, "sidewalk"),
        (11, "building"),
        (12, "wall"),
        (13, "fence"),
        (17, "pole"),
        (19, "traffic light"),
        (20, "traffic sign"),
        (21, "vegetation"),
        (22, "terrain"),
        (23, "sky"),
        (24, "person"),
        (25, "rider"),
        (26, "car"),
        (27, "truck"),
        (28, "bus"),
        (31, "train"),
        (32, "motorcycle"),
        (33, "bicycle"),
    ],
)
def test_each_evaluated_id_is_its_class(label_id: int, name: str) -> None:
    assert cityscapes.CLASSES[cityscapes.TRAIN_IDS[label_id]] == name


def test_every_other_value_is_ignored(tmp_path: Path) -> None:
    write_raw_png(tmp_path / "label.png", np.arange(256).reshape(16, 16), GREY, 8)
    label = cityscapes.read_label_ids(tmp_path / "label.png").flatten().tolist()
    assert [value for value in range(256) if label[value] != IGNORE_INDEX] == list(cityscapes.LABEL_IDS)
    assert sorted(value for value in label if value != IGNORE_INDEX) == list(range(19))


def test_what_a_split_reads_are_the_classes_of_the_ids_in_the_file(cityscapes_root: Path) -> None:
    samples = cityscapes.load_split(cityscapes_root, "val")
    assert samples.label_paths is not None
    raw, label = read_label(samples.label_paths[1]), samples.label(1)
    assert {1, 2, 3, 7, 23, 255} <= set(raw.flatten().tolist())
    expected = [[list(cityscapes.LABEL_IDS).index(v) if v in cityscapes.LABEL_IDS else 255 for v in row] for row in raw]
    assert label.tolist() == expected


def test_each_of_the_19_classes_has_a_name_and_a_colour_of_its_own() -> None:
    assert len(set(cityscapes.CLASSES)) == len(set(cityscapes.PALETTE)) == len(cityscapes.LABEL_IDS) == 19
    assert cityscapes.PALETTE[cityscapes.CLASSES.index("car")] == (0, 0, 142)
    assert cityscapes.PALETTE[cityscapes.CLASSES.index("bicycle")] == (119, 11, 32)


def test_train_extra_has_no_labels(cityscapes_root: Path) -> None:
    samples = cityscapes.load_extra(cityscapes_root)
    assert list(samples.names) == [f"leftImg8bit/train_extra/{name}_leftImg8bit.png" for name in EXTRA]
    assert samples.label_paths is None


def test_other_images_in_the_folders_are_left_alone(cityscapes_root: Path) -> None:
    folder = cityscapes_root / "leftImg8bit/train/aachen"
    shutil.copy(next(folder.iterdir()), folder / "preview.png")
    assert len(cityscapes.load_split(cityscapes_root, "train").names) == len(TRAIN)


@pytest.mark.parametrize("missing", ["leftImg8bit/train", "gtFine/train", "leftImg8bit", "gtFine"])
def test_a_missing_folder_is_named_with_how_it_must_look(cityscapes_root: Path, missing: str) -> None:
    (cityscapes_root / missing).rename(cityscapes_root / "elsewhere")
    folder = cityscapes_root / missing.split("/")[0] / "train"
    with pytest.raises(DataError, match=re.escape(f"{folder}: must exist; {cityscapes.LAYOUT}.")) as caught:
        cityscapes.load_split(cityscapes_root, "train")
    assert "\n" not in str(caught.value)


def test_a_missing_train_extra_is_named(cityscapes_root: Path) -> None:
    shutil.rmtree(cityscapes_root / "leftImg8bit/train_extra")
    with pytest.raises(DataError, match=re.escape(f"{cityscapes_root / 'leftImg8bit/train_extra'}: must exist; ")):
        cityscapes.load_extra(cityscapes_root)


def test_a_folder_of_other_images_is_refused(cityscapes_root: Path) -> None:
    for path in (cityscapes_root / "leftImg8bit/val").rglob("*.png"):
        path.rename(path.with_name(path.name.replace("_leftImg8bit", "")))
    with pytest.raises(DataError, match=r"val: must hold an image CITY/X_leftImg8bit\.png, but holds none; Cityscapes"):
        cityscapes.load_split(cityscapes_root, "val")


def test_a_missing_mask_is_named_when_it_is_needed(cityscapes_root: Path) -> None:
    samples = cityscapes.load_split(cityscapes_root, "train")
    assert samples.label_paths is not None
    samples.label_paths[3].unlink()
    assert samples.check(2, 19) == (16, 32)
    with pytest.raises(DataError, match=re.escape(f"{samples.label_paths[3]}: the file must exist.")):
        samples.check(3, 19)


# ---- load


def test_cityscapes_holds_val_out_of_train_and_tests_on_its_own_val(cityscapes_root: Path) -> None:
    given = config(cityscapes_root, name="cityscapes", labelled=3, holdout=0.25)
    data = load_data(given)
    assert sizes(data) == [3, 3, 2, 3]
    assert (data.classes, data.palette) == (cityscapes.CLASSES, cityscapes.PALETTE)
    assert list(data.test.names) == list(cityscapes.load_split(cityscapes_root, "val").names)
    assert check(data, given)[-1] == (11, 11)


def test_train_extra_serves_unlabelled_if_asked_for(cityscapes_root: Path) -> None:
    data = load_data(config(cityscapes_root, name="cityscapes", labelled=3, holdout=0.25, extra_unlabelled=True))
    extra = [f"leftImg8bit/train_extra/{name}_leftImg8bit.png" for name in EXTRA]
    assert sizes(data) == [3, 5, 2, 3]
    assert data.unlabelled.names[-2:] == extra
    assert data.unlabelled.image(4).shape == (3, 16, 32)


def test_unimatchs_lists_name_the_labelled_of_cityscapes(cityscapes_root: Path, tmp_path: Path) -> None:
    path, chosen = tmp_path / "labeled.txt", (TRAIN[5], TRAIN[0], TRAIN[6])
    for mask in ("labelIds", "labelTrainIds"):
        line = f"leftImg8bit/train/{{0}}_leftImg8bit.png gtFine/train/{{0}}_gtFine_{mask}.png\n"
        path.write_text("".join(line.format(name) for name in chosen))
        data = load_data(config(cityscapes_root, name="cityscapes", split_file=str(path)))
        assert list(data.labelled.names) == sorted(f"leftImg8bit/train/{name}_leftImg8bit.png" for name in chosen)
        assert sizes(data) == [3, 4, 1, 3]
