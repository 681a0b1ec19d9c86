"""What is left of a race: pictures of the winner beside the baseline, and the page of the answer."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from plotly.graph_objects import Figure
from torch import Tensor, nn
from torchvision.io import decode_jpeg

from classmix_core.config import DataConfig
from classmix_core.constants import IGNORE_INDEX
from classmix_core.data import load_data
from harness.config.train import TrainConfig
from harness.inference.class_names import Classes
from harness.inference.loaded_model import LoadedModel
from harness.search.report_page import Page, description, write_report
from harness.search.tables import AnswerTable
from harness.search.winner import SHOWN, Picture, Winner, compare, miou_of_image


class Always(nn.Module):
    """One class everywhere."""

    def __init__(self, number: int, classes: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.eye(classes)[number])

    def forward(self, image: Tensor) -> Tensor:
        return self.logits[None, :, None, None].expand(len(image), -1, *image.shape[-2:])


@pytest.mark.parametrize(
    ("label", "truth", "expected"),
    [
        ([[0, 1]], [[0, 1]], 1.0),
        ([[0, 0]], [[0, 1]], 0.25),  # 1/2 and 0
        ([[2, 0]], [[IGNORE_INDEX, 0]], 1.0),
        ([[0, 0]], [[IGNORE_INDEX, IGNORE_INDEX]], 0.0),
    ],
)
def test_the_score_of_an_image_is_over_its_classes(label: list[int], truth: list[int], expected: float) -> None:
    as_uint8 = (torch.tensor(values, dtype=torch.uint8) for values in (label, truth))
    assert miou_of_image(*as_uint8, classes=4) == pytest.approx(expected)


def test_the_largest_gains_are_shown_and_then_the_largest_loss() -> None:
    config = TrainConfig()
    data = load_data(DataConfig(), ("val",))
    assert data.val is not None
    classes = Classes(data.classes, data.palette)
    sky, road = (LoadedModel(config, classes, Always(number, len(data.classes)).eval()) for number in (0, 1))
    found = compare(sky, road, data.val, config)
    gains = [one.with_unlabelled - one.without for one in found]
    assert len(found) == SHOWN
    assert gains == sorted(gains, reverse=True)
    every = range(len(data.val.names))
    scores = [
        [miou_of_image(torch.full_like(data.val.label(one), number), data.val.label(one), 6) for number in (0, 1)]
        for one in every
    ]
    assert gains[0] == pytest.approx(max(after - before for before, after in scores), abs=0.05)
    height, width = decode_jpeg(torch.frombuffer(bytearray(found[0].jpeg), dtype=torch.uint8)).shape[-2:]
    assert width > 3.5 * height, "four pictures side by side"


PAGE = Page(
    "s <b>",
    "confirmed: 0.6",
    ["unlabelled images: +7.0 points"],
    "python -m harness.train",
    "1 core-hour",
    AnswerTable(["trial", "tau"], [["baseline", "-"], ["3", "0.5"]], 1),
)


def test_the_page_and_the_description_hold_the_answer(tmp_path: Path) -> None:
    picture = Picture("a<b>.png", 0.25, 0.5, b"x")
    page = replace(PAGE, winner=Winner(tmp_path, 2, "models:/m/1", [picture]))
    write_report(tmp_path / "report.html", page, {"curves": Figure(), "importance": Figure()})
    text = (tmp_path / "report.html").read_text()
    assert "<b>.png" not in text
    assert "<title>s &lt;b&gt;" in text
    assert text.count("plotly.js v") == 1
    assert 'class="chosen"><td>3</td>' in text
    note = description(page, "Repeat", {"search": "#/x"})
    assert "| trial | tau |\n| --- | --- |\n| baseline | - |\n| **3** | **0.5** |" in note
    assert "[search](#/x)" in note
    assert "models:/m/1" in note
