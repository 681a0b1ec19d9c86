"""ClassMix's split files for VOC as lists of names for `data.split_file`.

    python -m classmix_core.data.convert_split FILE.pkl --root VOC_ROOT --labelled N > labelled.txt

Such a file is a pickled permutation of the training images, the first N of which are labelled. A pickle can name any
function and have it called: only those that numpy writes for an array are allowed here, all else is refused.
"""

import argparse
import io
import pickle
import pickletools
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from classmix_core.data.datasets import voc
from classmix_core.errors import DataError

UNUSED_BY_NUMPY = ("DICT", "SETITEM", "SETITEMS", "ADDITEMS", "FROZENSET")
"""Steps of a pickle that put something into a dictionary or set, and may take its hash: of nested tuples, forever."""


class IntegerType:
    """Stands in for numpy.dtype, of which a pickle may ask for any size."""

    def __init__(self, name: object, *_: object) -> None:
        if not isinstance(name, str) or not re.fullmatch("[iu][1248]", name):
            raise pickle.UnpicklingError("an array of something else")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Sequence[str]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])  # type: ignore[arg-type]


class IntegerArray:
    """Stands in for what numpy makes an array with; one dimension, and no more memory than the file has."""

    def __init__(self, _: object, shape: object = (0,), *__: object) -> None:
        if shape != (0,):  # all that numpy writes here: the true shape comes with the data
            raise pickle.UnpicklingError("an array of a shape that numpy does not write")
        self.order: list[int] = []

    def __setstate__(self, state: Sequence[object]) -> None:
        _, shape, kind, _, data = state
        if not isinstance(kind, IntegerType) or not isinstance(data, bytes | bytearray):
            raise pickle.UnpicklingError("an array of something else")
        values = np.frombuffer(data, kind.dtype)
        if shape != values.shape:
            raise pickle.UnpicklingError("an array of more or fewer dimensions than 1")
        self.order = values.tolist()


def from_buffer(data: object, kind: object, shape: object, _: object) -> IntegerArray:
    """Stands in for what numpy makes an array with in protocol 5."""
    array = IntegerArray(None)
    array.__setstate__((None, shape, kind, None, data))
    return array


def encode(text: object, encoding: object) -> bytes:
    """Stands in for _codecs.encode, by which bytes are written in protocols 0 to 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("text that numpy does not write")
    return text.encode("latin1")


STAND_INS: dict[tuple[str, str], object] = {
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): IntegerType,
    ("_codecs", "encode"): encode,
}
for core in ("core", "_core"):  # of numpy 1, and since numpy 2
    STAND_INS[f"numpy.{core}.multiarray", "_reconstruct"] = IntegerArray
    STAND_INS[f"numpy.{core}.numeric", "_frombuffer"] = from_buffer


class ArrayUnpickler(pickle.Unpickler):
    """Knows what numpy writes for an array of integers, and nothing else; calls no function but those above."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"{f'{module}.{name}':.60}, which is not run")
        return STAND_INS[module, name]


def check_steps(data: bytes) -> None:
    """Go through a pickle without doing what it says.

    Raises:
        ValueError, pickle.UnpicklingError: it is cut off, or a step of it could take much memory or time: pickle makes
            room for as many values as the highest number that one is remembered under.
    """
    for step, argument, _ in pickletools.genops(data):
        if step.name in UNUSED_BY_NUMPY or ("PUT" in step.name and (argument or 0) > len(data)):
            raise pickle.UnpicklingError(f"{step.name}, which numpy does not write")


def read_permutation(path: Path, count: int) -> list[int]:
    """The permutation of 0..count-1 that is pickled in a file. No pickle takes much more memory than its file.

    Raises:
        DataError: no such file, damaged, anything else than a numpy array of integers, or not that permutation.
    """
    if not path.is_file():
        raise DataError(f"{path}: the file must exist.")
    try:
        data = path.read_bytes()
        check_steps(data)
        array = ArrayUnpickler(io.BytesIO(data)).load()
        if not isinstance(array, IntegerArray):
            raise TypeError(type(array).__name__)
    except Exception as error:  # of any kind
        reason = str(error)[:150] or type(error).__name__
        raise DataError(f"{path}: must be a pickled numpy array of integers, but got: {reason}.") from error
    order = array.order
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
