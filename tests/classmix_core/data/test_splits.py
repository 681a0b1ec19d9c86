"""Which images are labelled: seeded, sorted, disjoint, complete; and lists of names."""

import re
from pathlib import Path

import pytest

from classmix_core.data.splits import choose, find_names, read_names, resolve_amount
from classmix_core.errors import DataError, InvalidValue

NAMES = ["a/1.png", "a/2.png", "b/1.png", "c.jpg"]
SOURCE = Path("lists/labelled.txt")


@pytest.mark.parametrize("amount", [0, 1, 7, 22, 23])
def test_the_drawn_and_the_others_are_sorted_disjoint_and_everything(amount: int) -> None:
    drawn, others = choose(23, amount, seed=4)
    assert len(drawn) == amount
    assert drawn == sorted(drawn)
    assert others == sorted(others)
    assert sorted(drawn + others) == list(range(23))


def test_the_seed_decides_what_is_drawn() -> None:
    assert choose(23, 7, seed=4) == choose(23, 7, seed=4)
    assert len({tuple(choose(23, 7, seed=seed)[0]) for seed in range(20)}) == 20


def test_a_smaller_draw_of_one_seed_is_part_of_a_larger_one() -> None:
    assert set(choose(23, 5, seed=4)[0]) < set(choose(23, 9, seed=4)[0])


def test_every_image_is_drawn_equally_often() -> None:
    draws = [index for seed in range(2000) for index in choose(6, 2, seed)[0]]
    for index in range(6):
        assert abs(draws.count(index) / 2000 - 1 / 3) < 4 * (2 / 9 / 2000) ** 0.5


@pytest.mark.parametrize(
    ("wanted", "available", "amount"),
    [(1, 23, 1), (23, 23, 23), (1.0, 23, 23), (0.5, 23, 12), (0.125, 23, 3), (0.001, 23, 1), (0.1, 5, 1), (1, 1, 1)],
)
def test_a_count_stands_for_itself_and_a_share_is_rounded_to_at_least_1(
    wanted: int | float, available: int, amount: int
) -> None:
    assert resolve_amount(wanted, available, "labelled") == amount


def test_more_than_there_are_is_refused_with_the_number_that_there_is() -> None:
    with pytest.raises(InvalidValue, match=r"`labelled <= 23 \(.*\)` must hold, but got 24\.") as caught:
        resolve_amount(24, 23, "labelled")
    assert caught.value.field == "labelled"


def test_names_are_the_first_column_of_the_lines(tmp_path: Path) -> None:
    path = tmp_path / "labeled.txt"
    path.write_text(
        "JPEGImages/1.jpg SegmentationClass/1.png\n\nJPEGImages/2.jpg\tSegmentationClass/2.png\r\n 3.png \n"
    )
    assert read_names(path) == ["JPEGImages/1.jpg", "JPEGImages/2.jpg", "3.png"]


def test_a_missing_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "no.txt"
    expected = f"`split_file is an existing file` must hold, but got {str(path)!r}."
    with pytest.raises(InvalidValue, match=re.escape(expected)) as caught:
        read_names(path)
    assert caught.value.field == "split_file"


@pytest.mark.parametrize("text", ["", "\n  \n"])
def test_an_empty_list_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "empty.txt"
    path.write_text(text)
    with pytest.raises(InvalidValue, match=r"split_file names at least one image.*empty\.txt") as caught:
        read_names(path)
    assert caught.value.field == "split_file"


def test_names_are_found_by_number_sorted() -> None:
    assert find_names(["c.jpg", "a/2.png"], NAMES, SOURCE) == [1, 3]
    assert find_names(NAMES[::-1], NAMES, SOURCE) == [0, 1, 2, 3]


def test_a_name_that_the_data_set_has_not_is_refused_with_one_that_it_has() -> None:
    expected = "labelled.txt: names must be in the data set (such as 'a/1.png'), but got 'b/2.png'."
    with pytest.raises(DataError, match=re.escape(expected)):
        find_names(["a/1.png", "b/2.png"], NAMES, SOURCE)


def test_a_name_that_is_there_twice_is_refused() -> None:
    expected = "labelled.txt: a name must be there once, but 2 are there again."
    with pytest.raises(DataError, match=re.escape(expected)):
        find_names(["a/1.png", "c.jpg", "a/1.png", "c.jpg"], NAMES, SOURCE)
