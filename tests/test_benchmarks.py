"""Every script of benchmarks/ starts, and imports what is there."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT

SCRIPTS = [script for script in sorted((ROOT / "benchmarks").glob("*.py")) if "__main__" in script.read_text()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_benchmark_starts_and_says_how_it_is_used(script: Path) -> None:
    found = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 0, found.stderr
    assert f"python benchmarks/{script.name}" in found.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("baseline.py", "--seeds=1", "--steps=2", "--model.width=4", "--model.depth=1"), "is ahead on"),
        (("plain_search.py", "search_spaces/smoke.yaml"), ""),
        (("evaluate.py", "--rounds", "2", "--images", "4"), "ns a pixel"),
        (("mixing.py", "--size", "32", "64", "--rounds", "2"), "at copy bandwidth"),
        (("input.py", "--batches", "2", "--rounds", "1"), "images a second"),
        (("start.py", "--rounds", "1"), "first step"),
        (("step.py", "--cases", "small", "--rounds", "2"), "ours / bare passes"),
        (("scaling.py", "--only", "simulation"), "1,000 workers"),
    ],
    ids=lambda value: value[0].removesuffix(".py") if isinstance(value, tuple) else "",
)
def test_a_benchmark_measures_what_it_says(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    folder = (str(tmp_path / "out"),) if words[0] == "plain_search.py" else ()
    command = [sys.executable, ROOT / "benchmarks" / words[0], *words[1:], *folder]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 0, found.stderr
    assert said in found.stdout + found.stderr


@pytest.mark.slow
def test_a_training_killed_at_any_moment_and_resumed_equals_a_straight_one() -> None:
    command = [sys.executable, "benchmarks/kill_and_resume.py", "--kills=2", "--steps=12"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 0, found
    assert "all equal the undisturbed one, bit for bit" in found.stdout
