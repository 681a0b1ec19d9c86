"""Which images are labelled: seeded, sorted, disjoint, complete; lists of names; and who is held out by name."""

import hashlib
import random
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from classmix_core.config import DataConfig
from classmix_core.data.splits import KEPT, choose, find_names, hash_fraction, hold_out, read_names, resolve_amount
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


# ---- held out by name

BOTH = {"test": 0, "val": 1}
UNHURRIED = settings(deadline=None, max_examples=40)
"""Where an image stands in, 1000 seeds are tried."""
SETS = st.sets(st.text(min_size=1, max_size=8), min_size=4, max_size=60)


def held(names: list[str], seed: int = 0, holdout: float = 0.2, keep: int = 2) -> tuple[dict[str, str], bool]:
    """The role of each name, and whether an image stands in."""
    config = DataConfig(split_seed=seed, holdout=holdout)
    numbers, warnings = hold_out(names, config, BOTH, keep)
    roles = {names[index]: role for role, own in numbers.items() for index in own}
    assert sum(map(len, numbers.values())) == len(names) == len(roles)
    assert all(own == sorted(own) for own in numbers.values())
    return roles, bool(warnings)


def test_the_place_of_a_name_is_the_start_of_its_sha256() -> None:
    digest = hashlib.sha256("7/images/caf\u00e9.jpg".encode()).hexdigest()
    assert hash_fraction("images/caf\u00e9.jpg", 7) == pytest.approx(int(digest[:16], 16) / 2**64, abs=2**-53)
    assert hash_fraction(unicodedata.normalize("NFD", "images/caf\u00e9.jpg"), 7) == hash_fraction(
        "images/caf\u00e9.jpg", 7
    )
    assert hash_fraction("images/\udce9.jpg", 7) != hash_fraction("images/\udcea.jpg", 7), "names that are not UTF-8"


def test_shares_are_held_out_of_many() -> None:
    names = [f"images/{index}.jpg" for index in range(10_000)]
    roles, warned = held(names, holdout=0.2)
    for role, share in (("test", 0.2), ("val", 0.2), (KEPT, 0.6)):
        assert abs(list(roles.values()).count(role) / 10_000 - share) < 4 * (share * (1 - share) / 10_000) ** 0.5
    for name, role in roles.items():
        place = hash_fraction(name, 0)
        assert role == ("test" if place < 0.2 else "val" if place < 0.4 else KEPT)
    assert not warned


@UNHURRIED
@given(names=SETS, more=SETS, seed=st.integers(0, 99), holdout=st.floats(0.05, 0.45))
def test_more_images_move_none_between_roles_unless_one_stood_in(
    names: set[str], more: set[str], seed: int, holdout: float
) -> None:
    before, stood_in = held(sorted(names), seed, holdout)
    assume(not stood_in)
    after, stands_in = held(sorted(names | more), seed, holdout)
    assert not stands_in
    assert {name: after[name] for name in before} == before


@UNHURRIED
@given(names=SETS.map(sorted), seed=st.integers(0, 99), order=st.randoms(use_true_random=False))
def test_the_order_of_the_files_changes_nothing(names: list[str], seed: int, order: random.Random) -> None:
    shuffled = order.sample(names, len(names))
    assert held(shuffled, seed) == held(names, seed)


@UNHURRIED
@given(names=SETS.map(sorted), seed=st.integers(0, 99), holdout=st.floats(1e-6, 0.499), keep=st.integers(0, 2))
def test_no_role_is_empty_and_what_stands_in_is_said(names: list[str], seed: int, holdout: float, keep: int) -> None:
    roles, stands_in = held(names, seed, holdout, keep)
    count = [list(roles.values()).count(role) for role in ("test", "val", KEPT)]
    assert min(count[:2]) >= 1
    assert count[2] >= keep
    own = {name: hash_fraction(name, seed) // holdout for name in names}
    natural = [list(own.values()).count(0), list(own.values()).count(1)]
    assert stands_in == (min(natural) < 1 or len(names) - sum(natural) < keep)


def test_the_image_with_the_lowest_hash_stands_in_and_a_split_seed_ends_that_for_good() -> None:
    names = [f"images/{index}.jpg" for index in range(5)]
    seed = next(seed for seed in range(99) if all(hash_fraction(name, seed) >= 0.4 for name in names))
    config = DataConfig(split_seed=seed)
    numbers, (warning,) = hold_out(names, config, BOTH, keep=2)
    first, second, *others = sorted(range(5), key=lambda index: hash_fraction(names[index], seed))
    assert numbers == {"test": [first], "val": [second], KEPT: sorted(others)}
    assert "\n" not in warning
    assert f"{names[first]} stands in for test, {names[second]} stands in for val" in warning
    advised = re.search(r"under data\.split_seed (\d+) none ever moves \(train 3, test 1, val 1\)", warning)
    assert advised, warning
    assert hold_out(names, DataConfig(split_seed=int(advised[1])), BOTH, keep=2)[1] == ()


def test_where_no_split_seed_helps_that_is_said() -> None:
    _, (warning,) = hold_out(NAMES, DataConfig(holdout=1e-9), BOTH, keep=2)
    assert "no data.split_seed below 1000 does without" in warning


def test_fewer_images_than_roles_are_refused() -> None:
    with pytest.raises(InvalidValue, match=r"`holdout has 4 images or more to take test and val from` .* got 3"):
        hold_out(NAMES[:3], DataConfig(), BOTH, keep=2)
