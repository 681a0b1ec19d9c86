"""The step never waits for its device, and computes the same on each."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from classmix_core.batch_generator import BatchGenerator
from classmix_core.classmix import Batch, ClassMix
from classmix_core.config import MIXES, WEIGHTS
from tests.classmix_core.steps import PLAIN, group_network, make_batch, make_step, small_network, supervised

WAITS = {
    "_local_scalar_dense": "reads a value: .item(), float(), if tensor",
    "item": "reads a value",
    "is_nonzero": "reads a value",
    "equal": "reads a value",
    "nonzero": "its size depends on values",
    "masked_select": "its size depends on values",
    "_unique2": "its size depends on values",
    "unique_dim": "its size depends on values",
    "unique_consecutive": "its size depends on values",
    "bincount": "its size depends on values",
    "histc": "reads a value",
    "repeat_interleave.Tensor": "its size depends on values",
    "lift_fresh": "copies Python numbers to the device: torch.tensor(...)",
    "_linalg_check_errors": "reads whether it failed; the _ex variants do not",
    "multinomial": "checks its input",
    "randperm": "draws on the host",
}


class NothingWaits(TorchDispatchMode):
    """Fails on what would make the host wait for a CUDA device."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = op._schema.name.removeprefix("aten::")
        reason = WAITS.get(name) or WAITS.get(f"{name}.{op._overloadname}")
        assert reason is None, f"{op} waits for the device: it {reason}"
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
            assert not masks, f"{op} by a mask waits for the device: its size depends on values"
        return op(*args, **(kwargs or {}))


def test_the_watch_for_waiting_sees_what_waits() -> None:
    value = torch.tensor([1.0, 2.0])
    for waits in (
        lambda: float(value[0]),
        lambda: value[value > 1],
        lambda: value.unique(),
        lambda: torch.tensor([1, 2]),
        lambda: torch.linalg.inv(torch.eye(2)),
        lambda: bool((value > 1).any()),
        lambda: value.masked_select(value > 1),
    ):
        with pytest.raises(AssertionError, match="waits for the device"), NothingWaits():
            waits()


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("mix", MIXES)
def test_no_step_waits_for_the_device(mix: str, weight: str) -> None:
    step, batch = make_step(mix=mix, weight=weight), make_batch()
    step.step(batch, 0)  # constants may reach the device once
    with NothingWaits():
        step.step(batch, 1)


@pytest.mark.parametrize("options", [{"teacher_mode": "eval"}, {"precision": "bf16"}, {"unlabelled_weight": 0.0}])
def test_no_kind_of_step_waits_for_the_device(options: dict[str, Any]) -> None:
    step, batch = make_step(**options), make_batch()
    if "unlabelled_weight" in options:
        batch = supervised(batch)
    step.step(batch, 0)
    with NothingWaits():
        step.step(batch, 1)


def cuda_step(cuda: torch.device, network: nn.Module, **options: Any) -> ClassMix:
    return make_step(network.to(cuda), generator=BatchGenerator(cuda).manual_seed(16), **options)


def to(batch: Batch, device: torch.device) -> Batch:
    return Batch(*(tensor.to(device) for tensor in batch))


@pytest.mark.gpu
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("mix", MIXES)
def test_no_step_on_cuda_waits_for_the_device(mix: str, weight: str, cuda: torch.device) -> None:
    step = cuda_step(cuda, small_network(), mix=mix, weight=weight)
    batch = to(make_batch(), cuda)
    step.step(batch, 0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step.step(batch, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_cpu_and_cuda_agree_on_a_fixed_batch(cuda: torch.device) -> None:
    options: dict[str, Any] = {"mix": "none", "tau": 0.25, **PLAIN}
    on_cuda, on_cpu = cuda_step(cuda, group_network(), **options), make_step(group_network(), **options)
    for index in range(3):
        ours = on_cuda.step(to(make_batch(index), cuda), index)
        theirs = on_cpu.step(make_batch(index), index)
        for a, b in zip(ours, theirs, strict=True):
            assert float(a) == pytest.approx(float(b), rel=1e-2, abs=1e-3)


@pytest.mark.gpu
def test_a_bf16_step_on_cuda_is_finite(cuda: torch.device) -> None:
    step = cuda_step(cuda, small_network(), precision="bf16", tau=0.0)
    for index in range(3):
        assert all(bool(value.isfinite()) for value in step.step(to(make_batch(index), cuda), index))
    assert all(bool(p.isfinite().all()) for p in (*step.student.parameters(), *step.teacher.parameters()))
