"""The batch over all workers: filled in, shared evenly, or refused with two commands that work."""

import re
import shlex

import pytest

from harness.config.batch_size import divides, most_workers, require_divisible, with_batch_size
from harness.config.train import TrainConfig, override, train_config
from harness.errors import UserError
from harness.train import build_parser


def config(labelled: int | None, unlabelled: int | None, **values: object) -> TrainConfig:
    sizes = {"data.batch_labelled": labelled, "data.batch_unlabelled": unlabelled}
    return override(TrainConfig(), sizes | values)


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_a_size_that_is_not_given_is_4_for_each_worker(workers: int) -> None:
    filled = with_batch_size(config(None, 6), workers)
    assert (filled.data.batch_labelled, filled.data.batch_unlabelled) == (4 * workers, 6)
    assert with_batch_size(filled, 16) == filled  # what is stored stays as it is


@pytest.mark.parametrize(
    ("labelled", "unlabelled", "accumulate", "workers", "fits"),
    [(4, 4, 1, 4, True), (4, 4, 1, 8, False), (4, 6, 1, 4, False), (8, 8, 2, 4, True), (8, 8, 4, 4, False)],
)
def test_a_batch_must_divide_among_workers_and_pieces(
    labelled: int, unlabelled: int, accumulate: int, workers: int, fits: bool
) -> None:
    assert divides(config(labelled, unlabelled, accumulate=accumulate), workers) == fits


def test_unlabelled_images_that_have_no_weight_need_not_divide() -> None:
    assert divides(config(4, 6, **{"ssl.unlabelled_weight": 0.0}), 4)


@pytest.mark.parametrize(("at_most", "most"), [(1, 1), (3, 3), (5, 3), (6, 6), (8, 6)])
def test_as_many_workers_as_can_share_the_batch(at_most: int, most: int) -> None:
    assert most_workers(config(6, 12), at_most) == most


def test_a_batch_that_does_not_divide_is_refused_with_two_commands_that_do() -> None:
    given = config(4, 6, **{"optim.lr": 0.1})
    with pytest.raises(UserError) as caught:
        require_divisible(given, 8, 8, ["--config=best of all.yaml", "--gpus=8"])
    message = str(caught.value)
    rule = "data.batch_labelled: `batch_labelled % (workers * accumulate) == 0` must hold, but got 4 for 8 worker(s)"
    assert message.startswith(rule)
    start = "python -m harness.train '--config=best of all.yaml'"
    assert f"{start} --gpus=2 or" in message
    assert f"{start} --gpus=8 --data.batch_labelled=8 --data.batch_unlabelled=8 --optim.lr=0.2" in message
    for values, workers in (({}, 2), ({"data.batch_labelled": 8, "data.batch_unlabelled": 8}, 8)):
        require_divisible(override(given, values), workers)


@pytest.mark.parametrize("gpus", [None, 8])
def test_both_commands_are_taken_also_where_the_workers_are_given(gpus: int | None) -> None:
    given = config(8, 12, **{"optim.lr": 0.1, "workers": 8, "gpus": gpus})
    words = ["--workers=8", "--optim.lr=0.1", "--data.batch_labelled=8", "--data.batch_unlabelled=12"]
    words += [] if gpus is None else [f"--gpus={gpus}"]
    with pytest.raises(UserError) as caught:
        require_divisible(given, 8, 8, words)
    found = []
    for command in re.findall(r"python -m harness.train ([^:]*?)(?: or another|$)", str(caught.value)):
        one = train_config(build_parser().read(shlex.split(command)).as_dict())
        require_divisible(one, one.workers or 1)
        found.append((one.workers, one.data.batch_labelled, one.data.batch_unlabelled, one.optim.lr))
    assert found == [(4, 8, 12, 0.1), (8, 8, 16, pytest.approx(0.1333, abs=1e-4))]


def test_pieces_that_no_number_of_workers_can_share_are_given_up_for_one() -> None:
    with pytest.raises(UserError, match=r"--gpus=0 --workers=1 --accumulate=1 or"):
        require_divisible(config(4, 4, accumulate=3), 2, 0, ["--workers=2"])
