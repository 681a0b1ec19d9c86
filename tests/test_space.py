"""Search-space files."""

from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from harness.config import ConfigError, TrainConfig
from harness.space import Parameter, decode, encode, parameters, read_space
from tests.commands import SPACE

TAU = "ssl.tau: {low: 0.5, high: 0.9}"


def axes(tmp_path: Path, space: str, rest: str = "") -> list[Parameter]:
    file = tmp_path / "space.yaml"
    file.write_text(f"{rest}\nspace:\n  {space}\n")
    return parameters(read_space(file), TrainConfig(), file)


def test_the_shipped_space_covers_the_three_parameters_with_at_least_12_trials() -> None:
    search = read_space(SPACE)
    assert search.trials >= 12
    assert search.early_stopping is not None
    assert {axis.key for axis in parameters(search, TrainConfig(), SPACE)} == {"ssl.tau", "ssl.ema_decay", "optim.lr"}


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (TAU, FloatDistribution(0.5, 0.9)),
        ("optim.lr: {low: 0.001, high: 1, scale: log}", FloatDistribution(0.001, 1, log=True)),
        ("steps: {low: 10, high: 20}", IntDistribution(10, 20)),
        ("data.labelled: {low: 10, high: 40}", IntDistribution(10, 40)),
        ("ssl.mix: {values: [class, cut]}", CategoricalDistribution(["class", "cut"])),
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
        (TAU, "trials: 0", ("trials", "trials >= 1", "0")),
        (TAU, "trials: many", ("trials", "many")),
        (TAU, "sampler: guess", ("sampler", "guess")),
        (TAU, "metric: test/miou", ("metric", "val", "test/miou")),
        (TAU, "patience: 3", ("patience",)),
        (TAU, "early_stopping: {grace_steps: 0}", ("early_stopping.grace_steps", "0")),
        (TAU, "resources: {gpus: 2}", ("gpus", "0 <= gpus <= 1", "2")),
        (TAU, "start: [{ssl.tau: 0.1}]", ("start[0].ssl.tau", "0.1")),
        (TAU, "start: [{optim.lr: 0.1}]", ("start[0]", "optim.lr")),
    ],
)
def test_a_bad_space_is_refused_with_file_key_rule_and_value(
    tmp_path: Path, space: str, rest: str, words: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as refused:
        axes(tmp_path, space, rest)
    message = str(refused.value)
    assert "\n" not in message
    for word in (str(tmp_path / "space.yaml"), *words):
        assert word in message, message


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        read_space(tmp_path / "none.yaml")


def test_a_space_without_keys_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("trials: 3\n")
    with pytest.raises(ConfigError, match="at least one key"):
        read_space(file)
