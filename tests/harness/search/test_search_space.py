"""Search-space files."""

from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from harness.config.search import read_space
from harness.config.train import TrainConfig
from harness.errors import UserError
from harness.search.search_space import SearchParameter, decode, encode, initial_points, search_parameters
from tests.commands import SPACE

TAU = "ssl.tau: {low: 0.5, high: 0.9}"


def axes(tmp_path: Path, space: str, rest: str = "") -> list[SearchParameter]:
    file = tmp_path / "space.yaml"
    file.write_text(f"{rest}\nspace:\n  {space}\n")
    return search_parameters(read_space(file), TrainConfig(), file)


def test_the_shipped_space_covers_the_three_parameters_with_at_least_12_trials() -> None:
    search = read_space(SPACE)
    assert search.trials is not None
    assert search.trials >= 12
    assert search.early_stopping is not None
    assert {axis.key for axis in search_parameters(search, TrainConfig(), SPACE)} == {
        "ssl.tau",
        "ssl.ema_decay",
        "optim.lr",
    }


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (TAU, FloatDistribution(0.5, 0.9)),
        ("optim.lr: {low: 0.001, high: 1, scale: log}", FloatDistribution(0.001, 1, log=True)),
        ("steps: {low: 10, high: 20}", IntDistribution(10, 20)),
        ("data.labelled: {low: 10, high: 40}", IntDistribution(10, 40)),
        ("ssl.mix: {values: [class, cut]}", CategoricalDistribution(["class", "cut"])),
        ("ssl.blur: {low: 0.15, high: 3}", FloatDistribution(0.15, 3)),
        ("ssl.blur: {values: [0, 0.15]}", CategoricalDistribution([0, 0.15])),
        ("model.depth: {low: 1, high: 2}", IntDistribution(1, 2)),
        ("ssl.tau: {low: 0, high: 1}", FloatDistribution(0, 1)),
    ],
)
def test_a_spec_becomes_a_distribution(tmp_path: Path, space: str, expected: object) -> None:
    assert axes(tmp_path, space)[0].distribution == expected


def test_log_complement_draws_one_minus_x_on_a_log_scale(tmp_path: Path) -> None:
    (axis,) = axes(tmp_path, "ssl.ema_decay: {low: 0.9, high: 0.999, scale: log_complement}")
    assert isinstance(axis.distribution, FloatDistribution)
    assert axis.distribution.log
    assert axis.distribution.low == pytest.approx(0.001)
    assert axis.distribution.high == pytest.approx(0.1)
    drawn = encode([axis], {"ssl.ema_decay": 0.99})
    assert drawn == {"1 - ssl.ema_decay": pytest.approx(0.01)}
    assert decode([axis], drawn) == {"ssl.ema_decay": pytest.approx(0.99)}


@pytest.mark.parametrize(
    ("space", "rest", "words"),
    [
        ("ssl.tau: {low: 2, high: 1}", "", ("space.ssl.tau", "low < high", "low=2, high=1")),
        ("ssl.tau: {low: 1, high: 1}", "", ("space.ssl.tau", "low < high")),
        ("ssl.tau: {low: 0.5, high: 1.5}", "", ("space.ssl.tau", "0 <= tau <= 1", "1.5")),
        ("ssl.blur: {low: 0, high: 1}", "", ("space.ssl.blur", "every value", "0.15 <= blur <= 3`", "got 0.015625")),
        ("ssl.blur: {low: 0.0, high: 0.16}", "", ("space.ssl.blur", "0.15 <= blur <= 3")),
        ("model.width: {low: 4, high: 16}", "", ("space.model.width", "multiple of 4", "got 5")),
        ("model.width: {low: 4, high: 260}", "", ("space.model.width", "multiple of 4", "got 9")),
        ("model.width: {low: 4, high: 64, scale: log}", "", ("space.model.width", "multiple of 4", "got 5")),
        ("data.labelled: {low: 0.5, high: 2}", "", ("space.data.labelled", "a count >= 1 or a share", "got 1.0")),
        ("ssl.ema_decay: {low: 0.9, high: 1.0}", "", ("space.ssl.ema_decay", "ema_decay < 1", "1.0")),
        ("ssl.ema_decay: {low: 0.9, high: 1.0, scale: log_complement}", "", ("high < 1", "1.0")),
        ("optim.lr: {low: 0, high: 1, scale: log}", "", ("space.optim.lr.low", "low > 0", "0")),
        ("optim.lr: {low: a, high: 1}", "", ("space.optim.lr.low", "number", "'a'")),
        ("optim.lr: {low: 0.1, high: 1, scale: cubic}", "", ("space.optim.lr.scale", "cubic")),
        ("optim.lr: {low: 0.1}", "", ("space.optim.lr", "{low, high, scale} or {values}")),
        ("optim.lr: {values: []}", "", ("space.optim.lr.values", "[]")),
        ("ssl.mix: {values: [class, puzzle]}", "", ("space.ssl.mix", "puzzle")),
        ("data.crop: {values: [[8, 8]]}", "", ("space.data.crop.values", "plain values")),
        ("workers: {low: 1, high: 2}", "", ("space.workers", "resources")),
        (TAU, "resources: 2", ("resources", "mapping", "2")),
        ("ssl.temperature: {low: 0, high: 1}", "", ("space.ssl.temperature", "key of TrainConfig")),
        (
            "data.batch_labelled: {values: [4, 6]}",
            "resources: {workers: 4}",
            ("'data.batch_labelled': 6", "got 6 for 4"),
        ),
        (
            "{accumulate: {values: [1, 2]}, data.batch_unlabelled: {low: 4, high: 8}}",
            "",
            ("'accumulate': 2, 'data.batch_unlabelled': 5", "got 5 for 1 worker(s) and accumulate 2"),
        ),
        (TAU, "trials: 0", ("trials", "trials >= 1", "0")),
        (TAU, "trials: many", ("trials", "many")),
        (TAU, "sampler: guess", ("sampler", "guess")),
        (TAU, "metric: test/miou", ("metric", "val", "test/miou")),
        (TAU, "patience: 3", ("patience",)),
        (TAU, "early_stopping: {grace_steps: 0}", ("early_stopping.grace_steps", "0")),
        (TAU, "resources: {gpus: 1.5}", ("gpus", "whole number", "1.5")),
        (TAU, "resources: {gpus: 2, workers: 3}", ("resources.workers", "workers == gpus (2)", "3")),
        (TAU, "resources: {gpus: 0.5, workers: 2}", ("resources.workers", "1 on a share", "2")),
        (TAU, "resources: {workers: 0}", ("resources.workers", "workers >= 1", "0")),
        (TAU, "budget: {minutes: 0}", ("minutes", "minutes > 0", "0")),
        (TAU, "budget: {core_hours: -1}", ("core_hours", "core_hours > 0", "-1")),
        (TAU, "budget: {gpu_hours: 1}", ("budget", "trials on GPUs")),
        (TAU, "stop: {patience: 0}", ("patience", "patience >= 1", "0")),
        (TAU, "confirm: {top: -1}", ("confirm.top", "top >= 0", "-1")),
        (TAU, "confirm: {runs: 1}", ("confirm", "runs")),
        ("seed: {values: [1, 2]}", "sampler: grid\nearly_stopping: null", ("confirm", "top: 0")),
        ("optim.lr: {low: 0.1, high: .inf}", "", ("space.optim.lr.high", "finite", "inf")),
        ("optim.lr: {values: ['0.1']}", "", ("space.optim.lr", "float", "0.1")),
        ("steps: {low: 10, high: 20}", "start: [{steps: 10.5}]", ("start[0].steps", "10.5")),
        ("seed: {values: [1, 2]}", "confirm: {top: 0}", ("space", "sampler: grid")),
        ("seed: {values: [1, 2]}", "confirm: {top: 0}\nsampler: grid", ("space", "early_stopping: null")),
        (TAU, "start: [{ssl.tau: 0.1}]", ("start[0].ssl.tau", "0.1")),
        (TAU, "start: [{optim.lr: 0.1}]", ("start[0]", "optim.lr")),
    ],
)
def test_a_bad_space_is_refused_with_file_key_rule_and_value(
    tmp_path: Path, space: str, rest: str, words: tuple[str, ...]
) -> None:
    with pytest.raises(UserError) as refused:
        axes(tmp_path, space, rest)
    message = str(refused.value)
    assert "\n" not in message
    for word in (str(tmp_path / "space.yaml"), *words):
        assert word in message, message


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml"):
        read_space(tmp_path / "none.yaml")


def test_a_space_without_keys_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("trials: 3\n")
    with pytest.raises(UserError, match="at least one key"):
        read_space(file)


def plan(tmp_path: Path, text: str) -> tuple[int, list[dict[str, str]]]:
    file = tmp_path / "space.yaml"
    file.write_text(text)
    search = read_space(file)
    return initial_points(search, search_parameters(search, TrainConfig(), file), file)


@pytest.mark.parametrize(
    ("text", "total", "first"),
    [
        ("sampler: tpe", 16, []),
        ("sampler: random\ntrials: 3", 3, []),
        ("sampler: tpe\nstart: [{ssl.mix: cut}]", 16, ["cut"]),
        ("sampler: tpe\ntrials: 1\nstart: [{ssl.mix: cut}, {ssl.mix: cow}]", 1, ["cut"]),
        ("sampler: grid", 3, ["class", "cut", "cow"]),
        ("sampler: grid\nstart: [{ssl.mix: cow}, {ssl.mix: cow}]", 3, ["cow", "class", "cut"]),
        ("sampler: grid\ntrials: 3\nstart: [{ssl.mix: cow}]", 3, ["cow", "class", "cut"]),
    ],
)
def test_a_space_plans_its_trials(tmp_path: Path, text: str, total: int, first: list[str]) -> None:
    points = [{"ssl.mix": mix} for mix in first]
    assert plan(tmp_path, f"{text}\nspace: {{ssl.mix: {{values: [class, cut, cow]}}}}") == (total, points)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sampler: grid\ntrials: 2\nspace: {ssl.mix: {values: [class, cut, cow]}}", ("trials", "3 points", "2")),
        ("sampler: grid\nspace: {ssl.tau: {low: 0.1, high: 0.2}}", ("space.ssl.tau", "{values}", "grid")),
    ],
)
def test_a_grid_that_is_none_is_refused(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as refused:
        plan(tmp_path, text)
    assert all(word in str(refused.value) for word in words), refused.value


@pytest.mark.parametrize("file", sorted(SPACE.parent.glob("*.yaml")), ids=lambda path: path.name)
def test_the_shipped_spaces_can_be_searched(file: Path) -> None:
    search = read_space(file)
    assert initial_points(search, search_parameters(search, TrainConfig(), file), file)[0] >= 4
