"""The loop in a plain process: the same seed, an interruption and a resume change no bit."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from classmix_core.config import InferenceConfig
from classmix_core.data import load_data
from classmix_core.evaluate import evaluate
from classmix_core.metrics import mean_iou
from classmix_core.models import build_model
from harness.config.train import TrainConfig, override
from harness.errors import Interrupted, RunFailed, UserError
from harness.tracking.experiment import find_or_create_experiment
from harness.tracking.store import create_run
from harness.training import checkpoint
from harness.training.context import LocalContext, Progress, TrialContext
from harness.training.trainer import Trainer, TrainJob, train

CONFIG = override(
    TrainConfig(),
    {
        "steps": 6,
        "eval_every": 3,
        "checkpoint_every": 2,
        "log_every": 2,
        "data.batch_labelled": 2,
        "data.batch_unlabelled": 2,
        "data.crop": (24, 40),
        "data.scale": (0.7, 1.5),
        "model.width": 4,
        "model.depth": 1,
        "ssl.tau": 0.3,
    },
)


class Loop:
    """A run in a folder, with what it showed and reported."""

    def __init__(self, folder: Path, store: tuple[str, str], config: TrainConfig = CONFIG) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.uri = store[0]
        self.run_id = create_run(*store, folder.name, {})
        self.job = TrainJob(config, folder, store[0], self.run_id)
        self.shown: list[Progress] = []

    def go(self, stopping: Callable[["Loop"], bool] = lambda loop: False) -> dict[str, float]:
        context = LocalContext(torch.device("cpu"), self.shown.append, lambda: stopping(self))
        return {key: value for key, value in train(self.job, context).items() if not key.startswith("cost/")}

    def state(self) -> dict[str, object]:
        newest = checkpoint.newest(self.job.folder)
        assert newest is not None
        shared, own = checkpoint.load(newest, 0)
        assert shared.pop("worker_seconds") > 0  # which no two runs have in common
        return {"shared": shared, "own": own}


def assert_same(left: object, right: object, path: str = "") -> None:
    assert type(left) is type(right), path
    if isinstance(left, dict):
        assert isinstance(right, dict)
        assert left.keys() == right.keys(), path
        for key in left:
            assert_same(left[key], right[key], f"{path}.{key}")
    elif isinstance(left, list | tuple):
        assert isinstance(right, list | tuple)
        for index, (one, other) in enumerate(zip(left, right, strict=True)):
            assert_same(one, other, f"{path}.{index}")
    elif isinstance(left, torch.Tensor):
        assert isinstance(right, torch.Tensor)
        assert torch.equal(left, right), path
    else:
        assert left == right or (left != left and right != right), path


def test_the_same_seed_gives_the_same_state_and_another_seed_does_not(tmp_path: Path, store: tuple[str, str]) -> None:
    first, second = Loop(tmp_path / "a", store), Loop(tmp_path / "b", store)
    other = Loop(tmp_path / "c", store, override(CONFIG, {"seed": 1}))
    for loop in (first, second, other):
        loop.go()
    assert_same(first.state(), second.state())
    with pytest.raises(AssertionError):
        assert_same(first.state(), other.state())


@pytest.mark.parametrize("changes", [{}, {"optim.name": "adamw"}, {"model.name": "lraspp_mobilenet_v3_large"}])
@pytest.mark.parametrize("stop_at", [1, 3, 4])
def test_interrupted_and_resumed_equals_straight_bit_for_bit(
    tmp_path: Path, store: tuple[str, str], stop_at: int, changes: dict[str, object]
) -> None:
    config = override(CONFIG, {"log_every": 1} | changes)  # so that every step is shown
    straight, resumed = Loop(tmp_path / "straight", store, config), Loop(tmp_path / "resumed", store, config)
    expected = straight.go()
    with pytest.raises(Interrupted):
        resumed.go(lambda loop: bool(loop.shown) and loop.shown[-1].step >= stop_at)
    assert resumed.state()["shared"]["step"] == stop_at  # type: ignore[index]
    assert resumed.go() == expected
    assert_same(straight.state(), resumed.state())


def test_a_killed_run_goes_on_from_its_newest_checkpoint_as_if_straight(tmp_path: Path, store: tuple[str, str]) -> None:
    straight, killed = Loop(tmp_path / "straight", store), Loop(tmp_path / "killed", store)
    expected = straight.go()

    def die(loop: Loop) -> bool:
        if loop.shown and loop.shown[-1].step >= 4 and checkpoint.newest(loop.job.folder) is not None:
            raise MemoryError("killed")
        return False

    with pytest.raises(MemoryError):
        killed.go(die)
    assert killed.go() == expected
    assert_same(straight.state(), killed.state())


@pytest.mark.parametrize(
    ("damaged", "start"),
    [
        ({"step_00000004": "state.pt"}, "going on from step 3"),
        ({"step_00000004": "rank_0.pt"}, "going on from step 3"),
        ({"step_00000004": "manifest.json"}, "going on from step 3"),
        ({"step_00000004": "state.pt", "step_00000003": "rank_0.pt"}, "starting from the beginning"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_the_run_ends_as_if_straight(
    tmp_path: Path, store: tuple[str, str], damaged: dict[str, str], start: str
) -> None:
    straight, resumed = Loop(tmp_path / "straight", store), Loop(tmp_path / "resumed", store)
    expected = straight.go()
    with pytest.raises(Interrupted):
        resumed.go(lambda loop: bool(loop.shown) and loop.shown[-1].step >= 4)
    for name, file in damaged.items():
        path = resumed.job.folder / "checkpoints" / name / file
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    del resumed.shown[:]
    assert resumed.go() == expected
    assert_same(straight.state(), resumed.state())
    weights = [(loop.job.folder / checkpoint.BEST).read_bytes() for loop in (straight, resumed)]
    assert weights[0] == weights[1]
    message = resumed.shown[0].message
    assert message is not None
    assert message.startswith(start)
    for name, file in damaged.items():
        assert f"checkpoints/{name}: {file} " in message
    assert MlflowClient(resumed.uri).get_run(resumed.run_id).data.tags["harness.warning"] == message


def test_the_best_weights_are_those_of_the_step_that_the_checkpoint_names_wherever_a_run_is_killed(
    tmp_path: Path, store: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, killed = Loop(tmp_path / "straight", store), Loop(tmp_path / "killed", store)
    expected, folder = straight.go(), killed.job.folder
    for method in ("save", "save_weights"):  # before the checkpoint of step 3, and before the weights

        def die(*_: object) -> None:
            raise MemoryError("killed")

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.Checkpoints, method, die)
            with pytest.raises(MemoryError):
                killed.go()
        newest = checkpoint.newest(folder)
        assert not (folder / checkpoint.BEST).exists(), "no checkpoint names it, or it was killed before it came"
        assert (newest is not None) == (method == "save_weights")
    with pytest.raises(Interrupted):
        killed.go(lambda loop: True)  # a step more, which is not the best
    assert (folder / checkpoint.BEST).exists()
    assert killed.go() == expected
    assert (folder / checkpoint.BEST).read_bytes() == (straight.job.folder / checkpoint.BEST).read_bytes()


@pytest.mark.parametrize("file", ["best.safetensors", "best_teacher.safetensors"])
def test_weights_that_are_damaged_when_they_are_scored_on_test_are_one_line(
    file: str, tmp_path: Path, store: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = Loop(tmp_path / "a", store)
    loop.go()
    monkeypatch.setattr(Trainer, "at_best", False)  # else it writes them again
    path = loop.job.folder / file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"^{path}: must hold the weights of the network, but got: [^\n]*$"):
        loop.go()


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_both_networks_are_scored_at_the_last_step_and_at_the_best_one(
    tmp_path: Path, store: tuple[str, str], network: str
) -> None:
    """Looked at as the configuration says, by windows and mirrored; test/miou is of the chosen network's best."""
    changes = {"eval.network": network, "eval.window": (24, 40), "eval.flip": True, "optim.lr": 0.3, "steps": 9}
    config = override(CONFIG, changes)
    loop = Loop(tmp_path / "a", store, config)
    metrics = loop.go()
    data = load_data(config.data)
    last = loop.state()["shared"]
    other = "teacher" if network == "student" else "student"
    files = {network: checkpoint.BEST, other: f"best_{other}.safetensors"}

    def score(name: str, which: str) -> float:
        model = build_model(config.model, len(data.classes))
        if which == "best":
            checkpoint.load_weights(loop.job.folder / files[name], model)
        else:
            model.load_state_dict(last[name])  # type: ignore[index]
        assert data.test is not None
        images = [data.test.image(index) for index in range(len(data.test.names))]
        labels = [data.test.label(index) for index in range(len(data.test.names))]
        batches = [(torch.stack(images), torch.stack(labels))]
        cpu, inference = torch.device("cpu"), InferenceConfig(window=(24, 40), flip=True)
        return mean_iou(evaluate(model, batches, len(data.classes), cpu, inference=inference))

    expected = {(name, which): score(name, which) for name in files for which in ("best", "final")}
    for (name, which), value in expected.items():
        assert metrics[f"test/{which}_{name}_miou"] == pytest.approx(value, abs=1e-9), (name, which)
    assert len(set(expected.values())) >= 2
    assert metrics["test/miou"] == metrics[f"test/best_{network}_miou"]
    assert metrics["test/final_miou"] == metrics[f"test/final_{network}_miou"]


def test_a_report_that_the_search_may_not_have_heard_is_made_again(tmp_path: Path, store: tuple[str, str]) -> None:
    """The driver was killed between the checkpoint and its answer."""
    loop = Loop(tmp_path / "a", store, override(CONFIG, {"checkpoint_every": 3}))
    job = replace(loop.job, purpose="trial")
    heard: list[dict[str, float]] = []

    def dead(metrics: dict[str, float]) -> bool:
        raise MemoryError(metrics)

    def hear(metrics: dict[str, float]) -> bool:
        heard.append(metrics)
        return True

    with pytest.raises(MemoryError) as unheard:
        train(job, TrialContext(torch.device("cpu"), loop.shown.append, tell=dead))
    train(job, TrialContext(torch.device("cpu"), loop.shown.append, tell=hear))
    marks = range(CONFIG.eval_every, CONFIG.steps + 1, CONFIG.eval_every)
    assert [metrics["step"] for metrics in heard] == list(marks)
    assert heard[0] == unheard.value.args[0]


def test_a_run_killed_after_its_last_checkpoint_still_gives_its_result(tmp_path: Path, store: tuple[str, str]) -> None:
    loop = Loop(tmp_path / "a", store)
    expected = loop.go()
    assert loop.go() == expected


def test_the_supervised_baseline_draws_no_unlabelled_image(tmp_path: Path, store: tuple[str, str]) -> None:
    loop = Loop(tmp_path / "a", store, override(CONFIG, {"ssl.unlabelled_weight": 0.0}))
    loop.go()
    metrics = MlflowClient(loop.uri).get_run(loop.run_id).data.metrics
    assert metrics["train/loss_unlabelled"] == 0
    assert metrics["train/lambda"] == 0
    assert metrics["train/loss"] == metrics["train/loss_labelled"]


def test_metrics_have_their_names_and_steps(tmp_path: Path, store: tuple[str, str]) -> None:
    loop = Loop(tmp_path / "a", store)
    result = loop.go()
    client = MlflowClient(loop.uri)
    metrics = client.get_run(loop.run_id).data.metrics
    training = ["loss", "loss_labelled", "loss_unlabelled", "lambda", "lr", "images_per_second", "data_wait"]
    assert {f"train/{name}" for name in training} <= metrics.keys()
    assert 0 < metrics["train/data_wait"] < 1
    for role in ("val", "test"):
        assert {f"{role}/miou", f"{role}/accuracy", f"{role}/iou/sky"} <= metrics.keys()
    assert [point.step for point in client.get_metric_history(loop.run_id, "train/loss")] == [2, 4, 6]
    assert [point.step for point in client.get_metric_history(loop.run_id, "val/miou")] == [3, 6]
    assert [point.step for point in client.get_metric_history(loop.run_id, "test/miou")] == [6]
    assert metrics["test/miou"] == result["test/miou"]


def test_pictures_and_tables_are_logged(tmp_path: Path, store: tuple[str, str]) -> None:
    loop = Loop(tmp_path / "a", store)
    loop.go()
    client = MlflowClient(loop.uri)
    files = [item.path for folder in ("test", "images") for item in client.list_artifacts(loop.run_id, folder)]
    assert {"test/classes.json", "test/confusion_matrix.png"} <= set(files)
    assert any("mix" in file for file in files)
    assert any("prediction" in file for file in files)


def test_panels_change_no_bit_of_the_training(
    tmp_path: Path, store: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_panels, without = Loop(tmp_path / "a", store), Loop(tmp_path / "b", store)
    with_panels.go()
    monkeypatch.setattr("harness.training.trainer.draw_panels", lambda *_: {})
    without.go()
    assert_same(with_panels.state(), without.state())


ASPP = {"model.name": "deeplabv3_mobilenet_v3_large", "data.scale": (1.0, 1.0), "data.crop": (32, 40), "steps": 3}


def test_one_unlabelled_image_is_enough_for_the_panels_of_a_network_that_pools(
    tmp_path: Path, store: tuple[str, str], folder_root: Path
) -> None:
    shutil.rmtree(folder_root / "unlabelled")
    (folder_root / "images/a/photo 04.jpg").unlink()
    data = {"data.name": "folder", "data.root": str(folder_root), "data.resize": (32, 40), "data.crop": None}
    loop = Loop(tmp_path / "run", store, override(CONFIG, ASPP | data))
    assert len(load_data(loop.job.config.data).unlabelled.names) == 1
    assert "test/miou" in loop.go()


def test_a_pass_of_one_image_that_was_not_refused_before_is_one_line(tmp_path: Path, store: tuple[str, str]) -> None:
    """Such as after a resume with another `accumulate`, or in a trial."""
    loop = Loop(tmp_path / "run", store, override(CONFIG, ASPP | {"accumulate": 2}))
    with pytest.raises(UserError, match=r"accumulate: `a pass has 2 images or more"):
        loop.go()


def test_a_loss_that_is_not_finite_ends_the_run_with_advice(tmp_path: Path, store: tuple[str, str]) -> None:
    loop = Loop(tmp_path / "a", store, override(CONFIG, {"optim.lr": 1e30, "steps": 20, "checkpoint_every": 20}))
    with pytest.raises(RunFailed, match=r"loss is .* at step .*optim.lr"):
        loop.go()


def test_a_trial_never_opens_test(tmp_path: Path, store: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(tmp_path / "a", store)
    loop.job = TrainJob(CONFIG, loop.job.folder, loop.uri, loop.run_id, purpose="trial")
    result = loop.go()
    assert not any(key.startswith("test") for key in result)


def test_experiments_are_made_once(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert (
        find_or_create_experiment(uri, "x")
        == find_or_create_experiment(uri, "x")
        != find_or_create_experiment(uri, "y")
    )
