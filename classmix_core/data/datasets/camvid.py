"""CamVid, 11 classes.

ROOT/{train,val,test}/X.png with ROOT/{train,val,test}annot/X.png     as SegNet's authors publish it; or
ROOT/images/{train,val,test}/X.jpg with ROOT/labels/{train,val,test}/X.png

Brostow et al., "Semantic object classes in video", 2009. Label 11 is void.
"""

from collections.abc import Sequence
from pathlib import Path

from classmix_core.config import DataConfig
from classmix_core.data.samples import EVALUATED, Data, FileSamples, Role, pair_files
from classmix_core.data.splits import split_labelled

CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
# fmt: off
PALETTE = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
    (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)
# fmt: on
VOID = 11
LAYOUT = "CamVid is ROOT/SPLIT/X.png with ROOT/SPLITannot/X.png, or ROOT/images/SPLIT/X with ROOT/labels/SPLIT/X.png"


def load(root: Path, config: DataConfig, roles: Sequence[Role]) -> Data:
    """Labelled and unlabelled out of train; val and test are CamVid's own.

    Raises:
        DataError: a folder is missing, or holds no photograph.
        InvalidValue: see `split_labelled`.
    """
    photos = load_split(root, "train")
    labelled, rest = split_labelled(photos, config, len(photos.names))
    unlabelled = photos.without_labels().subset(rest)
    val, test = (load_split(root, role) if role in roles else None for role in EVALUATED)
    return Data(CLASSES, PALETTE, photos.subset(labelled), unlabelled, val, test, photos)


def load_split(root: Path, split: str) -> FileSamples:
    """`split` is train, val or test; the names are SPLIT/X in both layouts.

    Raises:
        DataError: a folder is missing, or holds no photograph.
    """
    if (root / split).is_dir():
        return pair_files(root / split, root / f"{split}annot", root, VOID, LAYOUT)
    return pair_files(root / "images" / split, root / "labels" / split, root / "images", VOID, LAYOUT)
