"""CamVid in both layouts, as a miniature."""

from pathlib import Path

import pytest
import torch

from classmix_core.constants import IGNORE_INDEX
from classmix_core.data import load_data
from classmix_core.data.datasets import camvid
from classmix_core.data.image_io import read_label
from classmix_core.errors import DataError
from tests.classmix_core.data.roles import config, names


@pytest.mark.parametrize(("split", "count"), [("train", 7), ("val", 2), ("test", 3)])
def test_a_split_holds_the_images_of_its_folder_sorted_and_named_relative_to_images(
    camvid_root: Path, split: str, count: int
) -> None:
    samples = camvid.load_split(camvid_root, split)
    assert list(samples.names) == [f"{split}/seq{number}.png" for number in range(10 - count, 10)]


def test_image_and_label_of_one_number_belong_together(camvid_root: Path) -> None:
    samples = camvid.load_split(camvid_root, "train")
    for index, name in enumerate(samples.names):
        assert samples.image_paths[index] == camvid_root / "images" / name
        assert samples.label_paths is not None
        assert samples.label_paths[index] == camvid_root / "labels" / name
        assert samples.image(index).shape == (3, 9, 13)
        assert samples.label(index).shape == (9, 13)


def test_void_is_ignored_and_every_other_value_is_kept(camvid_root: Path) -> None:
    samples = camvid.load_split(camvid_root, "train")
    raw = read_label(camvid_root / "labels" / samples.names[2])
    assert (raw == camvid.VOID).any()
    assert torch.equal(samples.label(2), raw.masked_fill(raw == camvid.VOID, IGNORE_INDEX))


def test_jpeg_images_have_their_label_in_the_png_of_the_same_stem(camvid_root: Path) -> None:
    image = camvid_root / "images/train/seq5.png"
    image.rename(image.with_suffix(".jpg"))
    samples = camvid.load_split(camvid_root, "train")
    assert samples.names[2] == "train/seq5.jpg"
    assert samples.label(2).shape == (9, 13)


def test_each_of_the_11_classes_has_a_colour_of_its_own() -> None:
    assert len(camvid.CLASSES) == len(set(camvid.PALETTE)) == camvid.VOID == 11


def test_the_layout_that_segnets_authors_publish_holds_the_same(camvid_root: Path, tmp_path: Path) -> None:
    before = camvid.load_split(camvid_root, "train")
    for split in ("train", "val", "test"):
        (camvid_root / "images" / split).rename(tmp_path / split)
        (camvid_root / "labels" / split).rename(tmp_path / f"{split}annot")
    after = camvid.load_split(tmp_path, "train")
    assert after.names == before.names
    assert after.label_paths == [tmp_path / name.replace("train/", "trainannot/") for name in before.names]
    (tmp_path / "valannot").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="valannot: must exist; CamVid is"):
        camvid.load_split(tmp_path, "val")


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"images/train: the folder must exist; CamVid is ROOT/SPLIT/X\.png with"):
        camvid.load_split(tmp_path, "train")


# ---- load


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
