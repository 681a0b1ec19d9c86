"""ClassMix's split files: a pickled permutation of the training images, the first N of which are labelled.

A pickle can name any function and have it called. So no name in it is ever looked up: those that numpy writes for an
array of integers stand for the few lines below, and any other is refused.
"""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from classmix_core.errors import DataError

ARRAY_MODULES = (
    "numpy",
    "numpy.core.multiarray",
    "numpy._core.multiarray",
    "numpy.core.numeric",
    "numpy._core.numeric",
)

DAMAGED = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
)
"""What the unpickler raises on bytes that are no pickle."""


class StoredType:
    """A data type, as numpy pickles it: its code, and then a state with the byte order."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def numpy(self) -> np.dtype:
        if self.code not in ("i4", "i8", "u4", "u8") or self.order not in ("<", ">", "="):
            raise TypeError(f"numbers of type {self.order}{self.code}")
        return np.dtype(self.order + self.code)


class StoredArray:
    """An array, as numpy pickles it: made empty, and then a state with shape, type and bytes."""

    def __init__(self, *_: object) -> None:
        self.shape: Any = None
        self.type: Any = None
        self.data: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.type, _, self.data = state

    def numpy(self) -> np.ndarray:
        if not isinstance(self.type, StoredType) or not isinstance(self.data, bytes | bytearray):
            raise TypeError("no plain array")
        if not isinstance(self.shape, tuple) or len(self.shape) != 1:
            raise TypeError(f"an array of shape {self.shape}")
        return np.frombuffer(self.data, self.type.numpy()).astype(np.int64)


class BufferedArray(StoredArray):
    """An array, as numpy pickles it by protocol 5."""

    def __init__(self, data: object, kind: object, shape: object, *_: object) -> None:
        super().__init__()
        self.data, self.type, self.shape = data, kind, shape


STAND_INS = {"ndarray": StoredArray, "dtype": StoredType, "_reconstruct": StoredArray, "_frombuffer": BufferedArray}


class ArrayUnpickler(pickle.Unpickler):
    """Knows numpy's arrays alone."""

    def find_class(self, module: str, name: str) -> Any:
        if module not in ARRAY_MODULES or name not in STAND_INS:
            raise pickle.UnpicklingError(f"{module}.{name}, which is not run")
        return STAND_INS[name]


def check_sizes(data: bytes) -> None:
    """Raise ValueError for a pickle that says it is larger than it is: the unpickler takes that memory (20 GB seen)."""
    for opcode, argument, _ in pickletools.genops(data):  # raises it for what is cut off
        if opcode.name.endswith("PUT") and int(argument or 0) > len(data):
            raise ValueError(f"{opcode.name} {argument} in {len(data)} bytes")


def read_permutation(path: Path, count: int) -> list[int]:
    """A permutation of 0..count-1. Nothing in the file is run.

    Raises:
        DataError: damaged, anything else than a numpy array of integers, or not that permutation.
    """
    try:
        data = path.read_bytes()
        check_sizes(data)
        stored = ArrayUnpickler(io.BytesIO(data)).load()
        if not isinstance(stored, StoredArray):
            raise TypeError(f"a {type(stored).__name__}")
        order = stored.numpy().tolist()
    except DAMAGED as error:
        raise DataError(f"{path}: must be a pickled numpy array of integers, but got: {error}.") from error
    if sorted(order) != list(range(count)):
        rule = f"must be a permutation of 0..{count - 1}, one for each training image"
        raise DataError(f"{path}: {rule}, but has {len(order)} numbers, {len(set(order))} of them different.")
    return order
