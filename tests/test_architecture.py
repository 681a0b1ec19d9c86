"""docs/architecture.svg shows the code as it is; what docs/draw_architecture.py makes of circles and single files."""

import runpy
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import harness

ROOT = Path(harness.__file__).parent.parent
SCRIPT = ROOT / "docs" / "draw_architecture.py"


def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def write_tree(root: Path, **files: str) -> Path:
    """Modules by their name, with __ for a dot; every folder becomes a package."""
    for name, text in files.items():
        path = root / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        for folder in [path.parent, *path.parent.parents]:
            if folder == root:
                break
            (folder / "__init__.py").touch()
        path.write_text(text)
    return root


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_the_committed_drawing_is_what_the_script_makes_of_the_code() -> None:
    committed = (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    assert script()["draw"](ROOT) == committed, "run: python docs/draw_architecture.py"


def test_every_import_between_rooms_is_counted_once_for_each_file_and_module(tmp_path: Path) -> None:
    root = write_tree(
        tmp_path,
        harness__train="import harness.search.study\nfrom harness.search import study, space\nif '__main__': pass",
        harness__search__study="from harness.search.space import x\nfrom classmix_core.ema import y\nimport torch",
        harness__search__space="def x():\n    from classmix_core.ema import y",
        classmix_core__ema="y = 1",
    )
    module = script()
    modules = module["find_modules"](root)
    counts = module["count_imports"](modules, module["find_rooms"](modules))
    assert counts == {("harness.commands", "harness.search"): 2, ("harness.search", "classmix_core"): 2}


def test_an_arrow_that_follows_from_others_is_written_into_the_box(tmp_path: Path) -> None:
    root = write_tree(
        tmp_path,
        harness__train="from harness.search import study\nfrom harness import errors\nif '__main__': pass",
        harness__search__study="from harness import errors",
        harness__errors="",
        classmix_core__ema="",
    )
    svg = script()["draw"](root)
    assert "also imports: errors.py\u00a01" in texts(svg)
    assert svg.count('marker-end="url(#head)"') == 2
    assert "url(#against)" not in svg


def test_an_import_against_the_direction_is_drawn_in_red(tmp_path: Path) -> None:
    root = write_tree(
        tmp_path,
        harness__search__study="from harness.cli import a, b",
        harness__cli__a="from harness.search import study",
        harness__cli__b="",
        classmix_core__ema="",
    )
    assert script()["draw"](root).count('marker-end="url(#against)"') == 1
