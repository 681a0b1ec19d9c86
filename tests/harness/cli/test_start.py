"""How the commands start: help, versions and refusals come at once, and shipped files are found by their name."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import harness
from harness import train, tune
from harness.config.parser import shipped_file, with_shipped_files
from tests.commands import ROOT, call, run

SLOW = ("torch", "mlflow", "ray")
COMMANDS = ("train", "tune", "predict", "ui")
PROBE = """
import importlib, json, sys
from harness.errors import UserError
try:
    importlib.import_module(sys.argv[1]).main(sys.argv[2:])
except (SystemExit, UserError) as end:
    print(f"ended with {end!r}", file=sys.stderr)
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def probe(command: str, *words: str) -> tuple[str, str, set[str]]:
    """What a command prints, how it ends, and the modules that it imported."""
    script = [sys.executable, "-c", PROBE, f"harness.{command}", *words]
    done = subprocess.run(script, capture_output=True, text=True, cwd=ROOT, check=True)
    *_, end, modules = done.stderr.splitlines()
    return done.stdout, end, set(json.loads(modules))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("word", ["--help", "--version"])
def test_help_and_version_import_nothing_slow(command: str, word: str) -> None:
    out, end, modules = probe(command, word)
    assert end == "ended with SystemExit(0)"
    assert modules.isdisjoint(SLOW)
    assert (f"python -m harness.{command}" if word == "--help" else harness.__version__) in out


def test_the_version_has_one_place() -> None:
    assert importlib.metadata.version("classmix-harness") == harness.__version__


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_print_config_of_a_recipe_by_its_name_is_that_by_its_path_and_imports_nothing_slow(recipe: Path) -> None:
    by_name, _, modules = probe("train", "--config", recipe.stem, "--print_config")
    assert modules.isdisjoint(SLOW)
    assert by_name == probe("train", f"--config={recipe}", "--print_config")[0]
    assert "steps: " in by_name


@pytest.mark.parametrize(
    ("command", "words", "expected"),
    [
        ("train", ["--ssl.tau=2"], "ssl.tau: `0 <= tau <= 1`"),
        ("train", ["--steps=many"], "many"),
        ("train", ["--workers", "2:"], "--workers: must be N or MIN:MAX, but got '2:'"),
        ("train", ["--storage-path="], "--storage-path: must name a folder"),
        ("train", ["--config=nowhere.yaml"], "nowhere.yaml"),
        ("train", ["--resume", "--storage-path=nowhere"], "unfinished train run"),
        ("tune", [], "--space"),
        ("tune", ["--space=nowhere"], "nowhere"),
        ("tune", ["--space=tau_ema", "--trials=0"], "trials >= 1"),
        ("tune", ["--space=tau_ema", "--train.optim.lr=-1"], "train.optim.lr"),
        ("predict", [], "--run, --checkpoint"),
        ("ui", ["--port=0"], "1 <= port <= 65535"),
    ],
)
def test_refused_input_imports_nothing_slow(command: str, words: list[str], expected: str) -> None:
    _, end, modules = probe(command, *words)
    assert end.startswith("ended with UserError(")
    assert expected in end
    assert modules.isdisjoint(SLOW)


def test_a_file_of_the_users_goes_before_a_shipped_one_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped_file("--space", "smoke") == str(ROOT / "search_spaces/smoke.yaml")
    assert shipped_file("--space", "smoke.yaml") == str(ROOT / "search_spaces/smoke.yaml")
    assert shipped_file("--train", "folder") == str(ROOT / "recipes/folder.yaml")
    for name in ("nowhere", "mine/smoke", "../smoke", ""):
        assert shipped_file("--space", name) == name
    long = "{steps: 5, " + "x" * 300
    assert shipped_file("--train", long) == long, "a mapping may be longer than a file's name"
    (tmp_path / "smoke").mkdir()
    assert shipped_file("--space", "smoke") == str(ROOT / "search_spaces/smoke.yaml"), "a folder is no such file"
    (tmp_path / "smoke.yaml").touch()
    assert shipped_file("--space", "smoke.yaml") == "smoke.yaml"


def test_names_are_found_in_both_ways_to_write_a_flag_and_elsewhere_left_alone() -> None:
    space = str(ROOT / "search_spaces/smoke.yaml")
    words = ["--name", "smoke", "--space", "smoke", "--space=smoke", "--data.root=smoke"]
    assert with_shipped_files(words) == ["--name", "smoke", "--space", space, f"--space={space}", "--data.root=smoke"]


@pytest.mark.parametrize(
    "words",
    [
        ["--steps=7", "--config=FILE", "--optim.lr", "0.3"],
        ["--steps", "7", "--config", "FILE", "--optim.lr=0.3"],
        ["--config", "FILE", "--steps=7", "--optim.lr=0.3"],
    ],
)
def test_flags_win_over_the_file_wherever_they_stand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    (tmp_path / "x.yaml").write_text("steps: 5\noptim: {lr: 0.1}\nseed: 3\n")
    given = [word.replace("FILE", f"{tmp_path}/x.yaml") for word in words]
    printed = yaml.safe_load(call(train.main, capsys, *given, "--print_config").out)
    assert (printed["steps"], printed["optim"]["lr"], printed["seed"]) == (7, 0.3, 3)


def test_flags_of_a_search_win_over_the_file_that_trials_share(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("steps: 5\nseed: 3\n")
    parsed = tune.build_parser().read(["--train.steps=7", "--train", f"{tmp_path}/x.yaml", "--space=smoke"])
    assert (parsed.train.steps, parsed.train.seed) == (7, 3)


def test_a_path_with_blanks_is_read_and_named_in_errors(tmp_path: Path) -> None:
    file = tmp_path / "my run.yaml"
    file.write_text("stepz: 3\n")
    result = run("harness.train", "--config", str(file), cwd=tmp_path)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert str(file) in result.err
    assert "(nearest key: steps)" in result.err
