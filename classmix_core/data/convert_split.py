"""ClassMix's split files for VOC as lists of names for `data.split_file`.

    python -m classmix_core.data.convert_split FILE.pkl --root VOC_ROOT --labelled N > labelled.txt

Such a file is a pickled permutation of the training images, the first N of which are labelled. A pickle can name any
function and have it called: only those that numpy writes for an array are allowed here, all else is refused.
"""

import argparse
import io
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from classmix_core.data.datasets import voc
from classmix_core.errors import DataError

ALLOWED = {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}
ALLOWED |= {(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}
ALLOWED |= {(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")}


class ArrayUnpickler(pickle.Unpickler):
    """Knows what numpy writes for an array, and nothing else."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name}, which is not run")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_permutation(path: Path, count: int) -> list[int]:
    """The permutation of 0..count-1 that is pickled in a file.

    Raises:
        DataError: no such file, damaged, anything else than a numpy array of integers, or not that permutation.
    """
    if not path.is_file():
        raise DataError(f"{path}: the file must exist.")
    try:
        array = ArrayUnpickler(io.BytesIO(path.read_bytes())).load()
        if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in "iu":
            raise TypeError(f"{array!r:.60}")
        order: list[int] = array.tolist()
    except Exception as error:  # of any kind
        raise DataError(f"{path}: must be a pickled numpy array of integers, but got: {error}.") from error
    if sorted(order) != list(range(count)):
        rule = f"must be a permutation of 0..{count - 1}, one for each training image"
        raise DataError(f"{path}: {rule}, but has {len(order)} numbers, {len(set(order))} of them different.")
    return order


def trainaug_list(root: Path) -> list[str]:
    """Names of the training images in the order of the list whose lines the permutation counts.

    The authors' code reads its own file train_aug.txt. Public copies of it are sorted, VOC's and SBD's images mixed, so
    that order is taken; a file ImageSets/Segmentation/train_aug.txt (an id a line, or "/JPEGImages/ID.jpg ..." lines)
    overrules it.

    Raises:
        DataError: that file names other images than trainaug has, or see `voc.load_train`.
    """
    names = voc.load_train(root).names
    path = voc.find_folder(root) / "ImageSets" / "Segmentation" / "train_aug.txt"
    if not path.is_file():
        return list(names)
    listed = [f"JPEGImages/{image}.jpg" for image in voc.read_list(path)]
    if sorted(listed) != list(names):
        differ = len(set(listed) ^ set(names))
        rule = f"must name each of the {len(names)} images of trainaug once"
        raise DataError(f"{path}: {rule}, but has {len(listed)} lines and differs in {differ} images.")
    return listed


def labelled_names(path: Path, root: Path, count: int) -> list[str]:
    """Sorted names of the images that the first `count` numbers of the split file stand for.

    Raises:
        DataError: see `trainaug_list` and `read_permutation`; or there are fewer images.
    """
    listed = trainaug_list(root)
    order = read_permutation(path, len(listed))
    if not 1 <= count <= len(order):
        raise DataError(f"--labelled: `1 <= labelled <= {len(order)}` must hold, but got {count}.")
    return sorted(listed[number] for number in order[:count])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE.pkl")
    parser.add_argument("--root", type=Path, required=True, help="Folder of VOC, as data.root.")
    parser.add_argument("--labelled", type=int, required=True, metavar="N", help="How many images keep their labels.")
    given = parser.parse_args(argv)
    try:
        names = labelled_names(given.file, given.root, given.labelled)
    except DataError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print("\n".join(names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
