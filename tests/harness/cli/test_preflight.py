"""What is refused before a run is made."""

from pathlib import Path

import pytest
import torch

from classmix_core.config import ModelConfig
from classmix_core.models import build_model
from harness.cli.preflight import check_batch_norm
from harness.errors import UserError
from harness.train import main
from tests.commands import TINY, assert_refused, call

ASPP = "deeplabv3_mobilenet_v3_large"


def test_one_image_a_step_is_refused_where_a_network_pools_it_to_one_value_for_a_batch_norm(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY, "--gpus=0", f"--model.name={ASPP}", "--data.batch_labelled=1", "--ssl.unlabelled_weight=0"]
    assert_refused(call(main, capsys, *words), here, "data.batch_labelled: `a pass has 2 images", "but it has 1.")


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize(
    ("name", "size", "fits_one"),
    [
        (ASPP, (32, 40), False),
        ("smp/DeepLabV3Plus/resnet18", (32, 40), False),
        ("smp/Unet/resnet18", (33, 40), True),
        ("smp/Unet/resnet18", (32, 32), False),  # halved five times it is one pixel
        ("unet", (32, 40), True),
    ],
)
def test_what_is_refused_is_what_cannot_be_trained(
    name: str, size: tuple[int, int], fits_one: bool, images: int
) -> None:
    model = build_model(ModelConfig(name=name), 5)
    if fits_one or images > 1:
        model.train()(torch.zeros(images, 3, *size))
        check_batch_norm(model, images, size)
        return
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model.train()(torch.zeros(images, 3, *size))
    with pytest.raises(UserError, match=r"data.batch_labelled: `a pass has 2 images .* must hold, but it has 1"):
        check_batch_norm(model, images, size)
