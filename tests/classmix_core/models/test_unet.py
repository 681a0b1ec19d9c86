"""The U-Net: any size, its norm, its width and depth."""

import pytest
import torch
from torch import nn

from classmix_core.config import ModelConfig
from classmix_core.models import build_model

CLASSES = 5


def build(**fields: object) -> nn.Module:
    torch.manual_seed(12)
    return build_model(ModelConfig(**fields), CLASSES)


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (13, 9), (16, 24), (31, 64)])
def test_unet_answers_at_any_size(norm: str, depth: int, size: tuple[int, int]) -> None:
    logits = build(norm=norm, depth=depth, width=4).eval()(torch.rand(2, 3, *size))
    assert logits.shape == (2, CLASSES, *size)
    assert logits.isfinite().all()


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_group_norm_alone_does_not_see_the_rest_of_the_batch(norm: str) -> None:
    network = build(norm=norm, width=4).train()
    image = torch.rand(3, 3, 21, 26)
    alone, together = network(image[:1]), network(image)[:1]
    assert torch.allclose(alone, together, atol=1e-5) == (norm == "group")


def test_unet_grows_with_its_width_and_depth() -> None:
    def count(**fields: object) -> int:
        return sum(p.numel() for p in build(**fields).parameters())

    assert count(width=4, depth=1) < count(width=8, depth=1) < count(width=8, depth=2)
