"""Your own photographs.

ROOT/classes.txt             a class name a line; line i (from 0) names label value i, 255 is ignored
ROOT/images/NAME.jpg         with ROOT/labels/NAME.png where there is a label
ROOT/unlabelled/NAME.jpg     optional
ROOT/val/images, val/labels, test/images, test/labels     optional
"""

import colorsys
from collections.abc import Sequence
from pathlib import Path

from classmix_core.config import DataConfig
from classmix_core.data.image_io import existing, image_files
from classmix_core.data.samples import EVALUATED, Data, FileSamples, Role, label_path, merge, pair_files
from classmix_core.data.splits import KEPT, hold_out, split_labelled
from classmix_core.errors import DataError

LAYOUT = "a folder of your own is ROOT/images/X.jpg with ROOT/labels/X.png for some, and ROOT/classes.txt"
BANDS = {"test": 0, "val": 1}
"""Where the hashes of the names lie that are held out; see `role_by_name`."""


def load(root: Path, config: DataConfig, roles: Sequence[Role]) -> Data:
    """Labelled and unlabelled out of images/ and unlabelled/; val/ and test/, or what is held out for them.

    Raises:
        DataError: something is missing or unusable in the folder, or too few labels to hold out of.
        InvalidValue: see `split_labelled`.
    """
    classes = read_classes(root)
    photos = load_labelled(root, config.ignore_value)
    missing = [part for part in EVALUATED if not (root / part).is_dir()]
    if missing and len(photos.names) < 2 + len(missing):
        folders = " and ".join(f"{part}/" for part in missing)
        rule = f"must label {2 + len(missing)} images or more where {folders} is missing"
        raise DataError(f"{root / 'labels'}: {rule}, not {len(photos.names)}.")
    # held out even if it is not wanted: what is learnt from must not depend on that
    bands: dict[str, int] = {role: band for role, band in BANDS.items() if role in missing}
    numbers, warnings = hold_out(photos.names, config, bands, keep=2 if missing else 1)
    pool = photos.subset(numbers[KEPT])
    labelled, rest = split_labelled(pool, config, len(pool.names))
    unlabelled = merge(pool.subset(rest), load_unlabelled(root))

    def evaluated(role: Role) -> FileSamples:
        return photos.subset(numbers[role]) if role in missing else load_part(root, role, config.ignore_value)

    val, test = (evaluated(role) if role in roles else None for role in EVALUATED)
    return Data(classes, palette(len(classes)), pool.subset(labelled), unlabelled, val, test, photos, warnings)


def read_classes(root: Path) -> tuple[str, ...]:
    """The class names.

    Raises:
        DataError: no such folder or file, fewer than 2 or more than 255 names, or a name twice.
    """
    path = existing(root, LAYOUT) / "classes.txt"
    if not path.is_file():
        raise DataError(f"{path}: the file must exist, with the name of a class on each line.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: must be a UTF-8 text file, but byte {error.start} is not.") from None
    names = tuple(line.strip() for line in lines if line.strip())
    if not 2 <= len(names) <= 255:
        raise DataError(f"{path}: must name 2 to 255 classes, but names {len(names)}.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: each class must be named once, but {twice!r} is there {names.count(twice)} times.")
    return names


def load_labelled(root: Path, ignore_value: int) -> FileSamples:
    """The images of images/ that have a label in labels/."""
    samples = pair_files(root / "images", root / "labels", root, ignore_value, LAYOUT)
    assert samples.label_paths is not None
    with_label = [i for i, path in enumerate(samples.label_paths) if path.is_file()]
    if not with_label:
        wanted = samples.label_paths[0]
        raise DataError(f"{root / 'labels'}: must hold a PNG for an image of images/, such as {wanted}, but has none.")
    return samples.subset(with_label)


def load_unlabelled(root: Path) -> FileSamples:
    """The images of images/ without a label, and those of unlabelled/."""
    images, labels = root / "images", root / "labels"
    paths = [path for path in image_files(images) if not label_path(path, images, labels).is_file()]
    if (root / "unlabelled").is_dir():
        paths += image_files(root / "unlabelled")
    return FileSamples([path.relative_to(root).as_posix() for path in paths], paths, None)


def load_part(root: Path, part: str, ignore_value: int) -> FileSamples:
    """val/ or test/."""
    return pair_files(root / part / "images", root / part / "labels", root, ignore_value, LAYOUT)


def palette(num_classes: int) -> tuple[tuple[int, int, int], ...]:
    """Colours whose hues differ by the golden ratio, so that neighbours in number never look alike."""
    colours = []
    for index in range(num_classes):
        value = 0.95 - 0.35 * (index % 3) / 2
        red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.75, value)
        colours.append((round(red * 255), round(green * 255), round(blue * 255)))
    return tuple(colours)
