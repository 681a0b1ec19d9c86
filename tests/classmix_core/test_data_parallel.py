"""One step over several pieces or workers trains what one worker trains in one piece."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from classmix_core.augment import to_float
from classmix_core.batch_generator import BatchGenerator
from classmix_core.classmix import Batch, Mixed, StepResult
from classmix_core.config import MIXES, WEIGHTS
from classmix_core.constants import IGNORE_INDEX
from classmix_core.workers import already, from_next_worker, mean_later
from tests.classmix_core.steps import H, K, W, group_network, make_batch, make_step, pixel_network


def part(values: Any, rank: int, size: int) -> Any:
    """The rank's share of each tensor of a Batch or Mixed."""
    return type(values)(*(tensor[rank * size : (rank + 1) * size] for tensor in values))


@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_mean_loss_of_two_workers_is_the_loss_of_one_with_both_batches(weight: str) -> None:
    draw = torch.Generator().manual_seed(19)
    batch = make_batch(labelled=4, unlabelled=6)
    batch.label_LHW[:2, :7] = IGNORE_INDEX  # the first worker has fewer labelled pixels
    image = to_float(batch.image_UCHW)
    label = torch.randint(0, K, (6, H, W), generator=draw).masked_fill(batch.padding_UHW == IGNORE_INDEX, IGNORE_INDEX)
    mixed = Mixed(image, image, label > 0, image, label, torch.rand(6, H, W, generator=draw) ** 0.2)
    labelled = (to_float(batch.image_LCHW), batch.label_LHW)
    network, counts = pixel_network(), []

    def loss(mean: Callable[[Tensor], Tensor], rank: int | None) -> StepResult:
        step = make_step(network, weight=weight, tau=0.8, mean_later=lambda value: already(mean(value)))
        if rank is None:
            return step.losses(*step.semi_supervised_targets(*labelled, mixed, 4))
        own = [tensor[2 * rank : 2 * rank + 2] for tensor in labelled]
        return step.losses(*step.semi_supervised_targets(*own, part(mixed, rank, 3), 4))

    def note(value: Tensor) -> Tensor:
        counts.append(value)
        return value

    for rank in (0, 1):
        loss(note, rank)
    mean = (counts[0] + counts[1]) / 2
    assert counts[0][0] < 0.8 * counts[1][0]
    workers = [loss(lambda _: mean, rank) for rank in (0, 1)]
    whole = loss(lambda value: value, None)
    for name in StepResult._fields:
        torch.testing.assert_close(sum(getattr(worker, name) for worker in workers) / 2, getattr(whole, name))


COMBINATIONS = list(product(MIXES, WEIGHTS))


def train_on(rank: int, workers: int, accumulate: int, sync_file: str, out: str) -> None:
    """Train on this rank's part of a fixed stream of batches, for each mask and lambda, and save the networks."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{sync_file}", rank=rank, world_size=workers)
    wrap = partial(nn.parallel.DistributedDataParallel, broadcast_buffers=False)
    options = {"mean_later": mean_later, "from_next_worker": from_next_worker, "accumulate": accumulate}
    trained = [train_combination(mix, weight, rank, workers, wrap=wrap, **options) for mix, weight in COMBINATIONS]
    if rank == 0:
        torch.save(trained, out)
    torch.distributed.barrier()  # one that leaves early makes the other abort, seen on a busy machine
    torch.distributed.destroy_process_group()


def train_combination(
    mix: str,
    weight: str,
    rank: int,
    workers: int,
    wrap: Callable[[nn.Module], nn.Module] = lambda net: net,
    **options: Any,
) -> dict[str, Tensor]:
    """20 steps with everything that is random on; student, teacher, and lambda at each step. In one of some
    thousand steps a pixel is so near to tau, or to the edge of two classes, that rounding decides, which moves weights
    by 1e-4; among these batches there is none such."""
    generator = BatchGenerator(rank=rank, world_size=workers).manual_seed(16)
    step = make_step(group_network(), lr=0.02, tau=0.3, mix=mix, weight=weight, generator=generator, **options)
    student, shares = step.student, []
    step.student = wrap(student)
    for index in range(20):
        batch = make_batch(1000 + index, labelled=8, unlabelled=8)
        batch.label_LHW[:2, :5] = IGNORE_INDEX
        mine = [tensor[rank * len(tensor) // workers : (rank + 1) * len(tensor) // workers] for tensor in batch]
        shares.append(step.mean_later(step.step(Batch(*mine), index).lambda_)())
    networks = {"student": student.state_dict(), "teacher": step.teacher.state_dict()}
    weights = {f"{which}.{name}": value for which, state in networks.items() for name, value in state.items()}
    return weights | {"lambda": torch.stack(shares)}


def assert_same_training(found: dict[str, Tensor], whole: dict[str, Tensor]) -> None:
    for name, value in whole.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5)


@contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def one_worker() -> list[dict[str, Tensor]]:
    """With as many threads as the workers: another order of sums moved one pixel across tau, and weights by 1e-4."""
    with one_thread():
        trained = [train_combination(mix, weight, 0, 1) for mix, weight in COMBINATIONS]
    start = group_network().state_dict()
    for (mix, weight), whole in zip(COMBINATIONS, trained, strict=True):
        assert any(not torch.allclose(start[name], whole[f"student.{name}"], atol=1e-3) for name in start)
        trivial = ((whole["lambda"] < 0.02) | (whole["lambda"] > 0.98)).all()
        assert trivial == (weight == "constant"), (mix, weight, whole["lambda"])
    return trained


def test_a_step_in_two_pieces_trains_the_same_weights(one_worker: list[dict[str, Tensor]]) -> None:
    with one_thread():
        for (mix, weight), whole in zip(COMBINATIONS, one_worker, strict=True):
            assert_same_training(train_combination(mix, weight, 0, 1, accumulate=2), whole)


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
@pytest.mark.parametrize(("workers", "accumulate"), [(2, 1), (4, 2)])
def test_several_workers_train_the_same_weights_as_one_with_the_same_batch(
    workers: int, accumulate: int, tmp_path: Path, one_worker: list[dict[str, Tensor]]
) -> None:
    arguments = (workers, accumulate, str(tmp_path / "sync"), str(tmp_path / "out"))
    torch.multiprocessing.spawn(train_on, arguments, workers)
    for found, whole in zip(torch.load(tmp_path / "out"), one_worker, strict=True):
        assert_same_training(found, whole)
