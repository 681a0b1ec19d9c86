"""CamVid, 11 classes, in SegNet's layout: images/{train,val,test}/X.jpg or .png, labels/{train,val,test}/X.png.

Brostow et al., "Semantic object classes in video", 2009. Label 11 is void.
"""

from pathlib import Path

from classmix_core.data.samples import FileSamples, pair_files

CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
PALETTE = (
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (60, 40, 222),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
)
VOID = 11


def load_split(root: Path, split: str) -> FileSamples:
    """`split` is train, val or test."""
    return pair_files(root / "images" / split, root / "labels" / split, root / "images", VOID)
