"""The step: mixing against loops over pixels, who learns, randomness, workers, and the device that is never waited for.

Shapes: L labelled, U unlabelled images, K classes, H W image.
"""

import copy
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils._python_dispatch import TorchDispatchMode

from classmix_core.augment import to_float
from classmix_core.batch_generator import BatchGenerator
from classmix_core.classmix import Batch, ClassMix, Mixed, StepResult, mix_unlabelled
from classmix_core.config import MIXES, WEIGHTS, ClassMixConfig, ModelConfig, OptimConfig
from classmix_core.constants import IGNORE_INDEX
from classmix_core.ema import make_teacher
from classmix_core.errors import InvalidValue
from classmix_core.losses import labelled_loss, pixel_loss, sigmoid_ramp
from classmix_core.models import build_model
from classmix_core.optim import build_optimizer, build_schedule
from classmix_core.pseudo_label import pseudo_label
from classmix_core.workers import already, from_next_worker, mean_later

L, U, K, H, W = 2, 3, 5, 11, 13


def small_network(seed: int = 13) -> nn.Module:
    """Batch norm and dropout, the two layers whose mode matters."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(6, K, 1)
    )


def pixel_network(seed: int = 14) -> nn.Module:
    """Each pixel for itself, sure of its labels, and without randomness or statistics."""
    torch.manual_seed(seed)
    network = nn.Conv2d(3, K, 1)
    with torch.no_grad():
        network.weight *= 6
    return network


def group_network() -> nn.Module:
    torch.manual_seed(15)
    return build_model(ModelConfig(width=4, depth=1, norm="group"), K)


def make_step(
    network: nn.Module | None = None, *, lr: float = 0.05, seed: int = 16, steps: int = 40, **options: Any
) -> ClassMix:
    """`options` that are fields of ClassMixConfig go there, others to ClassMix."""
    student = small_network() if network is None else network
    optimizer = build_optimizer(student, (), OptimConfig(lr=lr)) if lr else torch.optim.SGD(student.parameters(), 0.0)
    config = ClassMixConfig(**{k: options.pop(k) for k in list(options) if k in ClassMixConfig.__dataclass_fields__})
    options.setdefault("generator", BatchGenerator().manual_seed(seed))
    teacher, schedule = make_teacher(student), build_schedule(optimizer, steps, 0.9)
    return ClassMix(student, teacher, optimizer, schedule, num_classes=K, config=config, steps=steps, **options)


def make_batch(seed: int = 17, labelled: int = L, unlabelled: int = U) -> Batch:
    """About a fifth of the labels is ignored; the last unlabelled image has padding at its right."""
    draw = torch.Generator().manual_seed(seed)

    def uint8(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, dtype=torch.uint8, generator=draw)

    label_LHW = uint8(K, labelled, H, W)
    label_LHW[torch.rand(label_LHW.shape, generator=draw) < 0.2] = IGNORE_INDEX
    image_UCHW, padding_UHW = uint8(256, unlabelled, 3, H, W), torch.zeros(unlabelled, H, W, dtype=torch.uint8)
    image_UCHW[-1, :, :, -4:], padding_UHW[-1, :, -4:] = 0, IGNORE_INDEX
    return Batch(uint8(256, labelled, 3, H, W), label_LHW, image_UCHW, padding_UHW)


def supervised(batch: Batch) -> Batch:
    return Batch(batch.image_LCHW, batch.label_LHW)


PLAIN: dict[str, Any] = {"jitter": 0.0, "blur": 0.0, "flips": False}
"""Nothing random but the mask."""


class Calls:
    """Counts forward passes of a network and keeps the shape of the last input."""

    def __init__(self, network: nn.Module) -> None:
        self.count, self.shape = 0, torch.Size()
        network.register_forward_pre_hook(self.note)

    def note(self, network: nn.Module, inputs: tuple[Tensor]) -> None:
        self.count, self.shape = self.count + 1, inputs[0].shape


# ---- steps 1 to 3: label, draw, mix


def test_pseudo_label_is_the_teachers_argmax_and_its_softmax_probability() -> None:
    teacher, image = pixel_network(), to_float(make_batch().image_UCHW)
    label_UHW, confidence_UHW = pseudo_label(teacher, image)
    probability_UKHW = teacher(image).softmax(1)
    assert label_UHW.dtype == torch.uint8
    assert confidence_UHW.dtype == torch.float32
    assert torch.equal(label_UHW, probability_UKHW.argmax(1))
    torch.testing.assert_close(confidence_UHW, probability_UKHW.amax(1))


@pytest.mark.parametrize("mix", MIXES)
def test_image_i_is_pasted_onto_image_i_plus_1_with_its_labels_and_confidences(
    mix: str, generator: BatchGenerator
) -> None:
    teacher, batch = pixel_network(), make_batch()
    image, padding = to_float(batch.image_UCHW), batch.padding_UHW
    config = ClassMixConfig(mix=mix, jitter=0, blur=0)
    mixed = mix_unlabelled(teacher, image, padding, K, config, generator)
    label, confidence = pseudo_label(teacher, image)
    shown = set()
    for u, y, x in product(range(U), range(H), range(W)):
        source = u if mixed.mask_UHW[u, y, x] else (u + 1) % U
        shown.add((u, source))
        padded = padding[source, y, x] == IGNORE_INDEX
        assert torch.equal(mixed.image_UCHW[u, :, y, x], image[source, :, y, x])
        assert mixed.pseudo_label_UHW[u, y, x] == (IGNORE_INDEX if padded else label[source, y, x])
        assert mixed.confidence_UHW[u, y, x] == confidence[source, y, x]
    assert len(shown) == (U if mix == "none" else 2 * U)
    assert torch.equal(mixed.source_UCHW, image)
    assert torch.equal(mixed.target_UCHW, image[[1, 2, 0]])


def test_the_class_mask_is_half_of_the_classes_that_the_teacher_sees_in_the_source(generator: BatchGenerator) -> None:
    teacher, image = pixel_network(), to_float(make_batch().image_UCHW)
    padding = torch.zeros(U, H, W, dtype=torch.uint8)
    mixed = mix_unlabelled(teacher, image, padding, K, ClassMixConfig(), generator)
    for label, mask in zip(pseudo_label(teacher, image)[0], mixed.mask_UHW, strict=True):
        chosen = set(label[mask].tolist())
        assert len(chosen) == len(label.unique()) // 2 > 0
        assert chosen.isdisjoint(label[~mask].tolist())


def test_padding_is_never_chosen_by_class(generator: BatchGenerator) -> None:
    padding = torch.zeros(U, H, W, dtype=torch.uint8)
    padding[:, :, ::2] = IGNORE_INDEX
    image = to_float(make_batch().image_UCHW)
    for _ in range(10):
        mixed = mix_unlabelled(pixel_network(), image, padding, K, ClassMixConfig(), generator)
        assert mixed.mask_UHW.any()
        assert not mixed.mask_UHW[padding == IGNORE_INDEX].any()


@pytest.mark.parametrize("strong", ["jitter", "blur"])
def test_only_the_mixed_image_is_augmented_strongly(strong: str, generator: BatchGenerator) -> None:
    image, padding = to_float(make_batch().image_UCHW), torch.zeros(U, H, W, dtype=torch.uint8)
    config = ClassMixConfig(**{"mix": "none", "jitter": 0, "blur": 0, strong: 0.5, f"{strong}_probability": 1})
    mixed = mix_unlabelled(pixel_network(), image, padding, K, config, generator)
    assert torch.equal(mixed.source_UCHW, image)
    assert torch.equal(mixed.pseudo_label_UHW, pseudo_label(pixel_network(), image)[0])
    assert not torch.allclose(mixed.image_UCHW, image, atol=1e-3)


# ---- step 4: the loss


def hand_made(confidence_UHW: Tensor, ignored: slice | None = None) -> Mixed:
    draw = torch.Generator().manual_seed(18)
    image = torch.rand(U, 3, H, W, generator=draw)
    label = torch.randint(0, K, (U, H, W), generator=draw)
    if ignored is not None:
        label[:, :, ignored] = IGNORE_INDEX
    return Mixed(image, image, torch.ones(U, H, W, dtype=torch.bool), image, label, confidence_UHW)


def losses_of(step: ClassMix, mixed: Mixed, index: int = 0) -> StepResult:
    batch = make_batch()
    return step.losses(*step.semi_supervised_targets(to_float(batch.image_LCHW), batch.label_LHW, mixed, index))


@pytest.mark.parametrize("weight", ["image", "batch", "pixel"])
@pytest.mark.parametrize(("above", "lambda_"), [(-1e-6, 0.0), (0.0, 1.0), (1e-6, 1.0)])
def test_confidence_counts_from_tau_on_and_adds_no_loss_below(weight: str, above: float, lambda_: float) -> None:
    step = make_step(pixel_network(), tau=0.75, weight=weight)
    result = losses_of(step, hand_made(torch.full((U, H, W), 0.75 + above)))
    assert result.lambda_ == lambda_
    assert bool(result.loss_unlabelled > 0) == bool(lambda_)


@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_tau_0_counts_every_pixel_and_tau_1_the_certain_ones_alone(tau: float) -> None:
    confidence = torch.full((U, H, W), 0.999)
    confidence[0] = 1.0
    result = losses_of(make_step(pixel_network(), tau=tau, weight="batch"), hand_made(confidence))
    assert float(result.lambda_) == pytest.approx(1.0 if tau == 0 else 1 / U)


@pytest.mark.parametrize("weight", ["image", "batch", "pixel"])
def test_padding_counts_neither_as_confident_nor_as_a_pixel(weight: str) -> None:
    confidence = torch.zeros(U, H, W)
    confidence[:, :, 6:] = 1.0  # of the 9 columns that are no padding, 3 are confident
    step = make_step(pixel_network(), weight=weight)
    result = losses_of(step, hand_made(confidence, ignored=slice(9, None)))
    assert float(result.lambda_) == pytest.approx(3 / 9)


def test_lambda_image_weighs_each_image_by_its_own_share() -> None:
    confidence = torch.zeros(U, H, W)
    confidence[1] = 1.0
    mixed, network = hand_made(confidence), pixel_network()
    ce = nn.functional.cross_entropy(network(mixed.image_UCHW), mixed.pseudo_label_UHW, reduction="none")
    by_image, by_batch = (losses_of(make_step(network, weight=w), mixed).loss_unlabelled for w in ("image", "batch"))
    assert by_image.item() == pytest.approx(ce[1].sum().item() / ce.numel(), rel=1e-5)
    assert by_batch.item() == pytest.approx(ce.mean().item() / U, rel=1e-5)


def test_the_ramp_follows_the_share_of_all_steps() -> None:
    mixed = hand_made(torch.zeros(U, H, W))
    step = make_step(pixel_network(), weight="ramp", ramp_fraction=0.25, steps=40)
    for index, progress in ((0, 0.0), (5, 0.5), (10, 1.0), (39, 1.0)):
        assert float(losses_of(step, mixed, index).lambda_) == pytest.approx(sigmoid_ramp(progress))


def test_constant_weight_counts_every_pixel_fully() -> None:
    assert losses_of(make_step(pixel_network(), weight="constant"), hand_made(torch.zeros(U, H, W))).lambda_ == 1


@pytest.mark.parametrize("factor", [0.0, 1.0, 2.5])
def test_the_loss_is_labelled_plus_factor_times_unlabelled(factor: float) -> None:
    step = make_step(pixel_network(), unlabelled_weight=factor)
    result = losses_of(step, hand_made(torch.ones(U, H, W)))
    assert result.loss_unlabelled > 0
    torch.testing.assert_close(result.loss, result.loss_labelled + factor * result.loss_unlabelled)


def test_the_labelled_loss_is_that_of_the_labelled_images() -> None:
    batch, network = make_batch(), pixel_network()
    loss_LHW = pixel_loss(network(to_float(batch.image_LCHW)), batch.label_LHW)
    expected = labelled_loss(loss_LHW, (batch.label_LHW != IGNORE_INDEX).sum())
    torch.testing.assert_close(losses_of(make_step(network), hand_made(torch.ones(U, H, W))).loss_labelled, expected)


# ---- step 5: who learns


def test_a_gradient_reaches_every_parameter_of_the_student_and_none_of_the_teachers() -> None:
    step = make_step(tau=0.0)
    step.step(make_batch(), 0)
    for name, parameter in step.student.named_parameters():
        assert parameter.grad is not None, name
        assert name == "0.bias" or parameter.grad.abs().sum() > 0, name  # batch norm takes the first bias away
    assert all(p.grad is None and not p.requires_grad for p in step.teacher.parameters())


@pytest.mark.parametrize("loss", ["loss_labelled", "loss_unlabelled"])
def test_each_loss_reaches_the_student_by_itself(loss: str) -> None:
    step = make_step(group_network(), tau=0.0, unlabelled_weight=1.0)
    getattr(losses_of(step, hand_made(torch.ones(U, H, W))), loss).backward()
    for name, parameter in step.student.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_without_a_confident_pixel_the_step_is_the_supervised_one() -> None:
    batch = make_batch()
    mixed, alone = (make_step(group_network(), tau=1.0, unlabelled_weight=w, **PLAIN) for w in (1.0, 0.0))
    mixed.step(batch, 0)
    alone.step(supervised(batch), 0)
    for a, b in zip(mixed.student.parameters(), alone.student.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_student_runs_once_over_labelled_and_mixed_images_and_the_teacher_once_over_unlabelled_ones() -> None:
    step = make_step()
    student, teacher = Calls(step.student), Calls(step.teacher)
    step.step(make_batch(), 0)
    assert (student.count, student.shape) == (1, (L + U, 3, H, W))
    assert (teacher.count, teacher.shape) == (1, (U, 3, H, W))


def test_the_supervised_baseline_runs_no_teacher_pass_and_has_no_unlabelled_loss() -> None:
    step = make_step(unlabelled_weight=0.0)
    student, teacher = Calls(step.student), Calls(step.teacher)
    result = step.step(supervised(make_batch()), 0)
    assert (student.count, student.shape) == (1, (L, 3, H, W))
    assert teacher.count == 0
    assert result.loss == result.loss_labelled > 0
    assert result.loss_unlabelled == result.lambda_ == 0


def test_unlabelled_weight_0_runs_no_teacher_pass_even_where_unlabelled_images_are_given() -> None:
    step = make_step(unlabelled_weight=0.0)
    student, teacher = Calls(step.student), Calls(step.teacher)
    step.step(make_batch(), 0)
    assert teacher.count == 0
    assert student.shape == (L, 3, H, W)


@pytest.mark.parametrize("unlabelled", [False, True])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_after_the_first_step_the_teacher_equals_the_student(mode: str, unlabelled: bool) -> None:
    step = make_step(teacher_mode=mode, unlabelled_weight=float(unlabelled))
    start = copy.deepcopy(step.student)
    step.step(make_batch() if unlabelled else supervised(make_batch()), 0)
    for ours, theirs, before in zip(
        step.teacher.parameters(), step.student.parameters(), start.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)
        assert not torch.equal(theirs, before)


def test_the_teacher_is_the_warmed_up_average_of_the_students() -> None:
    step, students = make_step(ema_decay=0.6), []
    for index in range(5):
        step.step(make_batch(index), index)
        students.append(step.student[0].weight.detach().clone())
    expected = students[0]
    for index in range(1, 5):
        decay = min(1 - 1 / (index + 1), 0.6)
        expected = decay * expected + (1 - decay) * students[index]
    torch.testing.assert_close(step.teacher[0].weight.data, expected)


def test_the_schedule_moves_once_a_step() -> None:
    step = make_step(lr=0.1, steps=8)
    for index in range(8):
        assert step.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * (1 - index / 8) ** 0.9)
        step.step(make_batch(), index)


def test_the_result_is_detached() -> None:
    result = make_step().step(make_batch(), 0)
    assert not any(value.requires_grad for value in result)
    assert all(value.shape == () for value in result)


def test_a_step_leaves_the_batch_as_it_was() -> None:
    batch = make_batch()
    before = [tensor.clone() for tensor in batch]
    make_step().step(batch, 0)
    assert all(torch.equal(a, b) for a, b in zip(batch, before, strict=True))


# ---- modes of the teacher


def test_the_teacher_uses_batch_statistics_in_train_mode_and_drops_nothing_out() -> None:
    step, image = make_step(teacher_mode="train"), to_float(make_batch().image_UCHW)
    reference = copy.deepcopy(step.teacher).train()
    reference[3].p = 0.0
    assert torch.equal(step.teacher(image), reference(image))
    assert torch.equal(step.teacher(image), step.teacher(image))
    alone = step.teacher(image[:1])
    assert not torch.allclose(alone, step.teacher(image)[:1], atol=1e-3)


def test_the_teacher_uses_running_statistics_in_eval_mode() -> None:
    step, image = make_step(teacher_mode="eval"), to_float(make_batch().image_UCHW)
    step.step(make_batch(), 0)
    assert torch.equal(step.teacher(image), copy.deepcopy(step.teacher).eval()(image))
    torch.testing.assert_close(step.teacher(image[:1]), step.teacher(image)[:1])


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_train_mode_is_restored_after_an_evaluation(mode: str) -> None:
    step = make_step(teacher_mode=mode)
    modes = [module.training for network in (step.student, step.teacher) for module in network.modules()]
    step.student.eval()
    step.teacher.eval()
    step.train_mode()
    assert modes == [module.training for network in (step.student, step.teacher) for module in network.modules()]
    assert all(module.training for module in step.student.modules())
    assert [module.training for module in step.teacher] == [False, mode == "train", False, False, False]


@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_running_statistics_of_the_teacher_are_right_when_it_is_evaluated(factor: float) -> None:
    """Against statistics recomputed with its last weights on the images that it saw; labelled ones are darker."""
    batch = make_batch(labelled=6, unlabelled=6)._replace(padding_UHW=torch.zeros(6, H, W, dtype=torch.uint8))
    batch = batch._replace(image_LCHW=batch.image_LCHW // 3)
    given = batch if factor else supervised(batch)
    step = make_step(lr=0.01, steps=100, flips=False, ema_decay=0.9, unlabelled_weight=factor)
    for index in range(100):
        step.step(given, index)
    recomputed = copy.deepcopy(step.teacher).train()
    seen = batch.image_UCHW if factor else batch.image_LCHW
    update_bn([to_float(seen)], recomputed)
    torch.testing.assert_close(step.teacher[1].running_mean, recomputed[1].running_mean, rtol=0.05, atol=0.03)
    torch.testing.assert_close(step.teacher[1].running_var, recomputed[1].running_var, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_buffers_of_the_teacher_come_from_its_own_passes_or_from_the_student(mode: str) -> None:
    step = make_step(teacher_mode=mode)
    step.step(make_batch(), 0)
    same = torch.equal(step.teacher[1].running_mean, step.student[1].running_mean)
    assert same == (mode == "eval")


# ---- randomness


def train(seed: int, steps: int = 3, **options: Any) -> nn.Module:
    step = make_step(group_network(), seed=seed, tau=0.0, **options)
    for index in range(steps):
        step.step(make_batch(index), index)
    return step.student


@pytest.mark.parametrize("mix", MIXES)
def test_the_same_seed_gives_the_same_weights_bit_for_bit(mix: str) -> None:
    first, second, other = (train(seed, mix=mix).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_step_draws_from_its_generator_alone() -> None:
    torch.manual_seed(0)
    step = make_step(group_network())
    states = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    drawn = step.generator.get_state()
    step.step(make_batch(), 0)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), repr(np.random.get_state()))
    assert not torch.equal(drawn, step.generator.get_state())


# ---- nothing waits for the device

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


def test_bf16_on_the_cpu_is_finite_and_close_to_fp32() -> None:
    half, full = (
        make_step(group_network(), tau=0.0, precision=p, **PLAIN).step(make_batch(), 0) for p in ("bf16", "fp32")
    )
    assert all(value.isfinite() and value.dtype == torch.float32 for value in half)
    assert half.loss.item() == pytest.approx(full.loss.item(), rel=0.05)


# ---- several workers


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


# ---- configuration


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("tau", [0, 1], [-1e-9, 1.001, math.nan]),
        ("ema_decay", [0, 0.9999], [-0.1, 1]),
        ("ramp_fraction", [1e-9, 1], [0, 1.01]),
        ("unlabelled_weight", [0, 10], [-1e-9]),
        ("jitter", [0, 0.5], [-0.01, 0.51]),
        ("jitter_probability", [0, 1], [-0.01, 1.01]),
        ("blur", [0, 0.15, 3], [-1, 0.149]),
        ("blur_probability", [0, 1], [-0.01, 1.01]),
    ],
)
def test_each_field_is_refused_beyond_its_range_alone(field: str, good: list[float], bad: list[float]) -> None:
    for value in good:
        assert getattr(ClassMixConfig(**{field: value}), field) == value
    for value in bad:
        with pytest.raises(InvalidValue, match=rf"`.*\b{field}\b.*` must hold, but got {value}\.") as caught:
            ClassMixConfig(**{field: value})
        assert caught.value.field == field


def test_the_defaults_are_the_papers() -> None:
    config = ClassMixConfig()
    assert (config.tau, config.ema_decay, config.mix, config.weight) == (0.968, 0.99, "class", "image")
    assert config.teacher_mode == "train"


# ---- on a CUDA device


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
