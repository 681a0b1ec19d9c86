"""The step: its losses, who learns, the modes of the teacher, randomness."""

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from classmix_core.augment import to_float
from classmix_core.config import MIXES
from classmix_core.constants import IGNORE_INDEX
from classmix_core.losses import labelled_loss, pixel_loss, sigmoid_ramp
from tests.classmix_core.steps import (
    PLAIN,
    Calls,
    H,
    L,
    U,
    W,
    group_network,
    hand_made,
    losses_of,
    make_batch,
    make_step,
    pixel_network,
    supervised,
)

# ---- the loss


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


def test_bf16_on_the_cpu_is_finite_and_close_to_fp32() -> None:
    half, full = (
        make_step(group_network(), tau=0.0, precision=p, **PLAIN).step(make_batch(), 0) for p in ("bf16", "fp32")
    )
    assert all(value.isfinite() and value.dtype == torch.float32 for value in half)
    assert half.loss.item() == pytest.approx(full.loss.item(), rel=0.05)
