"""A pickled permutation becomes a list of names; anything else in a pickle is refused and never run."""

import os
import pickle
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classmix_core.data import load_data
from classmix_core.data.convert_split import labelled_names, main, read_permutation, trainaug_list
from classmix_core.errors import DataError
from tests.classmix_core.data.roles import config, sizes
from tests.trees import TRAINAUG, VOC_VAL

ORDER = [3, 0, 4, 1, 2]


def write(path: Path, value: object, protocol: int = 3) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint32", ">i8", ">i4"])
@pytest.mark.parametrize("protocol", range(6))
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
    assert [file.name for file in tmp_path.iterdir()] == ["x.pkl"]
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
@pytest.mark.parametrize("protocol", [0, 2, 3, 5])
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


@pytest.mark.parametrize("protocol", range(6))
def test_a_file_that_is_cut_off_anywhere_is_refused_or_whole(protocol: int, tmp_path: Path) -> None:
    whole, path = pickle.dumps(np.array(ORDER), protocol), tmp_path / "x.pkl"
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match=re.escape(f"{path}: must be a pickled numpy array of integers, but got")):
            read_permutation(path, 5)


RECONSTRUCT = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
FROM_BUFFER = np._core.numeric._frombuffer  # type: ignore[attr-defined]
DOUBLED = b"N" + b"2\x86" * 22
"""A tuple of twice the same, 22 times over: written out it has four million parts."""
HOSTILE = {
    "an array of 2 ** 26 numbers": pickle.dumps(Run(RECONSTRUCT, np.ndarray, (2**13, 2**13), b"b"), 2),
    "the same as an object": pickle.dumps(Run(RECONSTRUCT, np.ndarray, (2**23,), b"O"), 3),
    "the type itself called": pickle.dumps(Run(np.ndarray, (2**26,)), 3),
    "elements of 64 MB": pickle.dumps(Run(np.ndarray, (1,), Run(np.dtype, f"V{2**26}")), 4),
    "no elements but a large shape": pickle.dumps(Run(RECONSTRUCT, np.ndarray, (2**40, 0), b"b"), 3),
    "parts without end": b"\x80\x02" + DOUBLED + b".",
    "a shape of parts without end": pickle.dumps(Run(RECONSTRUCT, np.ndarray, "shape", b"b"), 0).replace(
        b"Vshape\n", DOUBLED
    ),
    "a key of parts without end": b"\x80\x02}" + DOUBLED + b"Ns.",
    "nested lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "nested tuples": b"\x80\x02N" + b"\x85" * 100_000 + b".",
    "remembered under a high number": b"\x80\x02Nr" + (2**22).to_bytes(4, "little") + b".",
    "bytes that are not there": b"\x80\x05\x8e" + (2**26).to_bytes(8, "little") + b"x.",
    "a bytearray that is not there": b"\x80\x05\x96" + (2**26).to_bytes(8, "little") + b"x.",
    "a long name": b"c" + b"x" * 50_000 + b"\ny\n.",
    "a long number": b"I" + b"x" * 50_000 + b"\n.",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_pickle_ends_in_one_short_line_and_takes_no_memory(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=re.escape(f"{path}: must be a pickled numpy array")) as caught:
            read_permutation(path, 5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200_000 + 100 * len(data)
    line = str(caught.value).removeprefix(str(path))
    assert len(line) < 250
    assert "\n" not in line


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'no.pkl'}: the file must exist.")):
        read_permutation(tmp_path / "no.pkl", 5)


# ---- the list that the permutation counts


LIST = "VOCdevkit/VOC2012/ImageSets/Segmentation/train_aug.txt"
NAMES = [f"JPEGImages/{image}.jpg" for image in TRAINAUG]


def test_the_list_is_in_sorted_order_unless_a_file_says_otherwise(voc_root: Path) -> None:
    assert trainaug_list(voc_root) == NAMES


@pytest.mark.parametrize("line", ["{0}\n", "/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png\n"])
def test_a_list_in_the_folder_gives_the_order(voc_root: Path, line: str) -> None:
    order = [4, 8, 0, 3, 1, 2, 7, 6, 5]
    (voc_root / LIST).write_text("".join(line.format(TRAINAUG[number]) for number in order))
    assert trainaug_list(voc_root) == [NAMES[number] for number in order]


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (TRAINAUG[:-1], "has 8 lines and differs in 1 images"),
        ((*TRAINAUG[:-1], VOC_VAL[0]), "has 9 lines and differs in 2 images"),
        ((*TRAINAUG, TRAINAUG[0]), "has 10 lines and differs in 0 images"),
    ],
)
def test_a_list_of_other_images_is_refused(voc_root: Path, lines: tuple[str, ...], found: str) -> None:
    (voc_root / LIST).write_text("\n".join(lines))
    expected = f"{voc_root / LIST}: must name each of the 9 images of trainaug once, but {found}."
    with pytest.raises(DataError, match=re.escape(expected)):
        trainaug_list(voc_root)


# ---- the script


NINE = [6, 2, 8, 0, 4, 1, 7, 3, 5]


@pytest.mark.parametrize("count", [1, 4, 9])
def test_the_first_numbers_are_the_labelled_by_the_order_of_the_list(
    voc_root: Path, tmp_path: Path, count: int
) -> None:
    path = write(tmp_path / "split_0.pkl", np.array(NINE))
    assert labelled_names(path, voc_root, count) == sorted(NAMES[number] for number in NINE[:count])
    (voc_root / LIST).write_text("\n".join(reversed(TRAINAUG)))
    assert labelled_names(path, voc_root, count) == sorted(NAMES[8 - number] for number in NINE[:count])


def test_what_the_script_prints_is_a_split_file(voc_root: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "split_0.pkl", np.array(NINE))
    command = [sys.executable, "-m", "classmix_core.data.convert_split", str(path), f"--root={voc_root}"]
    done = subprocess.run([*command, "--labelled=4"], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    (tmp_path / "labelled.txt").write_text(done.stdout)
    data = load_data(config(voc_root, name="voc", split_file=str(tmp_path / "labelled.txt")))
    assert list(data.labelled.names) == [NAMES[number] for number in sorted(NINE[:4])]
    assert sizes(data) == [4, 4, 1, 3]


@pytest.mark.parametrize(
    ("value", "count", "message"),
    [
        (np.arange(10582), 2, "split_0.pkl: must be a permutation of 0..8, .* but has 10582 numbers"),
        ([Run(os.system, "touch called")], 2, "split_0.pkl: must be a pickled .* posix.system, which is not run"),
        (np.array(NINE), 0, "--labelled: `1 <= labelled <= 9` must hold, but got 0"),
        (np.array(NINE), 10, "--labelled: `1 <= labelled <= 9` must hold, but got 10"),
    ],
)
def test_the_script_refuses_in_one_line_with_code_2(
    value: object, count: int, message: str, voc_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "split_0.pkl", value)
    assert main([str(path), f"--root={voc_root}", f"--labelled={count}"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(rf"error: .*{message}.*\n", printed.err)
