"""The label matrix out of MATLAB 5 files, against scipy's writer and a file made by hand."""

import re
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch

from classmix_core.data.mat import read_segmentation
from classmix_core.errors import DataError
from tests.trees import objects, write_sbd_mat

HEADER = b"MATLAB 5.0 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x01IM"


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + b"\0" * (-len(content) % 8)


def small(kind: int, content: bytes) -> bytes:
    return struct.pack("<HH", kind, len(content)) + content.ljust(4, b"\0")


def matrix(class_: int, sizes: tuple[int, ...], name: bytes, *rest: bytes) -> bytes:
    flags = element(6, struct.pack("<II", class_, 0))
    named = small(1, name) if 0 < len(name) <= 4 else element(1, name)
    return element(14, flags + element(5, struct.pack(f"<{len(sizes)}i", *sizes)) + named + b"".join(rest))


def gtcls(*fields: bytes, names: bytes = b"Segmentation".ljust(32, b"\0")) -> bytes:
    return matrix(2, (1, 1), b"GTcls", small(5, struct.pack("<i", 32)), element(1, names), *fields)


def write(path: Path, *variables: bytes, header: bytes = HEADER) -> Path:
    path.write_bytes(header + b"".join(variables))
    return path


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (3, 1), (5, 7), (18, 26)])
def test_what_scipy_writes_is_read(compressed: bool, shape: tuple[int, int], tmp_path: Path) -> None:
    label = np.random.default_rng(0).integers(0, 21, shape).astype(np.uint8)
    write_sbd_mat(tmp_path / "x.mat", label, compressed)
    read = read_segmentation(tmp_path / "x.mat")
    assert read.dtype == torch.uint8
    assert read.is_contiguous()
    assert np.array_equal(read.numpy(), label)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_order_of_fields_and_other_variables_do_not_matter(place: int, tmp_path: Path) -> None:
    label = objects("2008_000002", border=False)
    fields: list[tuple[str, Any]] = [("CategoriesPresent", np.ones((3, 1))), ("Boundaries", np.zeros((0, 0)))]
    fields.insert(place, ("Segmentation", label))
    scipy.io.savemat(tmp_path / "x.mat", {"other": np.arange(5), "GTcls": dict(fields), "z": "text"})
    assert np.array_equal(read_segmentation(tmp_path / "x.mat").numpy(), label)


@pytest.mark.parametrize("compressed", [True, False])
def test_a_file_made_by_hand_is_read_by_column(compressed: bool, tmp_path: Path) -> None:
    variable = gtcls(matrix(9, (2, 3), b"", element(2, bytes([1, 2, 3, 4, 5, 6]))))
    if compressed:
        body = zlib.compress(variable)
        variable = struct.pack("<II", 15, len(body)) + body
    assert read_segmentation(write(tmp_path / "x.mat", variable)).tolist() == [[1, 3, 5], [2, 4, 6]]


GOOD = matrix(9, (1, 2), b"", small(2, b"\1\2"))


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ([], "no GTcls"),
        ([matrix(9, (1, 2), b"GTinst", small(2, b"\1\2"))], "no GTcls"),
        ([matrix(9, (1, 2), b"GTcls", small(2, b"\1\2"))], "GTcls is not a 1x1 struct"),
        ([gtcls(GOOD, names=b"Boundaries".ljust(32, b"\0"))], "GTcls has no field Segmentation"),
        (
            [gtcls(matrix(6, (1, 2), b"", element(9, bytes(16))))],
            "Segmentation has 2 dimensions, class 6 and storage 9",
        ),
        ([gtcls(matrix(9, (1, 2, 1), b"", small(2, b"\1\2")))], "Segmentation has 3 dimensions, class 9 and storage 2"),
        ([gtcls(matrix(9, (2, 2), b"", small(2, b"\1\2")))], "cannot reshape array of size 2 into shape (2,2)"),
        ([gtcls(GOOD)[:-3]], "the file is cut off"),
        ([gtcls(matrix(9, (1, 2), b""))], "an element is missing"),
        ([element(15, b"no zlib stream")], "Error -3 while decompressing data"),
    ],
)
def test_a_file_without_that_matrix_is_refused_with_the_reason(
    variables: list[bytes], reason: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "x.mat", *variables)
    expected = f"{path}: must hold GTcls.Segmentation, a uint8 matrix, but got: {reason}"
    with pytest.raises(DataError, match=re.escape(expected)):
        read_segmentation(path)


@pytest.mark.parametrize("header", [b"", b"\x89PNG", b" " * 124 + b"\x01\x00MI", b" " * 124 + b"\x00\x02IM"])
def test_another_kind_of_file_is_refused(header: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "x.mat", header=header)
    with pytest.raises(DataError, match=re.escape(f"{path}: must be a MATLAB 5 file.")):
        read_segmentation(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'no.mat'}: the file must exist.")):
        read_segmentation(tmp_path / "no.mat")


def test_bytes_changed_anywhere_give_a_label_or_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    write_sbd_mat(path, objects("2008_000003", border=False), compressed=False)
    whole, rng = path.read_bytes(), np.random.default_rng(1)
    for place in rng.integers(0, len(whole), 300):
        path.write_bytes(whole[:place] + bytes(rng.integers(0, 256, 1, dtype=np.uint8)) + whole[place + 1 :])
        with suppress(DataError):
            assert read_segmentation(path).ndim == 2
