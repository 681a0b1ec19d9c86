"""How many workers a training may have."""

from pathlib import Path
from typing import Any

import pytest

from harness.cli import capacity
from harness.cli.capacity import find_team
from harness.cli.options import CommonOptions
from harness.config.train import train_config
from harness.errors import UserError
from harness.train import build_parser


def team(monkeypatch: pytest.MonkeyPatch, there: dict[str, float], *words: str) -> capacity.Team:
    """Of a training on a cluster that has so much."""
    monkeypatch.setattr(capacity, "available", lambda address, needs: (there, "the cluster"))
    parsed = build_parser().read(["--address=auto", *words])
    return find_team(train_config(parsed.as_dict()), CommonOptions.of(parsed), words)


@pytest.mark.parametrize(
    ("there", "words", "numbers", "on_gpus"),
    [
        ({"CPU": 8}, ("--workers=4",), (4,), False),
        ({"CPU": 8, "GPU": 3}, (), (3,), True),
        ({"CPU": 8, "GPU": 3}, ("--data.batch_labelled=4", "--data.batch_unlabelled=4"), (2,), True),
        ({"CPU": 8}, ("--workers=1:8",), (1, 2, 4, 8), False),  # that 32 + 32 images can be shared by
        ({"CPU": 2}, ("--workers=2:6",), (2, 3, 4, 6), False),
        ({"CPU": 2}, ("--gpus=0", "--workers", "1:3"), (1, 2, 3), False),
        ({"CPU": 8, "GPU": 1}, ("--gpus=1:4",), (1, 2, 4), True),
        ({"CPU": 8, "GPU": 2}, ("--workers=1:4",), (1, 2, 4), True),
        ({"CPU": 8}, ("--wait", "--gpus=2"), (2,), True),
        ({"CPU": 1}, ("--wait", "--gpus=0", "--workers=4"), (4,), False),
    ],
)
def test_the_numbers_of_workers_that_may_train(
    monkeypatch: pytest.MonkeyPatch, there: dict[str, float], words: tuple[str, ...], numbers: Any, on_gpus: bool
) -> None:
    found = team(monkeypatch, there, *words)
    assert (found.numbers, found.on_gpus) == (numbers, on_gpus)


@pytest.mark.parametrize(
    ("there", "words", "message"),
    [
        ({"CPU": 8}, ("--wait",), "--wait: what is waited for must be given"),
        ({"CPU": 8}, ("--wait", "--workers=4"), "--gpus 0 for the CPU"),
        ({"CPU": 3}, ("--workers=4",), "workers: 4 asked for, but the cluster has 3"),
        ({"CPU": 1}, ("--workers=2:4",), "workers: 2 asked for, but the cluster has 1"),
        ({"GPU": 1}, ("--gpus=2:4",), "gpus: 2 asked for, but the cluster has 1"),
        ({"GPU": 2}, ("--workers=4",), "workers: 4 asked for, but the cluster has 2 GPU"),
        ({"CPU": 8}, ("--workers=4:2",), r"min_workers: `min_workers <= workers \(2\)`"),
        ({"CPU": 8}, ("--workers=0:2",), "min_workers: `min_workers >= 1`"),
        ({"CPU": 8}, ("--workers=1:3", "--data.batch_labelled=4"), "data.batch_labelled"),
    ],
)
def test_what_cannot_be_is_refused(
    monkeypatch: pytest.MonkeyPatch, there: dict[str, float], words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        team(monkeypatch, there, *words)


def test_more_workers_than_this_machine_has_cpus_get_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(capacity, "available", lambda address, needs: ({"CPU": 2}, "this machine"))
    for workers, words in ((2, ""), (3, "3 workers share 2 CPUs")):
        parsed = build_parser().read([f"--workers={workers}"])
        found = find_team(train_config(parsed.as_dict()), CommonOptions.of(parsed), ())
        err = capsys.readouterr().err
        assert found.most == workers
        assert words in err if words else not err


def test_a_stored_configuration_is_elastic_as_well(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("workers: 4\nmin_workers: 2\n")
    config = train_config(build_parser().read([f"--config={tmp_path}/config.yaml"]).as_dict())
    assert (config.min_workers, config.workers) == (2, 4)
