"""Trainings made up from recorded ones, and whole studies over them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from harness import tune
from harness.config.search import SearchConfig
from harness.config.train import TrainConfig
from harness.errors import UserError
from harness.search.recorded import Recorded, mean_iou, read_table
from harness.search.search_space import SearchParameter, search_parameters
from tests.commands import assert_refused, call
from tests.studies import ended
from tests.tables import build_table, true_miou

SPACE: dict[str, dict[str, Any]] = {
    "ssl.tau": {"low": 0.3, "high": 0.95},
    "optim.lr": {"low": 0.001, "high": 10**-0.5, "scale": "log"},
}
POINT = {"ssl.tau": 0.55, "optim.lr": 0.03}


def axes(space: dict[str, dict[str, Any]] = SPACE) -> list[SearchParameter]:
    return search_parameters(SearchConfig(space=space), TrainConfig(), Path("space.yaml"))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_table(tmp_path_factory.mktemp("table") / "table.npz", runs=160)


@pytest.fixture(scope="module")
def recorded(table: Path) -> Recorded:
    return read_table(table, axes())


def test_miou_is_the_mean_over_the_classes_that_are_there() -> None:
    right, predicted, labelled = np.array([[3, 0, 0]]), np.array([[4, 1, 0]]), np.array([5, 0, 0])
    assert mean_iou(right, predicted, labelled) == pytest.approx([(3 / 6 + 0 / 1) / 2])


@pytest.mark.parametrize("tau", [0.4, 0.6, 0.8])
@pytest.mark.parametrize("lr", [0.003, 0.03, 0.2])
def test_between_recorded_runs_the_truth_is_met(recorded: Recorded, tau: float, lr: float) -> None:
    assert recorded.truth({"ssl.tau": tau, "optim.lr": lr}) == pytest.approx(true_miou(tau, lr), abs=0.01)


def test_without_unlabelled_images_other_runs_count(recorded: Recorded) -> None:
    without = recorded.truth({"optim.lr": 0.02, "ssl.unlabelled_weight": 0.0})
    assert without < recorded.truth({"optim.lr": 0.02, "ssl.tau": 0.6}) - 0.05


def test_a_run_is_the_same_each_time_and_another_world_has_other_luck(table: Path, recorded: Recorded) -> None:
    one, again = (recorded.run(POINT, seed=3) for _ in range(2))
    assert one.val.tolist() == again.val.tolist()
    assert one.test == again.test
    assert one.steps.tolist() == [10, 20, 30, 40]
    assert one.val[0] < one.val[-1]
    assert recorded.run(POINT, 4).test != one.test
    assert recorded.run(POINT | {"ssl.tau": 0.5501}, 3).test != one.test
    assert recorded.elsewhere(luck=1).run(POINT, 3).test != one.test
    assert recorded.elsewhere(luck=1).truth(POINT) == recorded.truth(POINT)


def test_made_up_runs_spread_as_recorded_ones_do_and_a_seed_has_luck_of_its_own(recorded: Recorded) -> None:
    """A share of right pixels that is off by 0.01 changes mIoU by about 0.0125 there."""
    near = [POINT | {"ssl.tau": 0.55 + 1e-6 * number} for number in range(40)]
    scores = np.array([[recorded.run(values, seed).test for values in near] for seed in range(40)])
    assert scores.mean() == pytest.approx(true_miou(0.55, 0.03), abs=0.01)
    assert scores.std() == pytest.approx(0.0125 * 2**0.5, rel=0.4)
    between = scores.mean(1).var() - scores.var(1).mean() / 40
    shared = recorded.tables[True].shared_by_seed
    assert between / scores.var() == pytest.approx(shared, abs=0.15)
    assert 0.15 < shared < 0.85, "half of it, as far as 8 repeated seeds tell"


def test_val_may_be_other_images(recorded: Recorded) -> None:
    few = [recorded.elsewhere(luck, val_size=5) for luck in range(2)]
    assert all(len(world.val) == 5 for world in few)
    assert few[0].val.tolist() != few[1].val.tolist()


@pytest.mark.parametrize(
    ("space", "metric", "words"),
    [
        ({"ssl.jitter": {"low": 0.1, "high": 0.2}}, "val/miou", "must vary ssl.jitter"),
        ({"ssl.mix": {"values": ["class", "cut"]}}, "val/miou", "values for ssl.mix"),
        (SPACE, "val/accuracy", "val/accuracy"),
    ],
)
def test_what_a_table_does_not_hold_is_refused(
    table: Path, space: dict[str, dict[str, Any]], metric: str, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        read_table(table, axes(space), metric)


def write_space(folder: Path) -> Path:
    space = {
        "trials": 12,
        "confirm": {"top": 2, "seeds": [2, 6]},
        "early_stopping": {"grace_steps": 10},
        "space": SPACE,
    }
    space["train"] = {"steps": 40, "eval_every": 10}
    space["start"] = [{"ssl.tau": 0.94, "optim.lr": 0.002}]
    (folder / "space.yaml").write_text(yaml.safe_dump(space))
    return folder / "space.yaml"


def test_a_whole_study_over_a_table(
    here: Path, tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = write_space(tmp_path)
    result = call(tune.main, capsys, f"--space={space}", f"--simulate={table}", "--name=s")
    assert result.code == 0, result
    states = [one["state"] for one in ended(here).values()]
    assert len(states) == 12
    assert set(states) == {"complete", "pruned"}
    assert len(ended(here, "baseline")) == 3
    assert {one["values"]["seed"] for one in ended(here, "confirm").values()} >= {1, 2}
    best = yaml.safe_load((here / "runs/s/best.yaml").read_text())
    assert true_miou(best["ssl"]["tau"], best["optim"]["lr"]) > true_miou(0.94, 0.002) + 0.05
    assert "they help" in result.out
    assert "better" in result.out
    again = call(tune.main, capsys, f"--space={space}", f"--simulate={table}", "--name=again")
    answers = [one.out.partition("confirmation, from new seeds")[2] for one in (result, again)]
    assert answers[0] == answers[1].replace("runs/again", "runs/s"), "and it is the same each time"
    refused = call(tune.main, capsys, "--resume", "--name=s")
    assert refused.code == 2


def test_a_study_of_another_length_than_the_table_is_refused(
    here: Path, tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = call(tune.main, capsys, f"--space={write_space(tmp_path)}", f"--simulate={table}", "--train.steps=20")
    assert_refused(result, here, "train.steps", "(40)", "but is 20", "--train.steps 40")


def test_no_table_is_refused(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = call(tune.main, capsys, f"--space={write_space(tmp_path)}", "--simulate=none.npz")
    assert_refused(result, here, "--simulate", "none.npz")
