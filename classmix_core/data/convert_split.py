"""ClassMix's split files for VOC as lists of names for `data.split_file`.

    python -m classmix_core.data.convert_split FILE.pkl --root VOC_ROOT --labelled N > labelled.txt

Such a file is a pickled permutation of the training images, the first N of which are labelled. A pickle can name any
function and have it called: only the names that numpy writes for an array of integers are allowed here, all else is
refused. Even numpy's own functions are not called: on damaged types they crash the interpreter.
"""

import argparse
import io
import pickle
import pickletools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from classmix_core.data.datasets import voc
from classmix_core.errors import DataError


class Stored:
    """Stands for an array or its type: keeps what numpy would make it of."""

    def __init__(self, *values: Any) -> None:
        self.values = values
        self.state: Any = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state


def from_buffer(data: object, dtype: object, shape: object, *_: object) -> Stored:
    """An array, as protocol 5 writes it."""
    array = Stored()
    array.__setstate__((1, shape, dtype, False, data))
    return array


def latin1(text: str, _: str) -> bytes:
    """Bytes, as protocols 0 to 2 write them."""
    return text.encode("latin1")


ALLOWED: dict[str, Any] = {
    "numpy.ndarray": Stored,
    "numpy.dtype": Stored,
    "numpy.core.multiarray._reconstruct": Stored,  # numpy 1
    "numpy._core.multiarray._reconstruct": Stored,
    "numpy.core.numeric._frombuffer": from_buffer,
    "numpy._core.numeric._frombuffer": from_buffer,
    "_codecs.encode": latin1,
}


class ArrayUnpickler(pickle.Unpickler):
    """Reads numpy's arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (full := f"{module}.{name}") not in ALLOWED:
            raise pickle.UnpicklingError(f"{full}, which is not run")
        return ALLOWED[full]


def read_integers(data: bytes) -> list[int]:
    """The one-dimensional array of integers in a pickle; what is raised for anything else can be of any kind."""
    for opcode, argument, _ in pickletools.genops(data):  # raises for a length beyond the end
        if opcode.name.endswith("PUT") and int(argument or 0) > len(data):  # the unpickler took 20 GB for it
            raise ValueError(f"{opcode.name} {argument} in {len(data)} bytes")
    array = ArrayUnpickler(io.BytesIO(data)).load()
    if not isinstance(array, Stored):
        raise TypeError(f"a {type(array).__name__}")
    _, shape, dtype, _, content = array.state
    code, order = dtype.values[0], dtype.state[1]
    if len(shape) != 1 or code not in ("i4", "i8", "u4", "u8"):
        raise TypeError(f"an array of type {code} and shape {shape}")
    numbers: list[int] = np.frombuffer(content, np.dtype(code).newbyteorder(order)).tolist()
    return numbers


def read_permutation(path: Path, count: int) -> list[int]:
    """The permutation of 0..count-1 that is pickled in a file.

    Raises:
        DataError: no such file, damaged, anything else than a numpy array of integers, or not that permutation.
    """
    if not path.is_file():
        raise DataError(f"{path}: the file must exist.")
    try:
        order = read_integers(path.read_bytes())
    except Exception as error:
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
