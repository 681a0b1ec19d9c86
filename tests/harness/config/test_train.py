"""Configuration: YAML and flags to frozen dataclasses, and what is refused."""

from pathlib import Path

import pytest
import yaml

from classmix_core.config import ClassMixConfig
from harness.config.parser import make_parser
from harness.config.train import (
    TrainConfig,
    add_train_config,
    flatten,
    load_config,
    override,
    to_yaml,
    train_config,
)
from harness.errors import UserError


def parse(*args: str) -> TrainConfig:
    parser = make_parser("test", "")
    add_train_config(parser)
    return train_config(parser.read(list(args)).as_dict())


def test_no_flag_gives_the_defaults() -> None:
    assert parse() == TrainConfig()


def test_a_flag_beats_the_file_and_the_file_the_default(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("steps: 7\nssl: {tau: 0.5, ema_decay: 0.9}\n")
    config = parse(f"--config={file}", "--ssl.tau=0.25")
    assert (config.steps, config.ssl.tau, config.ssl.ema_decay) == (7, 0.25, 0.9)


def test_yaml_of_a_config_reads_back_as_the_same(tmp_path: Path) -> None:
    config = override(TrainConfig(), {"data.resize": (24, 32), "eval.scales": (0.5, 1.0), "data.labelled": 0.5})
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(config))
    assert load_config(file) == config
    assert yaml.safe_load(file.read_text())["data"]["resize"] == [24, 32]


def test_flatten_names_every_value_by_its_dotted_key() -> None:
    flat = flatten(TrainConfig())
    assert flat["ssl.tau"] == ClassMixConfig().tau
    assert flat["seed"] == 0
    assert not any(isinstance(value, dict) for value in flat.values())


def test_override_changes_only_the_named_keys() -> None:
    changed = override(TrainConfig(), {"ssl.tau": 0.5, "steps": 9})
    differing = {key for key, value in flatten(changed).items() if value != flatten(TrainConfig())[key]}
    assert differing == {"ssl.tau", "steps"}


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--ssl.tau=1.5", ("ssl.tau", "0 <= tau <= 1", "1.5")),
        ("--ssl.tau=-0.1", ("ssl.tau", "0 <= tau <= 1", "-0.1")),
        ("--ssl.ema_decay=1", ("ssl.ema_decay", "0 <= ema_decay < 1", "1")),
        ("--ssl.ema_decay=-0.5", ("ssl.ema_decay", "-0.5")),
        ("--ssl.mix=puzzle", ("ssl.mix", "'class', 'cut', 'cow', 'none'", "puzzle")),
        ("--ssl.jitter=0.6", ("ssl.jitter", "0.6")),
        ("--ssl.blur=0.1", ("ssl.blur", "0.1")),
        ("--steps=abc", ("steps", "int", "abc")),
        ("--steps=0", ("steps", "steps >= 1", "0")),
        ("--steps=1.5", ("steps", "int", "1.5")),
        ("--eval_every=0", ("eval_every", "0")),
        ("--gpus=-1", ("gpus", "gpus >= 0", "-1")),
        ("--workers=0", ("workers", "workers >= 1", "0")),
        ("--seed=-1", ("seed", "-1")),
        ("--optim.lr=0", ("optim.lr", "lr > 0", "0")),
        ("--optim.momentum=1", ("optim.momentum", "1")),
        ("--model.name=resnet", ("model.name", "unet", "'resnet'")),
        ("--model.width=6", ("model.width", "multiple of 4", "6")),
        ("--data.resize=[1,2,3]", ("data.resize", "[1, 2, 3]")),
        ("--data.labelled=abc", ("data.labelled", "abc")),
        ("--data.labelled=0", ("data.labelled", "0")),
        ("--data.batch_unlabelled=1", ("data.batch_unlabelled", ">= 2", "1")),
        ("--data.name=camvid", ("data.root", "root is set", "camvid")),
        ("--eval.batch=0", ("eval.batch", "0")),
        ("--eval.window=[4,64]", ("eval.window", ">= 8", "(4, 64)")),
        ("--eval.stride=[8,8]", ("eval.stride", "window is set", "(8, 8)")),
        ("--eval.scales=[1,0]", ("eval.scales", "(0, 8]", "(1.0, 0.0)")),
        ("--ssl.taux=1", ("--ssl.taux", "nearest key: ssl.tau")),
        ("--config=/nowhere.yaml", ("/nowhere.yaml",)),
    ],
)
def test_a_bad_value_is_refused_with_rule_value_and_key(flag: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as refused:
        parse(flag)
    message = str(refused.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    "flag", ["--ssl.tau=0", "--ssl.tau=1", "--ssl.ema_decay=0", "--ssl.ema_decay=0.9999", "--ssl.blur=0", "--gpus=0"]
)
def test_the_ends_of_a_range_are_taken(flag: str) -> None:
    parse(flag)


def test_an_unknown_key_in_a_file_is_refused_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("ssl: {taux: 3}\n")
    with pytest.raises(UserError, match=f"{file}.*taux.*nearest key: ssl.tau"):
        parse(f"--config={file}")


def test_a_file_that_is_no_yaml_is_refused_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("a: [1,\n b")
    with pytest.raises(UserError, match=str(file)):
        parse(f"--config={file}")


@pytest.mark.parametrize("text", ["optim: [1]", "ssl: 0.9", "data: 3"])
def test_a_section_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=text.split(":")[0]):
        parse(f"--config={file}")


def test_paths_of_data_become_absolute() -> None:
    assert parse("--data.name=folder", "--data.root=photos").data.root == str(Path.cwd() / "photos")
    given = parse(
        "--data.name=camvid", "--data.root=x", "--data.split_file=y", "--data.cache=disk", "--data.cache_dir=z"
    )
    assert [given.data.split_file, given.data.cache_dir] == [str(Path.cwd() / "y"), str(Path.cwd() / "z")]


def test_scenes_take_no_root() -> None:
    with pytest.raises(UserError, match=r"data\.root.*scenes"):
        parse("--data.root=photos")


def test_workers_must_match_gpus() -> None:
    with pytest.raises(UserError, match="workers == gpus"):
        parse("--gpus=2", "--workers=3")
