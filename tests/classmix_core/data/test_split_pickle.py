"""Pickled permutations are read; anything else in a pickle is refused and never run."""

import os
import pickle
import re
import resource
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classmix_core.data.split_pickle import read_permutation
from classmix_core.errors import DataError

ORDER = [3, 0, 4, 1, 2]


def write(path: Path, value: object, protocol: int = 3) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint32", ">i8", ">i4"])
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_permutation_of_any_integers_and_protocol_is_read(dtype: str, protocol: int, tmp_path: Path) -> None:
    assert read_permutation(write(tmp_path / "x.pkl", np.array(ORDER, dtype), protocol), 5) == ORDER


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_the_module_names_of_numpy_1_are_known(protocol: int, tmp_path: Path) -> None:
    path, count = write(tmp_path / "x.pkl", np.random.default_rng(0).permutation(10582), protocol), 10582
    new, old = b"numpy._core", b"numpy.core"
    data = path.read_bytes()
    assert new in data
    if protocol == 3:
        data = data.replace(new, old)
    else:  # the frame and the string say how long they are
        start = data.index(new) - 2
        text = data[start + 2 : start + 2 + data[start + 1]]
        data = data.replace(
            data[start : start + 2] + text, bytes([data[start], len(text) - 1]) + text.replace(new, old)
        )
        length = int.from_bytes(data[3:11], "little")
        data = data[:3] + (length - 1).to_bytes(8, "little") + data[11:] if data[2:3] == b"\x95" else data
    path.write_bytes(data)
    assert read_permutation(path, count) == np.random.default_rng(0).permutation(count).tolist()


class Run:
    """Runs a function when it is unpickled plainly."""

    def __init__(self, function: Any, *values: object) -> None:
        self.call = function, values

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, "posix.system"),
        (eval, "builtins.eval"),
        (np.load, "numpy.load"),
        (np.frombuffer, "numpy.frombuffer"),
        (getattr, "builtins.getattr"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_any_other_name_is_refused_and_never_called(
    function: Any, name: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "x.pkl", [Run(function, "touch called")], protocol)
    with pytest.raises(DataError, match=r"must be a pickled numpy array of integers, but got: \S+, which is not run"):
        read_permutation(path, 5)
    assert [record.name for record in tmp_path.iterdir()] == ["x.pkl"]
    if protocol >= 3:
        with pytest.raises(DataError, match=re.escape(name)):
            read_permutation(path, 5)


@pytest.mark.parametrize("name", ["evil\ndtype", "numpy\nload", "numpy._core.multiarray\nfromfile", "os\n_reconstruct"])
def test_a_known_name_of_another_module_and_another_name_of_a_known_one_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(b"c" + name.encode() + b"\n.")
    with pytest.raises(DataError, match=re.escape(f"{name.replace(chr(10), '.')}, which is not run")):
        read_permutation(tmp_path / "x.pkl", 5)


@pytest.mark.parametrize(
    "value",
    [
        np.array(ORDER, float),
        np.array([Run(os.system, "true")] * 5, object),
        np.array([ORDER]),
        np.array(3),
        np.array(["a", "b"]),
        np.array([True, False]),
        np.array([(1, 2)], [("a", "i8"), ("b", "i8")]),
        np.int64(3),
        ORDER,
        {"order": ORDER},
        None,
        "text",
    ],
)
@pytest.mark.parametrize("protocol", [3, 5])
def test_anything_but_one_array_of_integers_is_refused(value: object, protocol: int, tmp_path: Path) -> None:
    path = write(tmp_path / "x.pkl", value, protocol)
    with pytest.raises(DataError, match=re.escape(f"{path}: must be a pickled numpy array of integers, but got: ")):
        read_permutation(path, 5)


@pytest.mark.parametrize(
    "order", [[0, 1, 2, 3], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 3], [1, 2, 3, 4, 5], [-1, 0, 1, 2, 3]]
)
def test_an_array_that_is_no_permutation_of_the_images_is_refused(order: list[int], tmp_path: Path) -> None:
    path = write(tmp_path / "x.pkl", np.array(order))
    expected = f"{path}: must be a permutation of 0..4, one for each training image, but has {len(order)} numbers"
    with pytest.raises(DataError, match=re.escape(expected)):
        read_permutation(path, 5)


def test_bytes_changed_anywhere_or_cut_off_are_read_or_refused_with_one_line(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rng, path = np.random.default_rng(2), tmp_path / "x.pkl"
    for protocol in (3, 4, 5):
        whole = pickle.dumps(np.array(ORDER), protocol)
        changed = [whole[:end] for end in range(len(whole))]
        for place in range(len(whole)):
            for value in rng.integers(0, 256, 6, dtype=np.uint8):
                changed.append(whole[:place] + bytes([value]) + whole[place + 1 :])
        for data in changed:
            path.write_bytes(data)
            with suppress(DataError):
                assert sorted(read_permutation(path, 5)) == [0, 1, 2, 3, 4]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the unpickler in C took 20 GB of it
    assert memory < before + 500_000
