"""Draw the rooms and their imports into docs/architecture.md, from the code: python docs/draw_architecture.py

A room is a folder of `harness` or `classmix_core`; the files that lie directly in `harness` are the commands and single
files. An arrow says how many files of a room import the other; one that follows from two others is left out.
"""

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
START, END = "```mermaid\n", "```\n"
COMMANDS = ("train", "tune", "predict", "ui", "sync")

Arrows = Counter[tuple[str, str]]


def room(module: str) -> str:
    """Of a module by its dotted name; `harness` itself, which sets the environment, is none."""
    package, *inner = module.split(".")
    if package == "classmix_core":
        return package
    return "" if not inner else "commands" if inner[0] in COMMANDS else inner[0]


def imported_modules(file: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {
                f"{node.module}.{alias.name}" if node.module == "harness" else node.module for alias in node.names
            }
    return names


def count_arrows(root: Path = ROOT) -> Arrows:
    """How many files of one room import another."""
    arrows: Arrows = Counter()
    known = {"commands", "classmix_core", *(path.stem for path in (root / "harness").iterdir())}
    for file in sorted((root / "harness").rglob("*.py")):
        here = room(".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"))
        ours = {room(name) for name in imported_modules(file) if name.startswith(("harness.", "classmix_core"))}
        arrows.update((here, there) for there in ours & known - {here} if here)
    return arrows


def reached(arrows: Arrows, start: str) -> set[str]:
    """The rooms below a room."""
    below = {there for here, there in arrows if here == start}
    return below.union(*(reached(arrows, one) for one in below))


def draw(arrows: Arrows) -> str:
    """The arrows that do not follow from others, as a Mermaid flowchart."""
    lines = ["flowchart TD"]
    for (here, there), count in sorted(arrows.items()):
        if not any(there in reached(arrows, other) for start, other in arrows if start == here and other != there):
            lines.append(f"    {here} -->|{count}| {there}")
    return "\n".join(lines) + "\n"


def with_drawing(page: str, drawing: str) -> str:
    before, rest = page.split(START, 1)
    return before + START + drawing + END + rest.split(END, 1)[1]


if __name__ == "__main__":
    PAGE.write_text(with_drawing(PAGE.read_text(encoding="utf-8"), draw(count_arrows())), encoding="utf-8")
