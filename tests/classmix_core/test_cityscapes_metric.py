"""mIoU against the official Cityscapes evaluation, on PNG files such as it reads.

It counts 34 label ids of the files, voids included, and leaves the voids out when it reads the matrix; here labels are
19 classes and IGNORE_INDEX, and ignored pixels are never counted. Its habits that matter:

- a void pixel of the truth counts nowhere, whatever is predicted there: neither as a miss nor as a false alarm;
- a void label in a prediction is a miss of the true class and a false alarm of none. No prediction made here can hold
  one, as the argmax is over the 19 classes;
- a class neither in the truth nor predicted (outside of voids) is left out of the mean, and is not 0;
- one matrix is summed over all images: no mean of scores by image;
- ids that are in no list, such as 255, end the script: train ids must become label ids before it reads them.
"""

from copy import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.io import write_png

from classmix_core.constants import IGNORE_INDEX
from classmix_core.data.datasets import cityscapes
from classmix_core.evaluate import evaluate
from classmix_core.metrics import class_iou, confusion_matrix, mean_iou

official = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")

CLASSES = 19
SIZE = (17, 31)
LABEL_IDS = [label.id for label in official.labels if label.id >= 0]
TRAIN_IDS = torch.tensor([official.id2label[number].trainId for number in LABEL_IDS])
"""Train id, or 255, of each label id."""
BACK = torch.tensor([official.trainId2label[number].id for number in range(CLASSES)])
"""Label id of each train id."""


def truth(seed: int, classes: int = CLASSES) -> Tensor:
    """Label ids (H, W) with the void bands of the data set: its border, the car's bonnet, and specks of other voids."""
    draw = torch.Generator().manual_seed(seed)
    ids = BACK[torch.randint(0, classes, SIZE, generator=draw)]
    voids = torch.tensor([number for number in LABEL_IDS if TRAIN_IDS[number] == IGNORE_INDEX])
    specks = voids[torch.randint(0, len(voids), SIZE, generator=draw)]
    ids = torch.where(torch.rand(SIZE, generator=draw) < 0.1, specks, ids)
    ids[:2], ids[:, :3], ids[-4:] = 2, 3, 1  # rectification border, out of roi, ego vehicle
    return ids


def guess(ids: Tensor, seed: int, classes: int = CLASSES) -> Tensor:
    """A prediction in train ids: half right, and made up within voids."""
    draw = torch.Generator().manual_seed(100 + seed)
    other = torch.randint(0, classes, SIZE, generator=draw)
    right = (torch.rand(SIZE, generator=draw) < 0.5) & (TRAIN_IDS[ids] != IGNORE_INDEX)
    return torch.where(right, TRAIN_IDS[ids], other)


def official_result(folder: Path, truths: list[Tensor], predictions: list[Tensor]) -> dict[str, Any]:
    """What the official script finds; all in label ids."""
    files: dict[str, list[str]] = {"pred": [], "gt": []}
    for kind, images in (("pred", predictions), ("gt", truths)):
        for number, image in enumerate(images):
            path = folder / f"{kind}_{number}.png"
            write_png(image[None].byte(), str(path))
            files[kind].append(str(path))
    args = copy(official.args)
    args.quiet, args.JSONOutput, args.evalInstLevelScore = True, False, False
    return official.evaluateImgLists(files["pred"], files["gt"], args)


def our_matrix(truths: list[Tensor], predictions: list[Tensor]) -> Tensor:
    """All in train ids."""
    counts = [confusion_matrix(p, t, CLASSES) for p, t in zip(predictions, truths, strict=True)]
    return torch.stack(counts).sum(0)


def agree(result: dict[str, Any], matrix: Tensor) -> None:
    assert torch.tensor(result["confMatrix"])[BACK][:, BACK].tolist() == matrix.tolist()
    names = [official.id2label[int(number)].name for number in BACK]
    expected = [result["classScores"][name] for name in names]
    assert class_iou(matrix).tolist() == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert mean_iou(matrix) == pytest.approx(result["averageScoreClasses"], abs=1e-6)


class Echo(nn.Module):
    """Predicts what an image holds in red, in steps of 10."""

    def forward(self, image_BCHW: Tensor) -> Tensor:
        red_BHW = 255 * image_BCHW[:, 0]
        return nn.functional.one_hot((red_BHW / 10).round().long(), CLASSES).permute(0, 3, 1, 2).float()


def test_label_ids_become_the_official_train_ids() -> None:
    assert cityscapes.TRAIN_IDS[LABEL_IDS].tolist() == TRAIN_IDS.tolist()
    assert [official.trainId2label[number].name for number in range(CLASSES)] == list(cityscapes.CLASSES)
    assert [official.trainId2label[number].color for number in range(CLASSES)] == list(cityscapes.PALETTE)


def test_miou_of_files_read_and_a_network_evaluated_is_that_of_the_official_evaluation(tmp_path: Path) -> None:
    truths = [truth(seed) for seed in range(3)]
    predictions = [guess(ids, seed) for seed, ids in enumerate(truths)]
    result = official_result(tmp_path, truths, [BACK[prediction] for prediction in predictions])
    labels = torch.stack([cityscapes.read_label_ids(tmp_path / f"gt_{number}.png") for number in range(3)])
    images = torch.stack([(10 * prediction).byte().expand(3, -1, -1) for prediction in predictions])
    agree(result, evaluate(Echo(), [(images, labels)], CLASSES, torch.device("cpu")))


@pytest.mark.parametrize("images", [1, 5])
def test_miou_is_that_of_the_official_evaluation_with_its_void_bands(tmp_path: Path, images: int) -> None:
    truths = [truth(seed) for seed in range(images)]
    predictions = [guess(ids, seed) for seed, ids in enumerate(truths)]
    result = official_result(tmp_path, truths, [BACK[prediction] for prediction in predictions])
    matrix = our_matrix([TRAIN_IDS[ids] for ids in truths], predictions)
    agree(result, matrix)
    assert matrix.sum() == sum(int((TRAIN_IDS[ids] != IGNORE_INDEX).sum()) for ids in truths)
    assert 0.3 < mean_iou(matrix) < 0.6


def test_a_class_that_is_neither_there_nor_predicted_is_left_out_of_both_means(tmp_path: Path) -> None:
    ids = truth(7, classes=16)
    prediction = guess(ids, 7, classes=17)
    prediction[TRAIN_IDS[ids] == IGNORE_INDEX] = 18  # predicted within voids alone
    result = official_result(tmp_path, [ids], [BACK[prediction]])
    matrix = our_matrix([TRAIN_IDS[ids]], [prediction])
    agree(result, matrix)
    iou = class_iou(matrix)
    assert iou[16] == 0, "predicted and not there"
    assert iou[17:].isnan().all()


def test_what_is_predicted_on_void_pixels_changes_neither_score(tmp_path: Path) -> None:
    ids = truth(3)
    prediction = guess(ids, 3)
    painted = prediction.where(TRAIN_IDS[ids] != IGNORE_INDEX, torch.tensor(0))
    assert not torch.equal(painted, prediction)
    results = [official_result(tmp_path, [ids], [BACK[some]]) for some in (prediction, painted)]
    assert results[0]["averageScoreClasses"] == results[1]["averageScoreClasses"]
    assert torch.equal(*(our_matrix([TRAIN_IDS[ids]], [some]) for some in (prediction, painted)))


def test_a_prediction_without_a_class_misses_the_true_one_and_is_no_false_alarm_of_another(tmp_path: Path) -> None:
    """Masks of others may hold void ids; to score them here they need a column of their own."""
    ids = truth(5)
    prediction = guess(ids, 5)
    nothing = torch.rand(SIZE, generator=torch.Generator().manual_seed(5)) < 0.2
    result = official_result(tmp_path, [ids], [BACK[prediction].where(~nothing, torch.tensor(0))])
    wide = confusion_matrix(prediction.where(~nothing, torch.tensor(CLASSES)), TRAIN_IDS[ids], CLASSES + 1)
    assert float(class_iou(wide)[:CLASSES].nanmean()) == pytest.approx(result["averageScoreClasses"], abs=1e-6)


def test_the_official_script_ends_at_train_ids(tmp_path: Path) -> None:
    ids = truth(1)
    with pytest.raises(SystemExit):
        official_result(tmp_path, [TRAIN_IDS[ids]], [guess(ids, 1)])
