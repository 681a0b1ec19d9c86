"""Checkpoints appear whole or not at all."""

from pathlib import Path

import pytest
import torch

from harness.errors import UserError
from harness.training import checkpoint


def save(folder: Path, step: int, rank: int = 0) -> None:
    shared = {"step": step, "weights": torch.arange(step)}
    checkpoint.save(folder, step, lambda: shared, {"rank": rank}, rank, barrier=lambda: None)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    save(tmp_path, 3)
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    shared, own = checkpoint.load(newest, 0)
    assert shared["step"] == 3
    assert torch.equal(shared["weights"], torch.arange(3))
    assert own == {"rank": 0}


def test_a_worker_that_was_not_there_has_no_state_of_its_own(tmp_path: Path) -> None:
    save(tmp_path, 3)
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    assert checkpoint.load(newest, 1)[1] is None


def test_only_the_newest_is_kept(tmp_path: Path) -> None:
    for step in (9, 10, 11):
        save(tmp_path, step)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000011"]


def test_a_save_that_is_cut_off_leaves_the_one_before(tmp_path: Path) -> None:
    save(tmp_path, 3)

    def cut_off() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, 6, lambda: {"step": 6}, {}, 0, barrier=cut_off)
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    assert newest.name == "step_00000003"
    save(tmp_path, 6)
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    assert checkpoint.load(newest, 0)[0]["step"] == 6


def test_saving_a_step_again_never_leaves_it_incomplete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 3)
    monkeypatch.setattr("shutil.rmtree", lambda path: pytest.fail(f"{path} was there and is gone"))
    checkpoint.save(tmp_path, 3, lambda: {"step": 3, "again": True}, {"rank": 0}, 0, barrier=lambda: None)
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    assert checkpoint.load(newest, 0)[0] == {"step": 3, "again": True}


def test_an_empty_folder_has_none(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None


def test_weights_come_back(tmp_path: Path) -> None:
    model, other = torch.nn.Conv2d(2, 3, 1), torch.nn.Conv2d(2, 3, 1)
    checkpoint.save_weights(tmp_path / "a.safetensors", model)
    checkpoint.load_weights(tmp_path / "a.safetensors", other)
    assert torch.equal(model.weight, other.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("found", [None, 99])
def test_a_checkpoint_of_another_format_is_one_line_with_the_file(found: int | None, tmp_path: Path) -> None:
    save(tmp_path, 3)
    newest = checkpoint.newest(tmp_path)
    assert newest is not None
    torch.save({"step": 3} if found is None else {"format": found, "step": 3}, newest / "state.pt")
    with pytest.raises(
        UserError, match=rf"{newest}/state.pt: format must be 1, but got {'none' if found is None else 99}"
    ):
        checkpoint.load(newest, 0)
