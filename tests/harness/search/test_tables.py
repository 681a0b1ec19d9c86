"""Tables of a study."""

from pathlib import Path
from typing import Any

import pytest

from harness.cli.display import out
from harness.config.search import Confirm, SearchConfig
from harness.errors import RunFailed
from harness.search import tables
from harness.search.ablation import by_seed, show_ablation
from harness.search.trial import report as tell
from harness.search.trial_store import State, TrialRecord


def test_the_ablation_has_one_axis_down_and_one_across() -> None:
    space: dict[str, Any] = {
        "ssl.mix": {"values": ["class", "none"]},
        "ssl.weight": {"values": ["image", "pixel", "batch"]},
        "seed": {"values": [0, 1]},
    }
    search = SearchConfig(space=space, sampler="grid", early_stopping=None, confirm=Confirm(top=0))
    points = [(mix, weight, seed) for mix in ("class", "none") for weight in ("image", "pixel") for seed in (0, 1)]
    records = [
        TrialRecord(
            number, dict(zip(space, point, strict=True)), 10, "complete", intermediate_values=[(10, 0.1 * number)]
        )
        for number, point in enumerate(points)
    ]
    with out.capture() as captured:
        show_ablation(search, by_seed(search, records))
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in captured.get().splitlines() if "│" in line]
    assert lines == [
        ["class", "0.050 +- 0.071", "0.250 +- 0.071", "-"],
        ["none", "0.450 +- 0.071", "0.650 +- 0.071", "-"],
    ]
    assert "over 2 seeds" in captured.get()
    assert [word for word in ("image", "pixel", "batch") if word in captured.get()] == ["image", "pixel", "batch"]


@pytest.mark.parametrize(("count", "more"), [(29, None), (30, None), (31, 1), (10_000, 9970)])
def test_the_best_30_trials_are_shown_and_how_many_more_are_in_the_file(count: int, more: int | None) -> None:
    """Every fifth trial failed; the others got the better the later they came, and every other was stopped early."""
    search = SearchConfig(space={"ssl.tau": {"low": 0.0, "high": 1.0}})
    states: list[State] = ["complete", "pruned", "failed", "complete", "pruned"]
    records = [
        TrialRecord(n, {"ssl.tau": n / count}, 10, states[n % 5], 10, [] if n % 5 == 2 else [(10, n / count)])
        for n in range(count)
    ]
    with out.capture() as captured:
        tables.show_trials(search, records, Path("runs/s/trials.csv"))
    lines = captured.get().splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    ended = {state: [n for n in range(count) if states[n % 5] == state] for state in states}
    expected = ended["complete"][::-1] + ended["pruned"][::-1] + ended["failed"]
    assert [int(row[0]) for row in rows] == expected[:30]
    assert [line for line in lines if "more" in line] == ([f"and {more} more: runs/s/trials.csv"] if more else [])


def test_reasons_that_differ_in_their_numbers_are_one() -> None:
    reasons = ["disk full", "the loss is nan at step 10", "the loss is nan at step 20", None]
    records = [TrialRecord(number, {}, 10, "failed", reason=reason) for number, reason in enumerate(reasons)]
    assert tables.most_common_reason(records) == "2 of 4: the loss is nan at step 10"
    assert "evaluation" in tables.most_common_reason([])


def test_a_sought_metric_that_is_not_a_number_fails_the_trial(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="val/iou/car is not a number at step 4"):
        tell({"step": 4, "val/iou/car": float("nan")}, "val/iou/car", tmp_path)
