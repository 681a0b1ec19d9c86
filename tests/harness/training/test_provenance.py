"""Where a run comes from: code, versions, command and images, from real repositories into a real store."""

import platform
import subprocess
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import mlflow.data
import pytest
import torch
from mlflow import MlflowClient

import harness
from harness.config.train import TrainConfig, override
from harness.tracking.run import Run
from harness.tracking.store import create_run
from harness.training.dataloaders import load_data_once
from harness.training.provenance import datasets, device_name, git_tags, provenance_tags
from tests.conftest import add_part

COMMIT, DIRTY = "mlflow.source.git.commit", "harness.git_dirty"


def git(folder: Path, *words: str) -> str:
    author = ("-c", "user.name=a", "-c", "user.email=a@b.example")
    done = subprocess.run(["git", *author, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with code in it, and its first commit."""
    monkeypatch.delenv("GIT_DIR", raising=False)
    root = tmp_path / "checkout"
    (root / "harness").mkdir(parents=True)
    (root / "harness/__init__.py").write_text("first = 1\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")
    return root


def test_a_clean_checkout_is_known_by_its_commit(checkout: Path) -> None:
    assert git_tags(checkout) == {COMMIT: git(checkout, "rev-parse", "HEAD"), DIRTY: "false"}


@pytest.mark.parametrize("file", ["harness/__init__.py", "harness/new.py", "classmix_core/new.py"])
def test_code_that_is_not_committed_makes_it_dirty(checkout: Path, file: str) -> None:
    (checkout / file).parent.mkdir(exist_ok=True)
    (checkout / file).write_text("second = 2\n")
    assert git_tags(checkout)[DIRTY] == "true"


def test_what_is_not_code_does_not(checkout: Path) -> None:
    (checkout / "notes.txt").write_text("a run's folder, for one\n")
    assert git_tags(checkout)[DIRTY] == "false"


def test_a_copy_installed_within_another_repository_is_no_checkout(checkout: Path) -> None:
    (checkout / ".gitignore").write_text(".venv\n")
    installed = checkout / ".venv/site-packages"
    (installed / "harness").mkdir(parents=True)
    (installed / "harness/__init__.py").touch()
    assert git_tags(installed) == {}


def test_without_a_checkout_or_without_git_nothing_is_said(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert git_tags(tmp_path) == {}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_tags(checkout) == {}


def test_the_repository_that_a_hook_points_to_is_not_taken_for_ours(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = git_tags(checkout)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert git_tags(checkout) == expected != {}


def test_command_and_versions_are_told_as_a_person_would_type_and_read_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "somebody")
    tags = provenance_tags("harness.train", ["--name", "two words", "--steps=3"])
    assert tags["harness.argv"] == "python -m harness.train --name 'two words' --steps=3"
    assert (tags["mlflow.source.name"], tags["mlflow.source.type"]) == ("python -m harness.train", "LOCAL")
    assert tags["mlflow.user"] == "somebody"
    start = f"python {platform.python_version()}, harness {harness.__version__}, torch {version('torch')}, "
    assert tags["harness.versions"].startswith(start)
    names = [part.split()[0] for part in tags["harness.versions"].split(", ")]
    assert names[3:] == ["torchvision", "numpy", "ray", "optuna", "mlflow"]
    assert provenance_tags("harness.train", [])["harness.argv"] == "python -m harness.train"


def test_a_cpu_is_called_by_its_model() -> None:
    assert len(device_name(torch.device("cpu"))) > 2


@pytest.fixture
def run(store: tuple[str, str], tmp_path: Path) -> Run:
    return Run(store[0], create_run(*store, "a", {}), tmp_path / "a")


def tags(run: Run) -> dict[str, str]:
    run.settle()
    found = MlflowClient(run.uri).get_run(run.run_id).data.tags
    return {key: value for key, value in found.items() if key in ("argv", "versions")}


def test_a_resume_adds_what_has_changed_and_loses_nothing(run: Run) -> None:
    run.note({"argv": "train --seed 1", "versions": "1"})
    run.note({"argv": "train --seed 1", "versions": "1"})
    assert tags(run) == {"argv": "train --seed 1", "versions": "1"}
    run.note({"argv": "train --resume", "versions": "1"})
    run.note({"argv": "train --resume", "versions": "2"})
    assert tags(run) == {"argv": "train --seed 1 | train --resume", "versions": "1 | 2"}


def test_images_of_each_role_are_inputs_of_the_run_once(run: Run, folder_root: Path) -> None:
    add_part(folder_root, "test", 3)
    config = override(TrainConfig(), {"data.name": "folder", "data.root": str(folder_root)})
    data = load_data_once(config.data)
    for _ in range(2):  # again after a resume
        run.inputs(datasets(config, data))
    run.settle()
    client = MlflowClient(run.uri)
    found = {one.tags[0].value: one for one in client.get_run(run.run_id).inputs.dataset_inputs}
    assert list(found) == ["labelled", "unlabelled", "val", "test"]
    assert {one.tags[0].key for one in found.values()} == {"mlflow.data.context"}
    for role, samples in data.roles().items():
        dataset = found[role].dataset
        assert dataset.name == folder_root.name
        assert dataset.profile == f'{{"images": {len(samples.names)}}}'
        assert mlflow.data.get_source(dataset).to_dict() == {"uri": str(folder_root)}
    assert len({one.dataset.digest for one in found.values()}) == 4

    digest = found["val"].dataset.digest
    query = f"dataset.name = '{folder_root.name}' AND dataset.context = 'val' AND dataset.digest = '{digest}'"
    experiment = client.get_run(run.run_id).info.experiment_id
    assert [one.info.run_id for one in client.search_runs([experiment], query)] == [run.run_id]


def test_a_digest_is_of_the_names_alone(folder_root: Path) -> None:
    config = override(TrainConfig(), {"data.name": "folder", "data.root": str(folder_root), "data.labelled": 3})
    data = load_data_once(config.data)

    def digest(names: list[str]) -> str:
        changed = replace(data, labelled=replace(data.labelled, names=names))  # type: ignore[type-var]
        return datasets(config, changed)[0].dataset.digest

    names = list(data.labelled.names)
    assert digest(names) == digest(names[::-1]) != digest([*names[:-1], "another"])


def test_unlabelled_images_without_a_weight_are_no_input() -> None:
    config = override(TrainConfig(), {"ssl.unlabelled_weight": 0.0})
    found = datasets(config, load_data_once(config.data, ("val",)))
    assert [one.tags[0].value for one in found] == ["labelled", "val"]
    assert {one.dataset.name for one in found} == {"scenes"}
