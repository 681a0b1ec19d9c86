"""The label matrix of an SBD file: `GTcls.Segmentation` out of a MATLAB 5 file, and nothing else of that format.

A reader of its own rather than scipy's: the part of the format that these files use is small, the fields that are not
needed (20 sparse boundaries) are skipped instead of decoded, and no optional package can be missing.
Format: MathWorks, "MAT-File Format", level 5.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from classmix_core.errors import DataError

HEADER = 128
STORED_UINT8, MATRIX, COMPRESSED = 2, 14, 15
STRUCT, UINT8 = 2, 9  # classes of matrices

Element = tuple[int, bytes]


def read_segmentation(path: Path) -> Tensor:
    """uint8 (H, W): the 1x1 struct GTcls's field Segmentation.

    Raises:
        DataError: no such file, not a little-endian MATLAB 5 file, damaged, or without that field.
    """
    if not path.is_file():
        raise DataError(f"{path}: the file must exist.")
    data = path.read_bytes()
    if data[124:HEADER] != b"\x00\x01IM":
        raise DataError(f"{path}: must be a MATLAB 5 file.")
    try:
        return torch.from_numpy(find_segmentation(data[HEADER:]))
    except (ValueError, StopIteration, struct.error, zlib.error) as error:
        reason = str(error) or "an element is missing"
        raise DataError(f"{path}: must hold GTcls.Segmentation, a uint8 matrix, but got: {reason}.") from error


def find_segmentation(data: bytes) -> np.ndarray:
    for kind, content in elements(data):
        if kind == COMPRESSED:
            kind, content = next(elements(zlib.decompress(content)))
        if kind == MATRIX:
            name, class_, dimensions, parts = open_matrix(content)
            if name == b"GTcls":
                if class_ != STRUCT or dimensions != (1, 1):
                    raise ValueError("GTcls is not a 1x1 struct")
                return uint8_matrix(field(parts, b"Segmentation"))
    raise ValueError("no GTcls")


def elements(data: bytes) -> Iterator[Element]:
    """Kind and content of one data element after the other."""
    place = 0
    while place < len(data):
        kind, size = struct.unpack_from("<II", data, place)
        if kind >> 16:  # a small one: its size in the upper half, up to 4 bytes of content where the size was
            kind, size, start, end = kind & 0xFFFF, kind >> 16, place + 4, place + 8
        else:
            start, end = place + 8, place + 8 + size
        if start + size > len(data):
            raise ValueError("the file is cut off")
        yield kind, data[start : start + size]
        place = end if kind == COMPRESSED else end + -end % 8


def open_matrix(content: bytes) -> tuple[bytes, int, tuple[int, ...], Iterator[Element]]:
    """Name, class and dimensions of a matrix, and the elements that follow."""
    parts = elements(content)
    flags, dimensions, name = next(parts)[1], next(parts)[1], next(parts)[1]
    sizes = struct.unpack(f"<{len(dimensions) // 4}i", dimensions)
    return name, struct.unpack_from("<I", flags)[0] & 0xFF, sizes, parts


def field(parts: Iterator[Element], wanted: bytes) -> bytes:
    """Content of the matrix in a field of a 1x1 struct."""
    (length,) = struct.unpack("<i", next(parts)[1])
    if length < 1:
        raise ValueError("field names have no length")
    text = next(parts)[1]
    names = [text[start : start + length].rstrip(b"\0") for start in range(0, len(text), length)]
    contents = dict(zip(names, (content for _, content in parts), strict=False))
    if wanted not in contents:
        raise ValueError(f"GTcls has no field {wanted.decode()}")
    return contents[wanted]


def uint8_matrix(content: bytes) -> np.ndarray:
    _, class_, sizes, parts = open_matrix(content)
    kind, values = next(parts)
    if class_ != UINT8 or kind != STORED_UINT8 or len(sizes) != 2:
        raise ValueError(f"Segmentation has {len(sizes)} dimensions, class {class_} and storage {kind}")
    return np.frombuffer(values, np.uint8).reshape(sizes, order="F").copy(order="C")
