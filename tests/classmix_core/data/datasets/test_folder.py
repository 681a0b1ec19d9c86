"""Your own photographs, as a miniature."""

import re
from pathlib import Path

import pytest
from torchvision.io import write_png

from classmix_core.constants import IGNORE_INDEX
from classmix_core.data import load_data
from classmix_core.data.datasets import folder
from classmix_core.errors import DataError
from tests.classmix_core.data.roles import check, config, names
from tests.conftest import add_part, random_image, random_label

UNLABELLED = ["images/a/photo 04.jpg", "images/a/photo 07.jpg"]


def test_classes_are_the_lines_of_the_file_without_blank_ones(folder_root: Path) -> None:
    assert folder.read_classes(folder_root) == ("grass", "rock", "water")


def test_labelled_are_the_images_with_a_label_and_unlabelled_the_others_and_those_of_their_own_folder(
    folder_root: Path,
) -> None:
    labelled, unlabelled = folder.load_labelled(folder_root, IGNORE_INDEX), folder.load_unlabelled(folder_root)
    everything = [f"images/a/photo {index:02}.jpg" for index in range(12)]
    assert list(labelled.names) == [name for name in everything if name not in UNLABELLED]
    assert list(unlabelled.names) == [*UNLABELLED, *(f"unlabelled/extra{index}.png" for index in range(3))]
    assert unlabelled.label_paths is None


def test_the_folder_of_unlabelled_images_may_be_missing(folder_root: Path) -> None:
    (folder_root / "unlabelled").rename(folder_root / "elsewhere")
    assert list(folder.load_unlabelled(folder_root).names) == UNLABELLED


def test_the_ignore_value_of_the_files_becomes_ignore(folder_root: Path) -> None:
    kept, ignored = (folder.load_labelled(folder_root, value).label(0) for value in (IGNORE_INDEX, 2))
    assert ((kept == 2) == (ignored == IGNORE_INDEX)).all()
    assert (ignored == IGNORE_INDEX).any()
    assert ignored[ignored != IGNORE_INDEX].max() == 1


def test_val_and_test_are_read_where_they_are(folder_root: Path) -> None:
    add_part(folder_root, "val", 2)
    part = folder.load_part(folder_root, "val", IGNORE_INDEX)
    assert list(part.names) == ["val/images/0.png", "val/images/1.png"]
    assert part.label(1).shape == (9, 14)


@pytest.mark.parametrize("count", [2, 255])
def test_2_to_255_classes_are_taken(count: int, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("\n".join(map(str, range(count))))
    assert len(folder.read_classes(tmp_path)) == count


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "classes.txt: the file must exist, with the name of a class on each line"),
        ("\n \n", "classes.txt: must name 2 to 255 classes, but names 0"),
        ("one", "classes.txt: must name 2 to 255 classes, but names 1"),
        ("\n".join(map(str, range(256))), "classes.txt: must name 2 to 255 classes, but names 256"),
        ("a\nb\nc\nb\nb", "classes.txt: each class must be named once, but 'b' is there 3 times"),
    ],
)
def test_classes_that_cannot_be_used_are_refused_with_the_file_and_the_rule(
    text: str | None, message: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / message}.")):
        folder.read_classes(tmp_path)


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'nowhere'}: must exist; a folder of your own is")):
        folder.read_classes(tmp_path / "nowhere")


def test_missing_images_are_named(folder_root: Path) -> None:
    (folder_root / "images").rename(folder_root / "pictures")
    with pytest.raises(DataError, match="images: the folder must exist"):
        folder.load_labelled(folder_root, IGNORE_INDEX)


def test_labels_that_fit_no_image_are_refused_with_one_that_would(folder_root: Path) -> None:
    (folder_root / "labels/a").rename(folder_root / "labels/b")
    with pytest.raises(DataError, match=r"labels: must hold a PNG .*, such as .*labels/a/photo 00\.png, but has none"):
        folder.load_labelled(folder_root, IGNORE_INDEX)


@pytest.mark.parametrize("count", [2, 19, 255])
def test_the_palette_gives_every_class_a_colour_of_its_own(count: int) -> None:
    colours = folder.palette(count)
    assert len(set(colours)) == len(colours) == count
    assert all(0 <= value <= 255 for colour in colours for value in colour)


# ---- load


def test_a_folder_holds_out_val_and_test_of_its_labelled_images(folder_root: Path) -> None:
    given = config(folder_root, name="folder", labelled=3)
    data = load_data(given)
    found = names(data)
    assert [len(found[role]) for role in ("labelled", "unlabelled", "val", "test")] == [3, 0 + 2 + 3, 2, 5]
    everything = [name for listed in found.values() for name in listed]
    assert len(set(everything)) == len(everything) == 15
    assert all(listed == sorted(listed) for listed in found.values())
    assert data.classes == ("grass", "rock", "water")
    assert len(data.palette) == 3
    assert check(data, given)[-1] == (15, 15)


def test_the_hold_out_depends_on_the_split_seed_and_not_on_how_many_are_labelled(folder_root: Path) -> None:
    def held(seed: int, labelled: int) -> tuple[tuple[str, ...], ...]:
        data = load_data(config(folder_root, name="folder", split_seed=seed, labelled=labelled))
        return tuple(data.val.names), tuple(data.test.names)

    assert held(1, 2) == held(1, 5)
    assert len({held(seed, 2) for seed in range(8)}) > 4


@pytest.mark.parametrize("has_own_test", [False, True])
def test_labelling_more_and_adding_images_moves_none_into_or_out_of_val_and_test(
    folder_root: Path, has_own_test: bool
) -> None:
    """The loop of the guide: correct a prediction, make it a label, train again."""
    if has_own_test:
        add_part(folder_root, "test", 1)
    given = config(folder_root, name="folder")
    first = load_data(given)
    assert first.warnings == ()
    before = names(first)
    for name in UNLABELLED:
        label = folder_root / "labels/a" / Path(name).with_suffix(".png").name
        write_png(random_label(4, 9, 14, 3), str(label))
    for index in range(20, 40):
        write_png(random_image(index, 9, 14), str(folder_root / f"images/new {index}.png"))
        write_png(random_label(index, 9, 14, 3), str(folder_root / f"labels/new {index}.png"))
    after = names(load_data(given))
    for role in ("labelled", "val", "test"):
        assert set(before[role]) <= set(after[role]), role
        assert len(before[role]) < len(after[role]) or (role == "test" and has_own_test)


def test_an_image_that_stands_in_is_named_in_a_warning(folder_root: Path) -> None:
    for path in sorted((folder_root / "labels/a").iterdir())[4:]:
        path.unlink()
    with_warning = [
        seed for seed in range(8) if load_data(config(folder_root, name="folder", split_seed=seed)).warnings
    ]
    assert with_warning
    (warning,) = load_data(config(folder_root, name="folder", split_seed=with_warning[0])).warnings
    assert "images/a/photo 0" in warning
    assert "data.split_seed" in warning


def test_a_folder_with_val_and_test_holds_nothing_out(folder_root: Path) -> None:
    add_part(folder_root, "val", 2)
    add_part(folder_root, "test", 1)
    found = names(load_data(config(folder_root, name="folder")))
    assert [len(found[role]) for role in ("labelled", "unlabelled", "val", "test")] == [10, 5, 2, 1]


def test_a_folder_reads_no_mask_of_what_serves_unlabelled(folder_root: Path) -> None:
    given = config(folder_root, name="folder", labelled=3)
    data = load_data(given)
    for name in data.unlabelled.names:
        label = folder_root / "labels" / Path(name).relative_to(Path(name).parts[0]).with_suffix(".png")
        if label.is_file():
            label.write_text("not a mask")
    assert check(load_data(given), given)[-1] == (15, 15)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_folder_needs_4_labelled_images_to_hold_out_val_and_test(count: int, folder_root: Path) -> None:
    for path in sorted((folder_root / "labels/a").iterdir())[count:]:
        path.unlink()
    given = config(folder_root, name="folder")
    if count == 4:
        assert [len(load_data(given).roles()[role].names) for role in ("labelled", "val", "test")] == [2, 1, 1]
        return
    with pytest.raises(DataError, match=rf"labels: must label .* or more .*not {count}\."):
        load_data(given)


@pytest.mark.parametrize("count", [2, 3])
def test_a_folder_needs_3_labelled_images_where_only_test_is_held_out(count: int, folder_root: Path) -> None:
    add_part(folder_root, "val", 2)
    for path in sorted((folder_root / "labels/a").iterdir())[count:]:
        path.unlink()
    given = config(folder_root, name="folder")
    if count == 3:
        assert [len(load_data(given).roles()[role].names) for role in ("labelled", "val", "test")] == [2, 2, 1]
        return
    with pytest.raises(DataError, match=r"labels: must label 3 .* where .*test.* not 2\."):
        load_data(given)
