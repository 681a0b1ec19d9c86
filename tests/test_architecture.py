"""The rooms of the harness import each other in one direction, and docs/architecture.md shows it as it is."""

import runpy
import tomllib
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

import harness

ROOT = Path(harness.__file__).parent.parent
SCRIPT = runpy.run_path(str(ROOT / "docs" / "draw_architecture.py"))
NAMES = ("harness", "classmix_core")
LEVELS = (
    {"commands"},
    {"search"},
    {"cli"},
    {"inference", "distributed"},
    {"training"},
    {"config", "run_dir"},
    {"tracking"},
    {"atomic"},
    {"storage", "background"},
    {"errors"},
    {"classmix_core"},
)
"""A room may import those further down, and none beside it."""


def test_rooms_import_what_stands_further_down_alone() -> None:
    level = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
    arrows = SCRIPT["count_arrows"]()
    assert {room for arrow in arrows for room in arrow} == set(level)
    assert [arrow for arrow in arrows if level[arrow[0]] >= level[arrow[1]]] == []


def test_harness_has_few_modules_side_by_side_each_room_says_what_it_is_and_no_file_is_long() -> None:
    assert len(list((ROOT / "harness").glob("*.py"))) <= 10
    for package in NAMES:
        for file in (ROOT / package).rglob("*.py"):
            text = file.read_text()
            assert text.startswith('"""'), f"{file} says nothing of itself"
            assert text.count("\n") <= 300, file
            assert "options: Any" not in text, file


def test_the_wheel_has_every_package() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for package in NAMES
        for file in (ROOT / package).rglob("__init__.py")
    }
    assert set(listed) == there | {"harness.recipes", "harness.search_spaces"}


def test_the_drawing_in_the_page_is_what_the_script_makes_of_the_code() -> None:
    page = SCRIPT["PAGE"].read_text(encoding="utf-8")
    drawn = SCRIPT["with_drawing"](page, SCRIPT["draw"](SCRIPT["count_arrows"]()))
    assert page == drawn, "run: python docs/draw_architecture.py"


def test_each_file_that_imports_a_room_is_counted_once(tmp_path: Path) -> None:
    files = {
        "train.py": "from harness import errors\nfrom harness.search import study\nimport harness.search.space",
        "errors.py": "import torch",
        "search/study.py": "from harness import ENVIRONMENT, errors\nimport classmix_core.ema",
        "search/space.py": "def load():\n    from harness.errors import UserError\nfrom harness.search import study",
    }
    for name, text in files.items():
        (tmp_path / "harness" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "harness" / name).write_text(text)
    expected = {("commands", "errors"): 1, ("commands", "search"): 1, ("search", "errors"): 2}
    assert SCRIPT["count_arrows"](tmp_path) == expected | {("search", "classmix_core"): 1}


@pytest.mark.parametrize("length", [2, 4])
def test_an_arrow_that_follows_from_others_is_not_drawn(length: int) -> None:
    chain = list(pairwise("abcdef"[: length + 1]))
    arrows = Counter(dict.fromkeys(chain, 3) | {("a", "abcdef"[length]): 1})
    assert SCRIPT["draw"](arrows).count("-->") == length
