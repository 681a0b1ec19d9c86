"""Draw docs/architecture.svg from the code: who imports whom.

    python docs/draw_architecture.py

A room is a folder of the package `harness` or `classmix_core`; the files that lie directly in `harness` are the
commands (those that run as a program) and single files. Each room stands above all that it imports. An arrow says how
many imports there are; one that follows from other arrows is not drawn but written into the box. Red is an import
against the direction of the others: there is none as long as the rooms import each other in one direction.

tests/test_architecture.py compares the committed drawing with what this script makes.
"""

import ast
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise, permutations
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("harness", "classmix_core")
COMMANDS = "commands"
WIDTH, MARGIN, GAP, ROW_GAP = 900, 26, 22, 56
MONO, SANS = 6.65, 6.5  # pixels a character, of the two small fonts
LINE, TITLE, PADDING = 15, 22, 11
WIRE = 18  # pixels that an arrow takes where it passes between boxes

Imports = Counter[tuple[str, str]]

STYLE = """
  text { font-family: system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; }
  text { font-size: 12px; fill: #24292f; }
  .page { fill: #ffffff; }
  .frame { fill: #f6f8fa; stroke: #d0d7de; }
  .box { fill: #ffffff; stroke: #57606a; }
  .core .box { stroke: #0969da; }
  .title { font-weight: 600; font-size: 14px; }
  .package { font-weight: 600; font-size: 13px; fill: #57606a; }
  .files { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 11px; }
  .note { fill: #57606a; }
  .arrow { fill: none; stroke: #6e7781; stroke-width: 1.4; }
  .head { fill: #6e7781; }
  .wide { stroke: #0969da; stroke-width: 2.4; }
  .wide-head { fill: #0969da; }
  .against { stroke: #cf222e; stroke-dasharray: 5 3; }
  .against-head { fill: #cf222e; }
  .count { font-size: 11px; text-anchor: middle; }
  .pill { fill: #f6f8fa; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .page { fill: #0d1117; }
    .frame { fill: #161b22; stroke: #30363d; }
    .box { fill: #0d1117; stroke: #8b949e; }
    .core .box { stroke: #58a6ff; }
    .package, .note { fill: #9da7b3; }
    .arrow { stroke: #8b949e; }
    .head { fill: #8b949e; }
    .wide { stroke: #58a6ff; }
    .wide-head { fill: #58a6ff; }
    .against { stroke: #ff7b72; }
    .against-head { fill: #ff7b72; }
    .pill { fill: #161b22; }
  }
"""


# -- what imports what ------------------------------------------------------------------------------------------------


def find_modules(root: Path) -> dict[str, Path]:
    """Every module of the packages by its full name; a package goes by its own name."""
    files = (file for package in PACKAGES for file in sorted((root / package).rglob("*.py")))
    return {".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def find_rooms(modules: Mapping[str, Path]) -> dict[str, str]:
    """The room of each module, such as harness.search; the package `harness` itself is none."""
    rooms = {}
    for name, file in modules.items():
        package, *inner = name.split(".")
        in_folder = len(inner) > 1 or file.name == "__init__.py"
        if inner and in_folder:
            rooms[name] = f"{package}.{inner[0]}"
        elif package != PACKAGES[0]:
            rooms[name] = package
        elif inner:
            is_command = "__main__" in file.read_text(encoding="utf-8")
            rooms[name] = f"{package}.{COMMANDS}" if is_command else name
    return rooms


def imported(file: Path, modules: Mapping[str, Path]) -> set[str]:
    """The modules of ours that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in modules else node.module)
    return found & set(modules)


def count_imports(modules: Mapping[str, Path], rooms: Mapping[str, str]) -> Imports:
    """How often a file of one room imports a module of another."""
    counts: Imports = Counter()
    for name, room in rooms.items():
        for other in imported(modules[name], modules):
            if other in rooms and rooms[other] != room:
                counts[room, rooms[other]] += 1
    return counts


# -- levels -----------------------------------------------------------------------------------------------------------


def reachable(start: str, edges: Iterable[tuple[str, str]]) -> set[str]:
    below = defaultdict(list)
    for source, target in edges:
        below[source].append(target)
    found: set[str] = set()
    todo = list(below[start])
    while todo:
        room = todo.pop()
        if room not in found:
            found.add(room)
            todo += below[room]
    return found


def against_the_direction(counts: Imports) -> set[tuple[str, str]]:
    """The fewest imports, taken one by one, without which no room imports itself by way of others."""
    left, removed = dict(counts), set()
    while circle := [edge for edge in left if edge[0] in reachable(edge[1], left)]:
        weakest = min(circle, key=lambda edge: (left[edge], edge))
        removed.add(weakest)
        del left[weakest]
    return removed


def find_levels(rooms: Iterable[str], edges: Iterable[tuple[str, str]]) -> dict[str, int]:
    """0 for what imports no other room; else one above the highest that is imported."""
    edges = list(edges)
    levels = dict.fromkeys(sorted(rooms), 0)
    for _ in levels:
        for source, target in edges:
            levels[source] = max(levels[source], levels[target] + 1)
    return levels


def not_implied(edges: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without those that follow from a longer way."""
    edges = sorted(edges)
    return [
        (source, target)
        for source, target in edges
        if not any(target in reachable(other, edges) for start, other in edges if start == source and other != target)
    ]


# -- boxes ------------------------------------------------------------------------------------------------------------


@dataclass
class Box:
    """A room, or the place where an arrow passes through a level (without a title)."""

    title: str = ""
    lines: list[tuple[str, str]] = field(default_factory=list)
    """(style, text)"""
    x: float = 0
    y: float = 0
    width: float = WIRE
    height: float = 0

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


def merge_single_files(
    rooms: Mapping[str, str], modules: Mapping[str, Path], levels: Mapping[str, int]
) -> dict[str, str]:
    """Rooms in which the single files of one level share a box."""
    single = {room for name, room in rooms.items() if name == room and modules[name].name != "__init__.py"}
    merged = defaultdict(list)
    for room in sorted(single):
        merged[levels[room]].append(room.split(".")[1] + ".py")
    return {
        name: f"harness.{', '.join(merged[levels[room]])}" if room in single else room for name, room in rooms.items()
    }


def summary(file: Path) -> str:
    """The first sentence of a module's docstring, up to a semicolon."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).split(". ")[0].split(";")[0].rstrip(".")


def make_box(room: str, rooms: Mapping[str, str], modules: Mapping[str, Path], also: str, width: float) -> Box:
    """A folder with what it says of itself and its files; the commands; or single files, which the title names."""
    package, _, name = room.partition(".")
    home = modules.get(room)
    is_folder = home is not None and home.name == "__init__.py"
    lines = []
    if home and is_folder:
        lines += [("note", line) for line in wrap(summary(home), width, SANS)]
    if is_folder or name == COMMANDS:
        depth = 2 if is_folder and name else 1
        inside = [module.split(".")[depth:] for module, its in rooms.items() if its == room]
        folders = {parts[0] for parts in inside if len(parts) > 1}
        files = sorted({parts[0] + ("/" if parts[0] in folders else "") for parts in inside if parts})
        lines += [("files", line) for line in wrap(" ".join(files), width, MONO)]
    lines += [("note", line) for line in wrap(also, width, SANS)]
    title = name if not is_folder else f"{name}/" if name else f"{package}/*.py"
    return Box(title, lines, width=width, height=TITLE + LINE * len(lines) + PADDING)


def wrap(text: str, width: float, character: float) -> list[str]:
    return textwrap.wrap(text, int((width - 2 * PADDING) / character), break_long_words=False, break_on_hyphens=False)


# -- the drawing ------------------------------------------------------------------------------------------------------


@dataclass
class Part:
    """The rooms of one package, laid out in rows, and its arrows."""

    boxes: dict[str, Box]
    rows: list[list[str]]
    """From top to bottom; names of boxes, those of arrows that pass among them."""
    chains: list[tuple[str, list[str]]]
    """The count, and the boxes that an arrow goes through."""
    against: list[tuple[str, str, str]]
    bottom: float = 0


def lay_out(package: str, counts: Imports, rooms: Mapping[str, str], modules: Mapping[str, Path], top: float) -> Part:
    own = sorted({room for room in rooms.values() if room.split(".")[0] == package})
    inner = Counter({edge: n for edge, n in counts.items() if set(edge) <= set(own)})
    against = against_the_direction(inner)
    downward = [edge for edge in sorted(inner) if edge not in against]
    levels, drawn = find_levels(own, downward), not_implied(downward)
    highest = max(levels.values())
    rows: list[list[str]] = [[] for _ in range(highest + 1)]
    for room in own:
        rows[highest - levels[room]].append(room)
    chains = []
    for source, target in drawn:
        chain = [source]
        for level in range(levels[source] - 1, levels[target], -1):
            chain.append(f"{source}>{target}>{level}")
            rows[highest - level].append(chain[-1])
        chains.append((str(inner[source, target]), [*chain, target]))
    boxes = make_boxes(rows, own, counts, drawn, against, rooms, modules)
    links = [pair for _, chain in chains for pair in pairwise(chain)]
    order_rows(rows, links)
    part = Part(boxes, rows, chains, [(*edge, str(inner[edge])) for edge in sorted(against)])
    y = top
    for row in rows:
        height = max(boxes[name].height for name in row)
        gap = min(60, (WIDTH - 4 * MARGIN - sum(boxes[name].width for name in row)) / max(1, len(row) - 1))
        x = (WIDTH - sum(boxes[name].width for name in row) - gap * (len(row) - 1)) / 2
        for name in row:
            box = boxes[name]
            box.x, box.y = x, y
            if not box.title:
                box.height = height
            x += box.width + gap
        y += height + ROW_GAP
    part.bottom = y - ROW_GAP
    return part


def make_boxes(
    rows: Iterable[list[str]],
    own: Iterable[str],
    counts: Imports,
    drawn: Iterable[tuple[str, str]],
    against: Iterable[tuple[str, str]],
    rooms: Mapping[str, str],
    modules: Mapping[str, Path],
) -> dict[str, Box]:
    boxes, shown = {}, {*drawn, *against}
    for row in rows:
        real = [name for name in row if name in own]
        free = WIDTH - 4 * MARGIN - GAP * (len(row) - 1) - WIRE * (len(row) - len(real))
        for name in row:
            if name not in real:
                boxes[name] = Box()
                continue
            below: Counter[str] = Counter()
            for (source, target), number in counts.items():
                if source == name and (source, target) not in shown:
                    package, _, room = target.partition(".")
                    below[room if package == name.split(".")[0] else package] += number
            also = " · ".join(f"{room}\u00a0{below[room]}" for room in sorted(below))
            boxes[name] = make_box(
                name, rooms, modules, f"also imports: {also}" if also else "", min(400, free / len(real))
            )
    return boxes


def order_rows(rows: list[list[str]], links: list[tuple[str, str]]) -> None:
    """Put each row into the order in which the fewest arrows cross."""

    def crossings() -> tuple[int, float]:
        place = {name: (index + 0.5) / len(row) for row in rows for index, name in enumerate(row)}
        level = {name: index for index, row in enumerate(rows) for name in row}
        crossed = sum(
            level[a] == level[c] and (place[a] - place[c]) * (place[b] - place[d]) < 0
            for index, (a, b) in enumerate(links)
            for c, d in links[:index]
        )
        return crossed, round(sum(abs(place[a] - place[b]) for a, b in links), 6)

    for _ in range(4):
        for row in rows:
            if len(row) > 6:  # too many orders to try them all
                row.sort()
                continue
            best = None
            for order in permutations(sorted(row)):
                row[:] = order
                value = crossings()
                if best is None or value < best[0]:
                    best = value, order
            assert best
            row[:] = best[1]


def draw_part(part: Part) -> list[str]:
    out = []
    leaving, arriving = defaultdict(list), defaultdict(list)
    for index, (_, chain) in enumerate(part.chains):
        leaving[chain[0]].append((part.boxes[chain[1]].middle, index))
        arriving[chain[-1]].append((part.boxes[chain[-2]].middle, index))

    def port(name: str, ends: Mapping[str, list[tuple[float, int]]], index: int) -> float:
        """Where on a box an arrow begins or ends: side by side in the order of their other ends."""
        order = [number for _, number in sorted(ends[name])]
        box = part.boxes[name]
        return box.x + box.width * (order.index(index) + 1) / (len(order) + 1)

    pills = []
    for index, (count, chain) in enumerate(part.chains):
        x, first = port(chain[0], leaving, index), part.boxes[chain[0]]
        y = first.y + first.height
        path = [f"M{x:.0f} {y:.0f}"]
        for name in chain[1:]:
            box = part.boxes[name]
            to = box.middle if not box.title else port(name, arriving, index)
            end = box.y - (0 if not box.title else 7)
            half = (y + end) / 2
            path.append(f"C{x:.0f} {half:.0f} {to:.0f} {half:.0f} {to:.0f} {end:.0f}")
            x, y = to, end
            if not box.title:
                y = box.y + box.height
                path.append(f"L{x:.0f} {y:.0f}")
        out.append(f'<path class="arrow" d="{" ".join(path)}" marker-end="url(#head)"/>')
        pills += pill(x, y - 11, count)
    for source, target, count in part.against:
        low, high = part.boxes[source], part.boxes[target]
        x, y, to = low.x + low.width - 16, low.y, high.x + high.width - 16
        end = high.y + high.height + 7
        out.append(f'<path class="arrow against" d="M{x:.0f} {y:.0f} L{to:.0f} {end:.0f}" marker-end="url(#against)"/>')
        pills += pill((x + to) / 2, (y + end) / 2, count)
    for box in (box for box in part.boxes.values() if box.title):
        out.append(
            f'<rect class="box" x="{box.x:.0f}" y="{box.y:.0f}" '
            f'width="{box.width:.0f}" height="{box.height:.0f}" rx="6"/>'
        )
        out.append(f'<text class="title" x="{box.x + PADDING:.0f}" y="{box.y + 19:.0f}">{escape(box.title)}</text>')
        for number, (style, line) in enumerate(box.lines):
            y = box.y + TITLE + LINE * (number + 1)
            out.append(f'<text class="{style}" x="{box.x + PADDING:.0f}" y="{y:.0f}">{escape(line)}</text>')
    return out + pills


def pill(x: float, y: float, count: str) -> list[str]:
    width = 8 + 7 * len(count)
    return [
        f'<rect class="pill" x="{x - width / 2:.0f}" y="{y - 8:.0f}" width="{width}" height="15" rx="7"/>',
        f'<text class="count" x="{x:.0f}" y="{y + 4:.0f}">{count}</text>',
    ]


def marker(name: str, style: str) -> str:
    return (
        f'<marker id="{name}" viewBox="0 0 8 8" refX="1" refY="4" markerWidth="8" markerHeight="8" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path class="{style}" d="M0 0.5 L8 4 L0 7.5 z"/></marker>'
    )


def frame(part: Part, package: str, top: float) -> list[str]:
    return [
        f'<rect class="frame" x="{MARGIN}" y="{top:.0f}" width="{WIDTH - 2 * MARGIN}" '
        f'height="{part.bottom - top + MARGIN:.0f}" rx="10"/>',
        f'<text class="package" x="{2 * MARGIN}" y="{top + 22:.0f}">{package}/</text>',
    ]


def draw(root: Path = ROOT) -> str:
    """The drawing as the text of an SVG file."""
    modules = find_modules(root)
    rooms = find_rooms(modules)
    counts = count_imports(modules, rooms)
    downward = set(counts) - against_the_direction(counts)
    rooms = merge_single_files(rooms, modules, find_levels(set(rooms.values()), downward))
    counts = count_imports(modules, rooms)
    between = {edge: number for edge, number in counts.items() if edge[0].split(".")[0] != edge[1].split(".")[0]}
    down = sum(number for edge, number in between.items() if edge[0].startswith(PACKAGES[0]))
    up = sum(between.values()) - down

    tops, parts, top = [], [], MARGIN
    for package in PACKAGES:
        tops.append(top)
        parts.append(lay_out(package, counts, rooms, modules, top + 36))
        top = parts[-1].bottom + MARGIN + ROW_GAP
    height = top - ROW_GAP + MARGIN
    start, end, x = parts[0].bottom + MARGIN, tops[1] - 7, WIDTH / 2
    label = f"{down} imports" + (f", and {up} upwards" if up else "")
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" role="img" aria-label="Which room of the code imports which">',
        f"<style>{STYLE}</style>",
        "<defs>",
        marker("head", "head"),
        marker("wide", "wide-head"),
        marker("against", "against-head"),
        "</defs>",
        f'<rect class="page" width="{WIDTH}" height="{height:.0f}" rx="12"/>',
    ]
    for part, package, at in zip(parts, PACKAGES, tops, strict=True):
        style = "core" if package != PACKAGES[0] else "harness"
        out += [f'<g class="{style}">', *frame(part, package, at), *draw_part(part), "</g>"]
    out += [
        f'<path class="arrow wide" d="M{x:.0f} {start:.0f} L{x:.0f} {end:.0f}" marker-end="url(#wide)"/>',
        f'<text class="note" x="{x + 12:.0f}" y="{(start + end) / 2 + 4:.0f}">{label}</text>',
        "</svg>",
    ]
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "architecture.svg").write_text(draw(), encoding="utf-8")
