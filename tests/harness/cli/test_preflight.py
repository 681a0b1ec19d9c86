"""What is refused before a run is made."""

import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from classmix_core.config import ModelConfig
from classmix_core.models import build_model
from harness.cli.capacity import find_team
from harness.cli.options import CommonOptions
from harness.cli.preflight import check_batch_norm, check_data_and_network, images_of_a_pass
from harness.config.train import TrainConfig, override, train_config
from harness.errors import UserError
from harness.train import build_parser, main
from tests.commands import TINY, assert_refused, call

ASPP, UNEVEN = "deeplabv3_mobilenet_v3_large", "--data.batch_unlabelled=5"


def test_one_image_a_step_is_refused_where_a_network_pools_it_to_one_value_for_a_batch_norm(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY, "--gpus=0", f"--model.name={ASPP}", "--data.batch_labelled=1", "--ssl.unlabelled_weight=0"]
    assert_refused(call(main, capsys, *words), here, "data.batch_labelled: `a pass has 2 images", "but it has 1.")


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (("--accumulate=2",), "data.batch_unlabelled: `a pass has 2 images"),  # of the teacher
        (("--accumulate=2", "--ssl.teacher_mode=eval"), None),
        (("--accumulate=2", "--ssl.unlabelled_weight=0"), "data.batch_labelled: `a pass has 2 images"),
        (("--accumulate=3",), "data.batch_labelled: `batch_labelled % (workers * accumulate) == 0`"),
        ((), None),
    ],
)
def test_a_pass_of_one_image_is_refused_whichever_network_has_it(words: tuple[str, ...], refused: str | None) -> None:
    config = train_config(build_parser().read([*TINY, "--gpus=0", f"--model.name={ASPP}", *words]).as_dict())
    options = CommonOptions(
        name=None, resume=False, tracking_uri=None, storage_path="runs", address=None, verbose=False
    )
    with nullcontext() if refused is None else pytest.raises(UserError, match=re.escape(refused)):
        check_data_and_network(config, find_team(config, options, words).most)


@pytest.mark.parametrize(
    ("words", "size"), [(("--accumulate=3",), "data.batch_labelled=6"), (("--workers=2", UNEVEN), "batch_unlabelled=6")]
)
def test_sizes_that_are_not_given_are_filled_in_before_they_must_divide(
    words: tuple[str, ...], size: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(call(main, capsys, "--gpus=0", *words), here, "must hold, but got", size)


def test_two_workers_with_an_image_each_are_enough_where_batch_norms_see_both() -> None:
    for sync_bn, images in ((False, 1), (True, 2)):
        values = {"data.batch_labelled": 2, "ssl.unlabelled_weight": 0.0, "model.sync_bn": sync_bn}
        assert images_of_a_pass(override(TrainConfig(), values), 2) == {"batch_labelled": images}


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
