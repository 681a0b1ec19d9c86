"""Cityscapes, the 19 classes that are evaluated.

ROOT/leftImg8bit/{train,val}/CITY/X_leftImg8bit.png with ROOT/gtFine/{train,val}/CITY/X_gtFine_labelIds.png
ROOT/leftImg8bit/train_extra/CITY/X_leftImg8bit.png     optional, unlabelled

Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", 2016. Ids, names and colours are those
of the authors' cityscapesScripts.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from classmix_core.config import DataConfig
from classmix_core.constants import IGNORE_INDEX
from classmix_core.data.image_io import existing, image_files, read_label
from classmix_core.data.samples import Data, FileSamples, Role, merge
from classmix_core.data.splits import split_and_hold_out
from classmix_core.errors import DataError

# fmt: off
CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)
PALETTE = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142),
    (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)
# fmt: on
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""What the files hold for each class, in the order of CLASSES; every other value is ignored."""

PHOTO, LABEL = "_leftImg8bit.png", "_gtFine_labelIds.png"
LAYOUT = f"Cityscapes is ROOT/leftImg8bit/SPLIT/CITY/X{PHOTO} with ROOT/gtFine/SPLIT/CITY/X{LABEL}"

TRAIN_IDS = torch.full((256,), IGNORE_INDEX, dtype=torch.uint8)
TRAIN_IDS[list(LABEL_IDS)] = torch.arange(len(LABEL_IDS), dtype=torch.uint8)


def load(root: Path, config: DataConfig, roles: Sequence[Role]) -> Data:
    """Labelled, unlabelled and val out of train; test is Cityscapes' own val.

    Raises:
        DataError: a folder is missing, or holds no photograph.
        InvalidValue: see `split_and_hold_out`.
    """
    photos = load_split(root, "train")
    held, labelled, rest, warnings = split_and_hold_out(photos, config)
    unlabelled = photos.without_labels().subset(rest)
    if config.extra_unlabelled:
        unlabelled = merge(unlabelled, load_extra(root))
    val = photos.subset(held) if "val" in roles else None
    test = load_split(root, "val") if "test" in roles else None
    return Data(CLASSES, PALETTE, photos.subset(labelled), unlabelled, val, test, photos, warnings)


def load_split(root: Path, split: str) -> FileSamples:
    """`split` is train or val; no mask is looked for yet.

    Raises:
        DataError: a folder is missing, or holds no photograph.
    """
    paths = photographs(root, split)
    labels = existing(root / "gtFine" / split, LAYOUT)
    images = root / "leftImg8bit" / split
    masks = [labels / path.relative_to(images).with_name(path.name.removesuffix(PHOTO) + LABEL) for path in paths]
    return FileSamples(relative_names(root, paths), paths, masks, reader=read_label_ids)


def load_extra(root: Path) -> FileSamples:
    """The photographs of train_extra, without labels.

    Raises:
        DataError: the folder is missing, or holds no photograph.
    """
    paths = photographs(root, "train_extra")
    return FileSamples(relative_names(root, paths), paths, None)


def read_label_ids(path: Path) -> Tensor:
    """uint8 (H, W): the number of the class, or IGNORE_INDEX.

    Raises:
        DataError: see `read_label`.
    """
    return TRAIN_IDS[read_label(path).int()]


def photographs(root: Path, split: str) -> list[Path]:
    folder = existing(root / "leftImg8bit" / split, LAYOUT)
    paths = [path for path in image_files(folder, LAYOUT) if path.name.endswith(PHOTO)]
    if not paths:
        raise DataError(f"{folder}: must hold an image CITY/X{PHOTO}, but holds none; {LAYOUT}.")
    return paths


def relative_names(root: Path, paths: list[Path]) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]
