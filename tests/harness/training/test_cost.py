"""What a training costs: its time, that of earlier tries included, by the cores and GPUs that it has to itself."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from harness.cli.display import format_cost
from harness.errors import Interrupted, RunFailed
from harness.tracking.run import Run
from harness.training.context import LocalContext
from harness.training.cost import Cost, cost
from tests.harness.training.test_trainer import CONFIG, Loop, override


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("device", "workers", "share", "cores", "gpus"),
    [("cpu", 1, 1.0, 3, None), ("cpu", 4, 1.0, 12, None), ("cuda", 2, 1.0, 6, 2), ("cuda", 1, 0.25, 3, 0.25)],
)
def test_hours_are_time_by_threads_and_by_gpus_of_all_workers(
    three_threads: None, device: str, workers: int, share: float, cores: float, gpus: float | None
) -> None:
    context = LocalContext(torch.device(device), print, world_size=workers, gpu_share=share)
    spent = Cost(context)
    spent.before = 7200.0 * workers
    found = spent.metrics()
    assert found["cost/core_hours"] == pytest.approx(2 * cores, rel=1e-3)
    assert found.get("cost/gpu_hours") == (None if gpus is None else pytest.approx(2 * gpus, rel=1e-3))


def test_it_is_one_short_text() -> None:
    assert format_cost(cost(1800, 4, 0)) == "2 core-hours"
    assert format_cost(cost(36, 1, 0.25)) == "0.01 core-hours, 0.0025 GPU-hours"


def logged(loop: Loop) -> list[float]:
    history = MlflowClient(loop.uri).get_metric_history(loop.run_id, "cost/core_hours")
    return [point.value for point in sorted(history, key=lambda point: point.step)]


def test_a_resumed_training_counts_its_earlier_tries(
    tmp_path: Path, store: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, costs = Loop(tmp_path / "a", store), []

    def noted(context: LocalContext) -> Cost:
        costs.append(Cost(context))
        return costs[-1]

    monkeypatch.setattr("harness.training.cost.Cost", noted)
    with pytest.raises(Interrupted):
        loop.go(lambda loop: bool(loop.shown) and loop.shown[-1].step >= 2)
    taken = time.monotonic() - costs[0].start
    (first,) = logged(loop)
    assert first == pytest.approx(taken * torch.get_num_threads() / 3600, rel=0.3)
    loop.go()
    assert [value > first for value in logged(loop)] == [False, True]


def test_a_training_that_fails_has_its_cost_logged_too(tmp_path: Path, store: tuple[str, str]) -> None:
    loop = Loop(tmp_path / "a", store, override(CONFIG, {"optim.lr": 1e30, "log_every": 1}))
    with pytest.raises(RunFailed, match="the loss is"):
        loop.go()
    assert len(logged(loop)) == 1


def test_what_mlflow_refuses_does_not_hide_why_a_training_failed(tmp_path: Path, store: tuple[str, str]) -> None:
    spent, run = Cost(LocalContext(torch.device("cpu"), print)), Run(store[0], "no such run", tmp_path)
    run.tags({"a": "b"})
    with pytest.raises(MlflowException, match="no such run"):
        run.settle()
    with pytest.raises(RunFailed, match="the reason"), spent.logged(run, lambda: 1):
        raise RunFailed("the reason")
