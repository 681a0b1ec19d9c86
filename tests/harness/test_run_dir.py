"""How a run is found again, whatever else lies beside it."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from classmix_core.data import Data
from classmix_core.data.samples import ArraySamples, FileSamples
from classmix_core.data.splits import read_names
from harness.errors import UserError
from harness.run_dir import (
    RunRecord,
    claim_folder,
    find_unfinished,
    read_run_record,
    read_splits,
    require_same_images,
    run_lock,
    stored_roles,
    write_splits,
)

OURS = RunRecord("train", "sqlite:///x.db", "1", "abc")
FOREIGN = {
    "newer": json.dumps({"format": 99, "kind": "train"}),
    "without format": json.dumps({"kind": "train", "finished": False}),
    "other keys": json.dumps({"format": 3, "id": 3, "state": "running"}),
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
    for ask in (lambda: find_unfinished(storage, name, "train"), lambda: claim(storage, name)):
        with pytest.raises(UserError) as refused:
            ask()  # type: ignore[no-untyped-call]
        assert str(storage / name / "run.json") in str(refused.value)
        assert "\n" not in str(refused.value)


def test_where_nothing_can_be_resumed_what_was_left_out_is_named(storage: Path) -> None:
    OURS.end(storage / "ours")
    with pytest.raises(UserError, match=r"holds none \(left out: .*format must be 3, but got 99"):
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


# -- the folder of a new run ------------------------------------------------------------------------------------------


def claim(storage: Path, name: str | None) -> Path:
    """By a command that gets as far as to make its record."""
    with claim_folder(storage, name, "train") as folder:
        OURS.write(folder)
    return folder


def test_commands_that_start_in_the_same_second_get_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: claim(tmp_path / "runs", None), range(24)))
    assert len(set(folders)) == 24
    assert set((tmp_path / "runs").iterdir()) == set(folders)
    assert all(re.fullmatch(r"train-\d{8}-\d{6}(-\d+)?", folder.name) for folder in folders)


def test_a_folder_is_locked_from_the_moment_it_is_there(tmp_path: Path) -> None:
    with claim_folder(tmp_path, "a", "train"), pytest.raises(UserError) as refused:
        claim(tmp_path, "a")
    assert str(refused.value) == (f"--name: {tmp_path}/a must not be running, but another command is at work on it.")
    assert claim(tmp_path, "a") == tmp_path / "a"
    with pytest.raises(UserError, match=r"--name: a new run needs an unused name, but .*/a exists; give --resume"):
        claim(tmp_path, "a")
    OURS.end(tmp_path / "a")
    with pytest.raises(UserError, match=r"but .*/a exists; give another --name"):
        claim(tmp_path, "a")


@pytest.mark.parametrize("left", ["checkpoints", "trials"])
def test_a_folder_with_what_is_left_of_a_run_is_no_new_one(left: str, tmp_path: Path) -> None:
    """As after a copy without run.json: a training would go on from the checkpoints."""
    (tmp_path / "a" / left).mkdir(parents=True)
    with pytest.raises(UserError, match=f"--name: .* but .*/a holds {left}"):
        claim(tmp_path, "a")
    assert (tmp_path / "a" / left).is_dir()


@pytest.mark.parametrize("name", ["", "a/b", ".", "..", ".a"])
def test_a_name_is_that_of_one_visible_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--name: must be a plain folder name"):
        claim(tmp_path, name)


@pytest.mark.parametrize("name", [None, "a"])
def test_a_command_that_is_refused_leaves_no_folder(name: str | None, tmp_path: Path) -> None:
    def refused(storage: Path) -> None:
        with claim_folder(storage, name, "train") as folder:
            (folder / "config.yaml").touch()
            raise UserError("steps")

    with pytest.raises(UserError, match="steps"):
        refused(tmp_path / "new/runs")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "runs/a/mine").mkdir(parents=True)
    with pytest.raises(UserError, match="steps"):
        refused(tmp_path / "runs")
    assert [path.name for path in tmp_path.glob("runs/*")] == ["a"]
    assert (tmp_path / "runs/a/mine").is_dir(), "what was there before stays"


@pytest.mark.parametrize(("storage", "name"), [("file", None), ("file/runs", "a"), (".", "file")])
def test_where_no_folder_can_be_made_it_is_one_line(storage: str, name: str | None, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^--storage-path: must be a folder in which .*, but got [^\n]+: [^\n]+\.$"):
        claim(tmp_path / storage, name)


@pytest.mark.parametrize("names", [["a.jpg", "b.jpg"], ["images/a/photo 00.jpg", "images/ü 01.jpg"]])
def test_the_list_of_a_role_is_read_back_as_a_split_file(names: list[str], tmp_path: Path) -> None:
    samples = ArraySamples(names, torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8))
    write_splits(tmp_path, Data((), (), samples, samples.subset([0]), None, None))
    assert read_names(tmp_path / "splits/labelled.txt") == names
    assert read_names(tmp_path / "splits/unlabelled.txt") == names[:1]
    assert len(list((tmp_path / "splits").iterdir())) == 2, "roles that are not there have no list"


def data_of(**roles: list[str] | None) -> Data:
    """A data set of names alone."""
    samples = {role: names and ArraySamples(names, torch.zeros(0), torch.zeros(0)) for role, names in roles.items()}
    none = ArraySamples([], torch.zeros(0), torch.zeros(0))
    return Data((), (), **{"labelled": none, "unlabelled": none, "val": None, "test": None} | samples)  # type: ignore[arg-type]


def test_stored_names_are_read_as_they_were_whatever_they_hold(tmp_path: Path) -> None:
    names = [" a.jpg ", "b\x0b.jpg", "c\r.jpg", "d\u2028.jpg", "e.jpg f.png", "\u00fc.jpg", "u\u0308.jpg"]
    write_splits(tmp_path, data_of(labelled=names))
    assert read_splits(tmp_path / "splits", stored_roles(tmp_path / "splits")) == {"labelled": names, "unlabelled": []}


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_list_that_is_missing_or_damaged_is_one_line_with_the_file(tmp_path: Path, content: bytes | None) -> None:
    write_splits(tmp_path, data_of(labelled=["a"]))
    if content is not None:
        (tmp_path / "splits/val.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"splits/val\.txt: must list the val images of the run, but: .*\.$"):
        read_splits(tmp_path / "splits", ("labelled", "val"))


def test_images_that_changed_are_named_with_their_role_then_and_now(tmp_path: Path) -> None:
    write_splits(tmp_path, data_of(labelled=["a", "b"], unlabelled=["c", "d", "e"], val=["f"], test=["g"]))
    require_same_images(tmp_path, data_of(labelled=["b", "a"], unlabelled=["c", "d", "e"], val=["f"], test=["g"]), "")
    now = data_of(labelled=["a", "c", "x"], unlabelled=["d", "e"], val=["b", "f"], test=["g"])
    with pytest.raises(UserError) as refused:
        require_same_images(tmp_path, now, "make anew")
    told = "3 changed: b (labelled -> val), c (unlabelled -> labelled), x (new -> labelled). "
    assert told in str(refused.value)
    assert str(refused.value).endswith("start anew: make anew")
    with pytest.raises(UserError, match=r"5 changed: a \(labelled -> gone\), b .*, c .* and 2 more\."):
        require_same_images(tmp_path, data_of(val=["f"], test=["g"]), "")


def test_a_role_that_is_not_asked_for_is_not_compared(tmp_path: Path) -> None:
    write_splits(tmp_path, data_of(labelled=["a"], val=["f", "h"]))
    require_same_images(tmp_path, data_of(labelled=["a"]), "")
    with pytest.raises(UserError, match=r"1 changed: f \(val -> labelled\)\."):
        require_same_images(tmp_path, data_of(labelled=["a", "f"]), "")
    pool = FileSamples(["a", "f", "h"], [], [])
    require_same_images(tmp_path, replace(data_of(labelled=["a"]), pool=pool), "")
    with pytest.raises(UserError, match=r"1 changed: a \(labelled -> held out\)\."):
        require_same_images(tmp_path, replace(data_of(), pool=pool), "")
