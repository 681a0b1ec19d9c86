"""What the guides name is there: files, functions, links, shipped recipes and spaces."""

import ast
import re
from pathlib import Path

import pytest

import harness

ROOT = Path(harness.__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(page for page in ROOT.glob("docs/*.md") if page.name != "log.md")])


def defined(tree: ast.Module) -> set[str]:
    """Functions, classes and methods (Class.method) of a module."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return names


def missing(page: str) -> set[str]:
    """Files and functions that a page names, in backticks and in rows of tables, and that are not there."""
    named = re.findall(r"`((?!runs/)(?:\w+/)+\w+\.(?:py|yaml))`", page)
    found = {name for name in named if not (ROOT / name).is_file()}
    for name, functions in re.findall(r"\| `([\w/]+\.py)` \| ((?:`[\w.]+`(?:, )?)+) \|", page):
        if name not in found:
            known = defined(ast.parse((ROOT / name).read_text()))
            found |= {f"{name}: {one}" for one in re.findall(r"[\w.]+", functions) if one not in known}
    for name, function in re.findall(r"`([\w/]+\.py)::(\w+)`", page):
        if not (ROOT / name).is_file() or function not in defined(ast.parse((ROOT / name).read_text())):
            found.add(f"{name}::{function}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_files_and_functions_that_a_page_names_exist(page: Path) -> None:
    assert missing(page.read_text()) == set()


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_of_a_page_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_recipes_and_spaces_that_a_page_uses_by_name_are_shipped(page: Path) -> None:
    recipes = re.findall(r"--(?:config|train) (\w+)(?=[ `\n])", page.read_text())
    spaces = re.findall(r"--space (\w+)(?=[ `\n])", page.read_text())
    used = {f"recipes/{name}.yaml" for name in recipes} | {f"search_spaces/{name}.yaml" for name in spaces}
    placeholders = {"recipes/FILE.yaml", "recipes/NAME.yaml"}
    assert used - placeholders <= {path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/*.yaml")}


def test_a_name_that_is_not_there_is_missed() -> None:
    assert missing("see `harness/nowhere.py`") == {"harness/nowhere.py"}
    assert missing("`tests/test_docs.py::test_nothing`") == {"tests/test_docs.py::test_nothing"}
    row = "| stop | `harness/atomic.py` | `atomic_file`, `no_such_function` |"
    assert missing(row) == {"harness/atomic.py: no_such_function"}
