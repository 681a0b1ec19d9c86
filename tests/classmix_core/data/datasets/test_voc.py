"""VOC 2012 with SBD's labels, as a miniature."""

import re
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import scipy.io
import torch

from classmix_core.data import load_data
from classmix_core.data.datasets import voc
from classmix_core.errors import DataError
from tests.classmix_core.data.roles import check, config, sizes
from tests.trees import SBD_TRAIN, TRAINAUG, VOC_TRAIN, VOC_VAL, build_voc, objects, write_sbd_mat

ADDED: tuple[Literal["sbd", "png"], ...] = ("sbd", "png")
LISTS = "ImageSets/Segmentation"
SBD = "benchmark_RELEASE/dataset"


@pytest.fixture(params=[(added, inner) for added in ADDED for inner in ("VOCdevkit/VOC2012", "")])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Both kinds of added labels, with the kit's folders and without."""
    return build_voc(tmp_path, *request.param)


def test_train_is_vocs_train_and_sbd_without_vocs_val_whatever_the_layout(root: Path) -> None:
    assert list(voc.load_train(root).names) == [f"JPEGImages/{image}.jpg" for image in TRAINAUG]


def test_val_is_vocs_own(root: Path) -> None:
    assert list(voc.load_val(root).names) == [f"JPEGImages/{image}.jpg" for image in sorted(VOC_VAL)]


def test_an_image_has_vocs_mask_where_voc_has_one_and_else_the_added_one(root: Path) -> None:
    for samples in (voc.load_train(root), voc.load_val(root)):
        for index, name in enumerate(samples.names):
            image = Path(name).stem
            expected = objects(image, border=image in (*VOC_TRAIN, *VOC_VAL))
            assert np.array_equal(samples.label(index).numpy(), expected)
            assert samples.check(index, 21) == expected.shape


def test_the_masks_of_the_miniature_have_borders_in_voc_alone() -> None:
    assert (objects("2007_000032", border=True) == 255).any()
    assert objects("2007_000032", border=False).max() <= 20


@pytest.mark.parametrize(
    ("name", "rgb"),
    [
        ("background", (0, 0, 0)),
        ("aeroplane", (128, 0, 0)),
        ("bicycle", (0, 128, 0)),
        ("bird", (128, 128, 0)),
        ("boat", (0, 0, 128)),
        ("cat", (64, 0, 0)),
        ("person", (192, 128, 128)),
        ("pottedplant", (0, 64, 0)),
        ("tvmonitor", (0, 64, 128)),
    ],
)
def test_classes_have_vocs_colours(name: str, rgb: tuple[int, int, int]) -> None:
    assert voc.PALETTE[voc.CLASSES.index(name)] == rgb


def test_the_border_has_vocs_colour_and_the_21_classes_are_different() -> None:
    assert voc.colour(255) == (224, 224, 192)
    assert len(set(voc.CLASSES)) == len(set(voc.PALETTE)) == 21


# ---- SBD's .mat files


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (3, 1), (5, 7), (18, 26)])
def test_the_matrix_of_an_sbd_file_is_the_label(compressed: bool, shape: tuple[int, int], tmp_path: Path) -> None:
    label = np.random.default_rng(0).integers(0, 21, shape).astype(np.uint8)
    write_sbd_mat(tmp_path / "x.mat", label, compressed)
    read = voc.read_voc_label(tmp_path / "x.mat")
    assert read.dtype == torch.uint8
    assert read.is_contiguous()
    assert np.array_equal(read.fill_(7).numpy(), np.full_like(label, 7)), "it can be written to"
    assert np.array_equal(voc.read_voc_label(tmp_path / "x.mat").numpy(), label)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_order_of_fields_and_other_variables_do_not_matter(place: int, tmp_path: Path) -> None:
    label = objects("2008_000002", border=False)
    fields: list[tuple[str, Any]] = [("CategoriesPresent", np.ones((3, 1))), ("Boundaries", np.zeros((0, 0)))]
    fields.insert(place, ("Segmentation", label))
    scipy.io.savemat(tmp_path / "x.mat", {"other": np.arange(5), "GTcls": dict(fields), "z": "text"})
    assert np.array_equal(voc.read_sbd_label(tmp_path / "x.mat").numpy(), label)


MATRIX = np.ones((2, 3), np.uint8)


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, "but got: KeyError: 'GTcls'."),
        ({"GTinst": {"Segmentation": MATRIX}}, "but got: KeyError: 'GTcls'."),
        ({"GTcls": MATRIX}, "but got: IndexError: "),
        ({"GTcls": {"Boundaries": MATRIX}}, "but got: ValueError: no field of name Segmentation."),
        ({"GTcls": {"Segmentation": MATRIX.astype(float)}}, "but got float64 of shape (2, 3)."),
        ({"GTcls": {"Segmentation": MATRIX[None]}}, "but got uint8 of shape (1, 2, 3)."),
    ],
)
def test_a_mat_file_without_that_matrix_is_refused(variables: dict[str, Any], found: str, tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, variables)
    rule = f"{path}: must be a MATLAB file that holds GTcls.Segmentation, a uint8 matrix, "
    with pytest.raises(DataError, match=re.escape(rule + found)):
        voc.read_sbd_label(path)


@pytest.mark.parametrize("content", [b"", b"\x89PNG", b" " * 124 + b"\x01\x00MI", b" " * 124 + b"\x00\x02IM"])
def test_another_kind_of_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.mat").write_bytes(content)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'x.mat'}: must be a MATLAB file that holds")):
        voc.read_sbd_label(tmp_path / "x.mat")


@pytest.mark.filterwarnings("ignore")  # of scipy
def test_bytes_changed_anywhere_give_a_label_or_one_clear_line(tmp_path: Path) -> None:
    """Of a compressed file, as SBD's are: its checksum finds it. Not compressed, scipy itself crashes on some."""
    path = tmp_path / "x.mat"
    write_sbd_mat(path, objects("2008_000003", border=False))
    whole, rng = path.read_bytes(), np.random.default_rng(1)
    for place in range(len(whole)):
        for content in (whole[:place], whole[:place] + rng.bytes(1) + whole[place + 1 :]):
            path.write_bytes(content)
            with suppress(DataError):
                assert voc.read_sbd_label(path).ndim == 2


def test_without_scipy_the_file_and_what_is_missing_are_named(voc_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    path = voc_root / SBD / "cls" / f"{SBD_TRAIN[1]}.mat"
    with pytest.raises(DataError, match=re.escape(f"{path}: scipy must be installed to read SBD's .mat files, but")):
        voc.read_voc_label(path)


# ---- what is missing


@pytest.mark.parametrize("missing", ["SegmentationClass", f"{LISTS}/train.txt", f"{LISTS}/val.txt", LISTS])
def test_a_missing_piece_of_voc_is_named_with_how_it_must_look(voc_root: Path, missing: str) -> None:
    folder = voc_root / "VOCdevkit/VOC2012"
    (folder / missing).rename(folder / "elsewhere")
    wanted = folder / (f"{LISTS}/train.txt" if missing == LISTS else missing)
    with pytest.raises(DataError, match=re.escape(f"{wanted}: must exist; {voc.LAYOUT}.")) as caught:
        voc.load_train(voc_root)
    assert "\n" not in str(caught.value)


def test_missing_images_are_named_where_they_may_be(voc_root: Path) -> None:
    shutil.rmtree(voc_root / "VOCdevkit/VOC2012/JPEGImages")
    expected = f"{voc_root / 'VOCdevkit/VOC2012/JPEGImages'} or {voc_root / 'JPEGImages'}: must exist; {voc.LAYOUT}."
    for load in (voc.load_train, voc.load_val):
        with pytest.raises(DataError, match=re.escape(expected)):
            load(voc_root)


@pytest.mark.parametrize("missing", ["cls", "train.txt", "val.txt"])
def test_a_missing_piece_of_sbd_is_named(voc_root: Path, missing: str) -> None:
    path = voc_root / SBD / missing
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(DataError, match=re.escape(f"{path}: must exist; {voc.LAYOUT}.")):
        voc.load_train(voc_root)


def test_without_any_added_labels_both_places_are_named(voc_root: Path) -> None:
    shutil.rmtree(voc_root / "benchmark_RELEASE")
    pngs, sbd = voc_root / "VOCdevkit/VOC2012/SegmentationClassAug", voc_root / SBD
    with pytest.raises(DataError, match=re.escape(f"{pngs} or {sbd}: must exist; {voc.LAYOUT}.")):
        voc.load_train(voc_root)


def test_vocs_val_needs_no_added_labels_and_no_other_list(voc_root: Path) -> None:
    shutil.rmtree(voc_root / "benchmark_RELEASE")
    (voc_root / "VOCdevkit/VOC2012" / LISTS / "train.txt").unlink()
    assert len(voc.load_val(voc_root).names) == 3


def test_a_missing_mask_is_named_when_it_is_needed(voc_root: Path) -> None:
    samples = voc.load_train(voc_root)
    path = voc_root / SBD / "cls" / f"{SBD_TRAIN[1]}.mat"
    path.unlink()
    with pytest.raises(DataError, match=re.escape(f"{path}: the file must exist.")):
        samples.check(TRAINAUG.index(SBD_TRAIN[1]), 21)


# ---- load


def test_voc_holds_val_out_of_trainaug_and_tests_on_its_own_val(voc_root: Path) -> None:
    given = config(voc_root, name="voc", labelled=3, holdout=0.25, crop=(16, 16))
    data = load_data(given)
    assert sizes(data) == [3, 4, 2, 3]
    assert (data.classes, data.palette) == (voc.CLASSES, voc.PALETTE)
    assert list(data.test.names) == list(voc.load_val(voc_root).names)
    assert check(data, given)[-1] == (12, 12)


def test_unimatchs_lists_name_the_labelled_of_voc(voc_root: Path, tmp_path: Path) -> None:
    path = tmp_path / "labeled.txt"
    path.write_text("".join(f"JPEGImages/{TRAINAUG[i]}.jpg SegmentationClass/{TRAINAUG[i]}.png\n" for i in (7, 2)))
    data = load_data(config(voc_root, name="voc", split_file=str(path)))
    assert list(data.labelled.names) == [f"JPEGImages/{TRAINAUG[i]}.jpg" for i in (2, 7)]
    assert sizes(data) == [2, 5, 2, 3]
