"""The teacher, against the closed form of a moving average."""

import copy

import pytest
import torch
from torch import nn

from classmix_core.ema import MovingAverage, make_teacher, warmed_up_decay


def network() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def fill_(model: nn.Module, value: float) -> None:
    """Every parameter and every buffer of batch norm, times its own place, so that no two are alike."""
    with torch.no_grad():
        for place, tensor in enumerate([*model.parameters(), *model.buffers()], 1):
            tensor.copy_(torch.full_like(tensor, int(value * place)))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_the_teacher_is_the_exponential_average_of_the_students(decay: float) -> None:
    student = network()
    fill_(student, 8)
    teacher = make_teacher(student)
    values = [40.0, -16.0, 24.0]
    for value in values:
        fill_(student, value)
        MovingAverage(teacher, student).update_(decay, average_buffers=False)
    closed_form = decay**3 * 8 + sum((1 - decay) * decay ** (2 - i) * value for i, value in enumerate(values))
    for place, parameter in enumerate(teacher.parameters(), 1):
        torch.testing.assert_close(parameter.data, torch.full_like(parameter, closed_form * place))


def test_while_it_warms_up_the_teacher_is_the_mean_of_all_students() -> None:
    student = network()
    teacher = make_teacher(student)
    values = [4.0, 12.0, -20.0, 8.0, 100.0]
    for step, value in enumerate(values):
        fill_(student, value)
        MovingAverage(teacher, student).update_(warmed_up_decay(step, 0.99), average_buffers=False)
        mean = sum(values[: step + 1]) / (step + 1)
        torch.testing.assert_close(teacher[0].bias.data, torch.full((4,), mean * 2))


@pytest.mark.parametrize(
    ("step", "decay", "expected"),
    [(0, 0.99, 0), (1, 0.99, 0.5), (98, 0.99, 98 / 99), (99, 0.99, 0.99), (10_000, 0.99, 0.99), (3, 0.0, 0)],
)
def test_decay_is_the_smaller_of_1_minus_1_over_step_plus_1_and_the_given_one(
    step: int, decay: float, expected: float
) -> None:
    assert warmed_up_decay(step, decay) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("average_buffers", [False, True])
def test_buffers_are_averaged_only_when_asked(average_buffers: bool) -> None:
    student = network()
    fill_(student, 8)
    teacher = make_teacher(student)
    fill_(student, 16)
    MovingAverage(teacher, student).update_(0.5, average_buffers)
    batch_norm, expected = teacher[1], 12 if average_buffers else 8
    torch.testing.assert_close(batch_norm.running_mean, torch.full((4,), 7.0 * expected))
    torch.testing.assert_close(batch_norm.running_var, torch.full((4,), 8.0 * expected))
    assert batch_norm.num_batches_tracked == 9 * 8, "a counter has no average"


def test_the_student_is_left_as_it_was() -> None:
    student = network()
    teacher, before = make_teacher(student), copy.deepcopy(student.state_dict())
    fill_(teacher, 3)
    MovingAverage(teacher, student).update_(0.5, average_buffers=True)
    for name, tensor in student.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_the_teacher_is_a_copy_that_needs_no_gradient() -> None:
    student = network()
    teacher = make_teacher(student)
    for ours, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.data_ptr() != theirs.data_ptr()
        assert not ours.requires_grad
        assert theirs.requires_grad


def test_a_teacher_of_another_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        MovingAverage(network(), network()[:2])
