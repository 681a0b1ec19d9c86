"""Files that were found good are not read again until they change; whatever changed is."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from torchvision.io import write_png

from classmix_core.config import DataConfig
from classmix_core.data import load_data
from classmix_core.errors import DataError, InvalidValue
from tests.classmix_core.data import roles
from tests.conftest import random_image, random_label

COUNT = 12
"""Images of CamVid's three parts."""


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder of the test's own."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "classmix_harness" / "checked"


@pytest.fixture
def given(camvid_root: Path) -> DataConfig:
    return roles.config(camvid_root, name="camvid", labelled=2)


def check(given: DataConfig, unlabelled: bool = True) -> list[tuple[int, int]]:
    return roles.check(load_data(given), given, unlabelled)


def damage(path: Path, *, keep_time: bool = True, keep_size: bool = True) -> None:
    """Make a file unreadable."""
    before = path.stat()
    path.write_bytes(bytes(before.st_size + (not keep_size)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + (not keep_time)))


def every_file(given: DataConfig) -> list[Path]:
    assert given.root is not None
    return sorted(Path(given.root).rglob("*.png"))


def test_files_that_have_not_changed_are_not_read_again(given: DataConfig) -> None:
    first = check(given)
    for path in every_file(given):
        damage(path)
    assert check(given) == first == [(done, COUNT) for done in range(1, COUNT + 1)]


@pytest.mark.parametrize("kept", ["keep_time", "keep_size"])
@pytest.mark.parametrize("file", ["images/train/seq5.png", "images/val/seq8.png", "labels/test/seq7.png"])
def test_a_file_of_another_size_or_time_is_read_again(given: DataConfig, file: str, kept: str) -> None:
    check(given)
    path = Path(given.root or "") / file
    damage(path, **{"keep_time": False, "keep_size": False, kept: True})
    with pytest.raises(DataError, match=re.escape(f"{path}: must be a readable")):
        check(given)


def test_a_file_that_is_gone_is_missed(given: DataConfig) -> None:
    check(given)
    data, path = load_data(given), Path(given.root or "") / "labels/val/seq8.png"
    path.unlink()
    with pytest.raises(DataError, match=re.escape(f"{path}: the file must exist.")):
        roles.check(data, given)


def test_a_bad_file_is_never_remembered_and_the_others_are(given: DataConfig) -> None:
    bad = Path(given.root or "") / "labels/test/seq8.png"
    good = bad.read_bytes()
    damage(bad)
    for _ in range(2):
        with pytest.raises(DataError, match=re.escape(str(bad))):
            check(given)
    for path in every_file(given):
        if path.relative_to(given.root or "").parts[1] != "test":  # which come last
            damage(path)
    bad.write_bytes(good)
    assert check(given)[-1] == (COUNT, COUNT)


def test_an_image_is_read_again_with_its_label_once_that_is_used(given: DataConfig) -> None:
    data = load_data(given)
    name = data.unlabelled.names[0]
    label = Path(given.root or "") / "labels" / name
    write_png(random_label(0, 9, 12, 11), str(label))  # of another size than the image
    check(given)
    with pytest.raises(DataError, match=re.escape(f"{label}: label and image must be of one size")):
        check(replace(given, labelled=7), unlabelled=False)


def test_labels_are_read_again_where_classes_or_the_ignored_value_are_others(folder_root: Path) -> None:
    given = roles.config(folder_root, name="folder")
    check(given)
    (folder_root / "classes.txt").write_text("grass\nrock\n")
    with pytest.raises(DataError, match=r"label values must be 0..1 \(the 2 classes\)"):
        check(given)
    check(replace(given, ignore_value=2))
    with pytest.raises(DataError, match=r"label values must be 0..1 \(the 2 classes\)"):
        check(given)


def test_sizes_that_differ_are_refused_again(given: DataConfig) -> None:
    root = Path(given.root or "")
    write_png(random_image(0, 9, 14), str(root / "images/train/seq5.png"))
    write_png(random_label(0, 9, 14, 12), str(root / "labels/train/seq5.png"))
    for _ in range(2):
        with pytest.raises(InvalidValue, match=r"resize or crop .*\(9, 13\) and \(9, 14\)"):
            check(given)
        for path in every_file(given):
            damage(path)
    assert check(replace(given, crop=(8, 8)))[-1] == (COUNT, COUNT)


def test_a_check_of_some_roles_forgets_no_others(given: DataConfig) -> None:
    check(given)
    write_png(random_image(5, 9, 13), str(Path(given.root or "") / "images/train/seq5.png"))
    check(given, unlabelled=False)
    for path in every_file(given):
        damage(path)
    assert check(given)[-1] == (COUNT, COUNT)


def test_it_is_remembered_in_the_folder_of_the_cache(given: DataConfig, home: Path, tmp_path: Path) -> None:
    check(given)
    assert [path.suffix for path in home.iterdir()] == [".json"]
    elsewhere = replace(given, cache="disk", cache_dir=str(tmp_path / "cache"))
    check(elsewhere)
    assert [path.suffix for path in (tmp_path / "cache/checked").iterdir()] == [".json"]
    for path in every_file(given):
        damage(path)
    check(elsewhere)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"version": "0", "files": {}}', "\xff", "entries", "sizes"])
def test_a_damaged_file_of_what_is_remembered_is_made_anew(given: DataConfig, home: Path, text: str) -> None:
    check(given)
    (path,) = home.iterdir()
    whole = path.read_bytes()
    content = json.loads(whole)
    if text in ("entries", "sizes"):
        spoil = {"entries": lambda entry: None, "sizes": lambda entry: [entry[0], "9", None]}[text]
        content["files"] = {name: spoil(entry) for name, entry in content["files"].items()}
        text = json.dumps(content)
    path.write_text(text, encoding="latin1")
    bad = Path(given.root or "") / "labels/test/seq8.png"
    kept = bad.read_bytes(), bad.stat()
    damage(bad)
    with pytest.raises(DataError, match=re.escape(str(bad))):
        check(given)
    bad.write_bytes(kept[0])
    os.utime(bad, ns=(kept[1].st_atime_ns, kept[1].st_mtime_ns))
    check(given)
    assert json.loads(path.read_bytes()) == json.loads(whole)


def test_without_a_place_to_remember_all_is_checked_and_nothing_is_said(given: DataConfig, home: Path) -> None:
    home.parent.parent.mkdir(exist_ok=True)
    home.parent.write_text("a file where the folder would be")
    for _ in range(2):
        assert check(given)[-1] == (COUNT, COUNT)
    damage(every_file(given)[0])
    with pytest.raises(DataError, match="must be a readable"):
        check(given)
