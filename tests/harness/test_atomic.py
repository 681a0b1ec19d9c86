"""Files that are whole or not there, and their format."""

import json
from pathlib import Path

import pytest

from harness.atomic import FORMAT, atomic_file, publish_folder, read_json, write_json
from harness.errors import UserError


def test_a_file_that_fails_half_way_leaves_the_old_one_and_no_part(tmp_path: Path) -> None:
    path = tmp_path / "sub/file.txt"
    with atomic_file(path) as part:
        part.write_text("old")

    def interrupted() -> None:
        with atomic_file(path) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]


def test_a_folder_gets_its_name_with_all_its_files(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "part/a").write_text("x")
    publish_folder(tmp_path / "part", tmp_path / "final")
    assert (tmp_path / "final/a").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_json_comes_back_without_its_format(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": [1, 2.5, None, "ü"]})
    assert read_json(tmp_path / "x.json") == {"a": [1, 2.5, None, "ü"]}
    assert json.loads((tmp_path / "x.json").read_text())["format"] == FORMAT


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"a": 1}', ("format must be 3, but got none", "another version or program")),
        ('{"format": 0}', ("format must be 3, but got 0", "another version or program")),
        ('{"format": 1}', ("format must be 3, but got 1", "another version or program")),
        ('{"format": "x"}', ("format must be 3, but got 'x'", "another version or program")),
        ("[1, 2]", ("a JSON mapping", "[1, 2]")),
        ('{"format": 2', ("must be a JSON file",)),
        ("", ("must be a JSON file",)),
    ],
)
def test_another_format_is_one_line_with_the_file(content: str, words: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(UserError) as refused:
        read_json(path)
    message = str(refused.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message, message
