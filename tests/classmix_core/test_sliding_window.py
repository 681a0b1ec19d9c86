"""Sliding windows, mirrored and scaled inference, against plain forwards and loops.

Shapes: B batch, C = 3 channels, K = 4 classes, H W image.
"""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from classmix_core.config import InferenceConfig
from classmix_core.errors import InvalidValue
from classmix_core.evaluate import evaluate, predict
from classmix_core.metrics import confusion_matrix
from classmix_core.sliding_window import WHOLE, mean_logits, slide, window_starts, windows_per_pixel

CLASSES = 4


def convolutions(kernel: int, classes: int = CLASSES) -> nn.Module:
    torch.manual_seed(kernel)
    hidden = nn.Conv2d(3, 6, kernel, padding=kernel // 2)
    return nn.Sequential(hidden, nn.Tanh(), nn.Conv2d(6, classes, 1)).eval().requires_grad_(False)


@pytest.fixture
def network() -> nn.Module:
    """Sees 5 x 5 pixels, so that a window's border shows."""
    return convolutions(5)


@pytest.fixture
def pointwise() -> nn.Module:
    return convolutions(1)


def image(batch: int, height: int, width: int) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(width))


def pixels(batch: int, height: int, width: int) -> Tensor:
    draw = torch.Generator().manual_seed(width)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=draw)


class Calls(nn.Module):
    """Notes the shapes of what a network is given."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(tuple(x.shape))
        return self.network(x)


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that any operation returns."""

    bytes = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = operation(*args, **(kwargs or {}))
        sizes = [leaf.numel() * leaf.element_size() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.bytes = max([self.bytes, *sizes])
        return result


def windows_by_loops(network: nn.Module, picture: Tensor, window: int, step: int) -> Tensor:
    """The rule, a window and a pixel at a time: square windows over one image (1, 3, H, W)."""
    height, width = picture.shape[-2:]
    logits = torch.zeros(1, CLASSES, height, width, dtype=torch.float64)
    count = torch.zeros(height, width, dtype=torch.float64)

    def corners(length: int) -> list[int]:
        found, corner = [], 0
        while corner + window < length:
            found.append(corner)
            corner += step
        return [*found, max(length - window, 0)]

    for top in corners(height):
        for left in corners(width):
            part = network(picture[:, :, top : top + window, left : left + window])[0]
            for y in range(part.shape[1]):
                for x in range(part.shape[2]):
                    logits[0, :, top + y, left + x] += part[:, y, x].double()
                    count[top + y, left + x] += 1
    return logits / count


@pytest.mark.parametrize("size", [(9, 14), (8, 8), (30, 11)])
def test_a_window_of_the_images_size_gives_the_plain_forward_to_the_last_bit(
    network: nn.Module, size: tuple[int, int]
) -> None:
    picture = image(1, *size)
    assert torch.equal(mean_logits(network, picture, InferenceConfig(window=size)), network(picture))


def test_an_image_smaller_than_the_window_is_run_whole(network: nn.Module) -> None:
    picture = image(2, 9, 14)
    assert torch.equal(mean_logits(network, picture, InferenceConfig(window=(32, 64))), network(picture))
    calls = Calls(network)
    mean_logits(calls, image(1, 9, 40), InferenceConfig(window=(32, 16)))
    assert {shape[2:] for shape in calls.shapes} == {(9, 16)}


@pytest.mark.parametrize("batch", [1, 3, 100])
@pytest.mark.parametrize("inference", [{"window": (8, 9)}, {"window": (11, 8), "stride": (1, 5)}])
def test_no_window_changes_what_a_pointwise_network_says(
    pointwise: nn.Module, inference: dict[str, tuple[int, int]], batch: int
) -> None:
    picture = image(2, 19, 23)
    logits = mean_logits(pointwise, picture, InferenceConfig(batch=batch, **inference))
    torch.testing.assert_close(logits, pointwise(picture), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("size", "window", "step"), [((19, 23), 8, 5), ((8, 21), 8, 8), ((16, 16), 8, 3)])
def test_windows_agree_with_a_loop_over_windows_and_pixels(
    network: nn.Module, size: tuple[int, int], window: int, step: int
) -> None:
    picture = image(1, *size)
    expected = windows_by_loops(network, picture, window, step)
    logits = slide(network, picture, (window, window), (step, step), batch=4, flip=False)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected.float(), rtol=1e-5, atol=1e-6)
    assert (logits - network(picture)).abs().max() > 1e-3, "the network sees across the borders of windows"


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_how_windows_are_batched_changes_nothing(network: nn.Module, batch: int) -> None:
    picture = image(1, 20, 31)
    expected = slide(network, picture, (8, 9), (5, 6), 1, False)
    torch.testing.assert_close(slide(network, picture, (8, 9), (5, 6), batch, False), expected)


def test_a_forward_pass_takes_at_most_the_batch_of_windows(network: nn.Module) -> None:
    calls = Calls(network)
    mean_logits(calls, image(1, 20, 31), InferenceConfig(window=(8, 8), stride=(8, 8), batch=5))
    assert [shape[0] for shape in calls.shapes] == [5, 5, 2]  # 3 rows of 4


@given(length=st.integers(1, 60), window=st.integers(1, 20), step=st.integers(1, 20))
def test_windows_cover_all_end_at_the_border_and_are_at_most_a_step_apart(length: int, window: int, step: int) -> None:
    window = min(window, length)
    step = min(step, window)
    begin = window_starts(length, window, step)
    assert begin[0] == 0
    assert begin[-1] == length - window
    assert all(0 < after - before <= step for before, after in pairwise(begin))
    count = windows_per_pixel(begin, window, length, torch.device("cpu")).tolist()
    assert count == [sum(start <= place < start + window for start in begin) for place in range(length)]
    assert min(count) >= 1


def test_the_stride_is_two_thirds_of_the_window_unless_given(network: nn.Module) -> None:
    picture = image(1, 30, 40)
    expected = mean_logits(network, picture, InferenceConfig(window=(9, 16), stride=(6, 11)))
    assert torch.equal(mean_logits(network, picture, InferenceConfig(window=(9, 16))), expected)


def test_mirroring_changes_nothing_for_an_equivariant_network(pointwise: nn.Module, network: nn.Module) -> None:
    picture = image(2, 9, 14)
    for window in (None, (8, 8)):
        once, both = (
            mean_logits(pointwise, picture, InferenceConfig(window=window, flip=flip)) for flip in (False, True)
        )
        torch.testing.assert_close(both, once, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(mean_logits(network, picture, InferenceConfig(flip=True)), network(picture))


def test_flip_is_the_mean_of_the_image_and_its_mirrored_twin_so_mirroring_commutes(network: nn.Module) -> None:
    picture, inference = image(2, 9, 14), InferenceConfig(flip=True)
    expected = (network(picture) + network(picture.flip(-1)).flip(-1)) / 2
    assert torch.equal(mean_logits(network, picture, inference), expected)
    torch.testing.assert_close(mean_logits(network, picture.flip(-1), inference).flip(-1), expected)


def test_scales_are_the_mean_over_the_resized_images(network: nn.Module) -> None:
    picture = image(2, 12, 20)
    small = F.interpolate(picture, (6, 10), mode="bilinear", antialias=True)
    large = F.interpolate(picture, (18, 30), mode="bilinear", antialias=True)
    back = [F.interpolate(network(part), (12, 20), mode="bilinear") for part in (small, large)]
    expected = (back[0] + network(picture) + back[1]) / 3
    torch.testing.assert_close(mean_logits(network, picture, InferenceConfig(scales=(0.5, 1.0, 1.5))), expected)


def test_an_image_of_one_colour_looks_the_same_at_every_scale(pointwise: nn.Module) -> None:
    picture = torch.full((1, 3, 13, 9), 0.3)
    logits = mean_logits(pointwise, picture, InferenceConfig(scales=(0.05, 0.5, 2.0), window=(8, 8), flip=True))
    torch.testing.assert_close(logits, pointwise(picture))


def test_windows_make_no_tensor_larger_than_the_class_map_of_one_image() -> None:
    network, device = convolutions(5, classes=12), torch.device("cpu")
    picture = pixels(4, 48, 64)
    label, one_map = picture[:, 0] % 12, 12 * 48 * 64 * 4
    inference = InferenceConfig(window=(16, 16), batch=2, flip=True)
    with Largest() as largest:
        evaluate(network, [(picture, label)], 12, device, inference=inference)
    assert largest.bytes <= one_map
    with Largest() as largest:
        evaluate(network, [(picture, label)], 12, device)
    assert largest.bytes > one_map, "without windows a batch is run as one"


def test_predict_and_evaluate_make_the_same_passes(network: nn.Module) -> None:
    picture, inference = pixels(3, 21, 26), InferenceConfig(window=(8, 10), batch=3, flip=True, scales=(0.75, 1.0))
    label = pixels(3, 30, 24)[:, 0] % CLASSES
    network[0].weight.mul_(9)  # else one class is predicted nearly everywhere, whatever the passes
    prediction = predict(network, picture, (30, 24), inference)
    matrix = evaluate(network, [(picture, label)], CLASSES, torch.device("cpu"), inference=inference)
    assert torch.equal(matrix, confusion_matrix(prediction, label, CLASSES))
    assert not torch.equal(prediction, predict(network, picture, (30, 24)))


def test_the_default_is_one_pass_over_the_whole_image(network: nn.Module) -> None:
    picture = image(2, 9, 14)
    assert torch.equal(mean_logits(network, picture, WHOLE), network(picture))


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("window", {"window": (7, 8)}),
        ("window", {"window": (8, 0)}),
        ("stride", {"stride": (4, 4)}),
        ("stride", {"window": (8, 8), "stride": (9, 8)}),
        ("stride", {"window": (8, 8), "stride": (8, 0)}),
        ("scales", {"scales": ()}),
        ("scales", {"scales": (1.0, 0.0)}),
        ("scales", {"scales": (8.1,)}),
        ("scales", {"scales": (float("nan"),)}),
        ("batch", {"batch": 0}),
    ],
)
def test_bad_values_are_refused_with_the_field(field: str, values: dict[str, tuple[int, int]]) -> None:
    with pytest.raises(InvalidValue) as refused:
        InferenceConfig(**values)  # type: ignore[arg-type]
    assert refused.value.field == field


def test_the_ends_of_each_range_are_taken() -> None:
    InferenceConfig(window=(8, 8), stride=(8, 1), batch=1, scales=(8.0,))


@pytest.mark.gpu
def test_windows_on_a_gpu_hold_little_more_than_one_class_map(cuda: torch.device) -> None:
    network = convolutions(5).to(cuda)
    picture, inference = pixels(4, 1024, 2048).to(cuda), InferenceConfig(window=(128, 128), batch=4)
    predict(network, picture[:1, :, :256, :256], None, inference)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    predict(network, picture, None, inference)
    one_map = CLASSES * 1024 * 2048 * 4
    labels = 4 * 1024 * 2048 * 8 * 2  # joined from one an image
    image = 3 * 1024 * 2048 * 4 * 2
    assert torch.cuda.max_memory_allocated() - before < 1.2 * (one_map + labels + image)
