"""classes.json in a run folder: the names and colours of what the network tells apart, known without the data set."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from classmix_core.data import Data
from harness.atomic import write_text
from harness.errors import UserError
from harness.training.drawing import Palette

CLASSES = "classes.json"


@dataclass(frozen=True)
class Classes:
    """K classes, in the order of the network's outputs."""

    names: tuple[str, ...]
    palette: Palette
    """RGB 0..255, one a class."""


def write_classes(folder: Path, data: Data) -> Path:
    """Write those of a data set, atomically; returns the file."""
    path = folder / CLASSES
    write_text(path, json.dumps(asdict(Classes(data.classes, data.palette)), indent=1))
    return path


def read_classes(path: Path) -> Classes:
    """Those of a run, from its classes.json.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise UserError(f"{path}: the file must exist, with the names and colours of the classes.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = tuple(str(name) for name in content["names"])
        palette = tuple((int(red), int(green), int(blue)) for red, green, blue in content["palette"])
        if not len(names) == len(palette) > 0 or not all(0 <= value <= 255 for colour in palette for value in colour):
            raise ValueError
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path}: must hold `names` and, for each, an RGB colour 0..255 in `palette`.") from None
    return Classes(names, palette)
