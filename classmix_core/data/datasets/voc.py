"""PASCAL VOC 2012 with the labels of SBD ("trainaug", 10 582 images), 20 classes and background.

ROOT/VOCdevkit/VOC2012, or ROOT itself, holds JPEGImages, SegmentationClass and ImageSets/Segmentation/{train,val}.txt;
it or ROOT also holds SegmentationClassAug (a PNG an image) or SBD's benchmark_RELEASE (dataset/cls/X.mat and
dataset/{train,val}.txt).

Everingham et al., "The PASCAL Visual Object Classes Challenge", 2010; Hariharan et al., "Semantic Contours from
Inverse Detectors", 2011.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from classmix_core.config import DataConfig
from classmix_core.data.image_io import existing, read_label
from classmix_core.data.samples import Data, FileSamples, Role
from classmix_core.data.splits import split_and_hold_out
from classmix_core.errors import DataError

# fmt: off
CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on

LAYOUT = (
    "VOC is JPEGImages, SegmentationClass and ImageSets/Segmentation in ROOT/VOCdevkit/VOC2012 or ROOT, "
    "and there SegmentationClassAug/X.png or benchmark_RELEASE/dataset/{cls/X.mat,train.txt,val.txt}"
)


def colour(index: int) -> tuple[int, int, int]:
    """VOC's colour of a label: the bits of the number, dealt to red, green and blue in turn from the highest bit on."""
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return channels[0], channels[1], channels[2]


PALETTE = tuple(colour(index) for index in range(len(CLASSES)))


def load(root: Path, config: DataConfig, roles: Sequence[Role]) -> Data:
    """Labelled, unlabelled and val out of trainaug; test is VOC's own val.

    Raises:
        DataError: a folder or a list is missing.
        InvalidValue: see `split_and_hold_out`.
    """
    photos = load_train(root)
    held, labelled, rest, warnings = split_and_hold_out(photos, config)
    unlabelled = photos.without_labels().subset(rest)
    val = photos.subset(held) if "val" in roles else None
    test = load_val(root) if "test" in roles else None
    return Data(CLASSES, PALETTE, photos.subset(labelled), unlabelled, val, test, photos, warnings)


def load_train(root: Path) -> FileSamples:
    """trainaug: VOC's train and all of SBD, without VOC's val. Images of VOC's train have VOC's own masks.

    Names are relative to the folder VOC2012, such as JPEGImages/2007_000032.jpg. No mask is looked for yet.

    Raises:
        DataError: a folder or a list is missing.
    """
    folder = find_folder(root)
    masks = added_masks(root, folder)
    masks |= {image: official_mask(folder, image) for image in read_ids(folder, "train")}
    for image in read_ids(folder, "val"):
        masks.pop(image, None)
    return make_samples(folder, masks)


def load_val(root: Path) -> FileSamples:
    """VOC's own val set.

    Raises:
        DataError: a folder or a list is missing.
    """
    folder = find_folder(root)
    return make_samples(folder, {image: official_mask(folder, image) for image in read_ids(folder, "val")})


def read_voc_label(path: Path) -> Tensor:
    """uint8 (H, W) of a PNG (grey or palette; 255 around objects) or an SBD .mat file.

    Raises:
        DataError: see `read_label` and `read_sbd_label`.
    """
    return read_sbd_label(path) if path.suffix == ".mat" else read_label(path)


def read_sbd_label(path: Path) -> Tensor:
    """uint8 (H, W): the matrix GTcls.Segmentation of a MATLAB file.

    Raises:
        DataError: no such file, damaged, without that matrix; or scipy is not installed.
    """
    if not path.is_file():
        raise DataError(f"{path}: the file must exist.")
    try:
        from scipy.io import loadmat  # 0.2 s, which no other data set needs
    except ImportError as error:
        raise DataError(f"{path}: scipy must be installed to read SBD's .mat files, but got: {error}.") from error
    rule = "must be a MATLAB file that holds GTcls.Segmentation, a uint8 matrix"
    try:
        label = loadmat(path, variable_names=["GTcls"])["GTcls"]["Segmentation"][0, 0]
    except Exception as error:  # damaged bytes make scipy raise of every kind
        raise DataError(f"{path}: {rule}, but got: {type(error).__name__}: {error}.") from error
    if not isinstance(label, np.ndarray) or label.dtype != np.uint8 or label.ndim != 2:
        found = f"{label.dtype} of shape {label.shape}" if isinstance(label, np.ndarray) else type(label).__name__
        raise DataError(f"{path}: {rule}, but got {found}.")
    return torch.from_numpy(np.array(label, order="C"))


def find_folder(root: Path) -> Path:
    folder = next((at for at in (root / "VOCdevkit" / "VOC2012", root) if (at / "JPEGImages").is_dir()), None)
    if folder is None:
        raise DataError(f"{root / 'VOCdevkit/VOC2012/JPEGImages'} or {root / 'JPEGImages'}: must exist; {LAYOUT}.")
    return folder


def official_mask(folder: Path, image: str) -> Path:
    return folder / "SegmentationClass" / f"{image}.png"


def read_ids(folder: Path, split: str) -> list[str]:
    existing(folder / "SegmentationClass", LAYOUT)
    return read_list(existing(folder / "ImageSets" / "Segmentation" / f"{split}.txt", LAYOUT))


def read_list(path: Path) -> list[str]:
    """The ids of a list: the stem of the first word of each line."""
    return [Path(line.split()[0]).stem for line in path.read_text(errors="replace").splitlines() if line.strip()]


def added_masks(root: Path, folder: Path) -> dict[str, Path]:
    """The masks that VOC itself does not have, and others, by id."""
    for place in dict.fromkeys((folder, root)):
        pngs, sbd = place / "SegmentationClassAug", place / "benchmark_RELEASE" / "dataset"
        if pngs.is_dir():
            return {path.stem: path for path in pngs.glob("*.png")}
        if sbd.is_dir():
            masks = existing(sbd / "cls", LAYOUT)
            ids = [image for split in ("train", "val") for image in read_list(existing(sbd / f"{split}.txt", LAYOUT))]
            return {image: masks / f"{image}.mat" for image in ids}
    raise DataError(f"{folder / 'SegmentationClassAug'} or {root / 'benchmark_RELEASE/dataset'}: must exist; {LAYOUT}.")


def make_samples(folder: Path, masks: dict[str, Path]) -> FileSamples:
    ids = sorted(masks)
    names = [f"JPEGImages/{image}.jpg" for image in ids]
    return FileSamples(names, [folder / name for name in names], [masks[image] for image in ids], reader=read_voc_label)
