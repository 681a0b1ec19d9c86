"""How a run is found again, whatever else lies beside it."""

import json
from pathlib import Path

import pytest
import torch

from classmix_core.data import Data
from classmix_core.data.samples import ArraySamples
from classmix_core.data.splits import read_names
from harness.errors import UserError
from harness.run_dir import RunRecord, find_unfinished, new_folder, read_run_record, run_lock, write_splits

OURS = RunRecord("train", "sqlite:///x.db", "1", "abc")
FOREIGN = {
    "newer": json.dumps({"format": 99, "kind": "train"}),
    "without format": json.dumps({"kind": "train", "finished": False}),
    "other keys": json.dumps({"format": 2, "id": 3, "state": "running"}),
    "list": "[]",
    "damaged": '{"format": 1, "kind',
    "bytes": "\x00\x01",
}


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A run of ours that can be resumed, among folders of all kinds."""
    for name, content in FOREIGN.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(content)
    for name, record in {"ours": OURS, "study": RunRecord("tune", "", "", "")}.items():
        (tmp_path / name).mkdir()
        record.write(tmp_path / name)
    (tmp_path / "done").mkdir()
    OURS.end(tmp_path / "done")
    return tmp_path


def test_a_folder_that_cannot_be_read_does_not_keep_another_from_being_resumed(storage: Path) -> None:
    assert find_unfinished(storage, None, "train") == (storage / "ours", OURS)


@pytest.mark.parametrize("name", FOREIGN)
def test_one_that_is_asked_for_by_name_is_one_line_with_the_file(storage: Path, name: str) -> None:
    for ask in (lambda: find_unfinished(storage, name, "train"), lambda: new_folder(storage, name, "train")):
        with pytest.raises(UserError) as refused:
            ask()  # type: ignore[no-untyped-call]
        assert str(storage / name / "run.json") in str(refused.value)
        assert "\n" not in str(refused.value)


def test_where_nothing_can_be_resumed_what_was_left_out_is_named(storage: Path) -> None:
    OURS.end(storage / "ours")
    with pytest.raises(UserError, match=r"holds none \(left out: .*format must be 2, but got 99"):
        find_unfinished(storage, None, "train")


def test_two_that_are_equally_old_are_no_error(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        OURS.write(tmp_path / name)
    assert find_unfinished(tmp_path, None, "train")[1] == OURS


def test_a_folder_without_a_record_has_none(tmp_path: Path) -> None:
    assert read_run_record(tmp_path) is None


def test_a_run_is_locked_for_others_as_long_as_it_is_worked_on(tmp_path: Path) -> None:
    def again() -> None:
        with run_lock(tmp_path):
            pass

    with run_lock(tmp_path), pytest.raises(UserError, match="another command is at work on it"):
        again()
    again()


@pytest.mark.parametrize("names", [["a.jpg", "b.jpg"], ["images/a/photo 00.jpg", "images/ü 01.jpg"]])
def test_the_list_of_a_role_is_read_back_as_a_split_file(names: list[str], tmp_path: Path) -> None:
    samples = ArraySamples(names, torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8))
    write_splits(tmp_path, Data((), (), samples, samples.subset([0]), None, None))
    assert read_names(tmp_path / "splits/labelled.txt") == names
    assert read_names(tmp_path / "splits/unlabelled.txt") == names[:1]
    assert len(list((tmp_path / "splits").iterdir())) == 2, "roles that are not there have no list"
