"""Labels that are added while a search runs change nothing in it."""

from dataclasses import replace
from pathlib import Path

import pytest

from classmix_core.data import load_data
from harness.cli.preflight import check_same_images
from harness.config.search import Resources
from harness.config.train import TrainConfig, load_config, override
from harness.errors import RunFailed
from harness.run_dir import RunRecord, read_run_record, write_splits
from harness.search.trial import TrialSetup, with_own_splits
from harness.training.trainer import TrainJob
from tests.commands import files, finish, run, start
from tests.studies import BASE, NO_BASELINE, ONE_AT_A_TIME, records, wait_until_in_the_middle, without_time, write_space
from tests.trees import build_folder, label_more

STUDY = f"""
trials: 4
sampler: random
early_stopping: null
{NO_BASELINE}confirm: {{top: 1, seeds: 1}}
{ONE_AT_A_TIME}{BASE}
space:
  ssl.tau: {{low: 0.3, high: 0.99}}
"""


@pytest.mark.slow
def test_labels_added_while_a_study_runs_change_nothing_and_a_resume_refuses_them(tmp_path: Path) -> None:
    root = build_folder(tmp_path / "photos")
    data = ("--train.data.name=folder", f"--train.data.root={root}", "--train.data.resize=[16,24]")
    straight, disturbed = tmp_path / "straight", tmp_path / "disturbed"
    for folder in (straight, disturbed):
        folder.mkdir()
        write_space(folder, STUDY)
    result = run("harness.tune", "--space=space.yaml", "--name=s", *data, cwd=straight)
    assert result.code == 0, result

    process = start("harness.tune", "--space=space.yaml", "--name=s", *data, cwd=disturbed)
    wait_until_in_the_middle(disturbed, process, "trials", 1)
    added = label_more(root)
    result = finish(process)
    assert result.code == 0, result
    for phase in ("trials", "confirm"):
        assert without_time(records(disturbed, phase)) == without_time(records(straight, phase)), phase
    lists = [
        {path.name: path.read_text() for path in folder.glob("runs/s/splits/*")} for folder in (straight, disturbed)
    ]
    assert lists[0] == lists[1]
    assert set(lists[0]) == {"labelled.txt", "unlabelled.txt", "val.txt", "test.txt"}

    study = disturbed / "runs/s"
    record = read_run_record(study)
    assert record is not None
    replace(record, finished=False).write(study)  # as if it had been killed before its last line
    before = files(study)
    refused = run("harness.tune", "--resume", "--name=s", cwd=disturbed)
    assert (refused.code, refused.err.count("\n")) == (2, 1), refused
    assert "IMG_1008.JPG (unlabelled -> " in refused.err
    assert "python -m harness.tune --space runs/s/space.yaml --train runs/s/config.yaml" in refused.err
    assert files(study) == before, "nothing is written"
    (study / "trials.csv").unlink()  # as if killed earlier, when val counts as well
    again = run("harness.tune", "--resume", "--name=s", cwd=disturbed)
    assert again.code == 2
    assert again.err == refused.err.replace("held out", "val"), again
    for path in added:
        path.unlink()
    check_same_images(load_config(study / "config.yaml"), study, "")


def test_a_trial_whose_axis_changes_the_split_keeps_the_images_that_it_first_started_with(tmp_path: Path) -> None:
    root, folder = build_folder(tmp_path / "photos"), tmp_path / "trial"
    base = override(TrainConfig(), {"data.name": "folder", "data.root": str(root)})
    write_splits(tmp_path / "s", load_data(base.data))
    setup = TrialSetup(base, tmp_path / "s", RunRecord("tune", "", "", ""), Resources(), {"trials": "val/miou"})
    job = TrainJob(override(base, {"data.split_seed": 3}), folder, "", "", "trial")
    assert with_own_splits(job, setup).splits == folder / "splits"

    def lists() -> dict[str, str]:
        return {path.stem: path.read_text() for path in (folder / "splits").iterdir()}

    stored = lists()
    assert set(stored) == {"labelled", "unlabelled", "val"}
    added = label_more(root)
    with_own_splits(job, setup)
    assert lists() == stored
    (folder / "splits/val.txt").unlink()  # killed while it wrote them, so it has not trained yet
    with pytest.raises(RunFailed, match=r"IMG_1008.JPG \(unlabelled -> "):
        with_own_splits(job, setup)
    for path in added:
        path.unlink()
    with_own_splits(job, setup)
    assert lists() == stored
