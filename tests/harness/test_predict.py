"""harness.predict as its user meets it, after a real tiny training."""

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image, write_jpeg, write_png

from classmix_core.config import InferenceConfig
from classmix_core.data.image_io import read_label
from classmix_core.data.transforms import resize_image
from classmix_core.evaluate import predict as predict_labels
from classmix_core.sliding_window import WHOLE
from harness import predict, run_dir, train
from harness.inference.class_names import read_classes
from harness.inference.loaded_model import LoadedModel, load_run_dir
from harness.tracking.run import Run
from harness.tracking.store import create_run
from tests.commands import TINY, Result, assert_refused, call
from tests.conftest import random_image
from tests.harness.inference.test_gallery import names

RESIZE = (24, 40)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run `a`, its MLflow store, and photographs."""
    folder = tmp_path_factory.mktemp("home")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert train.main([*TINY, "--name=a", f"--data.resize={list(RESIZE)}"]) == 0
    finally:
        os.chdir(before)
    photographs(folder / "photos")
    return folder


def patches(seed: int, height: int, width: int) -> Tensor:
    """Squares of 8 pixels, each of one colour: of noise a network of 6 steps makes a single class."""
    squares = random_image(seed, -(-height // 8), -(-width // 8))
    return squares.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :height, :width]


def photographs(folder: Path) -> None:
    (folder / "sub dir").mkdir(parents=True)
    write_png(patches(1, 48, 96), str(folder / "a.b.png"))
    write_jpeg(patches(2, 61, 35), str(folder / "sub dir/ü#1%.jpg"))
    write_png(random_image(3, 1, 1), str(folder / "one.png"))


@pytest.fixture
def here(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `home` that commands run in."""
    folder = tmp_path / "here"
    shutil.copytree(home, folder)
    monkeypatch.chdir(folder)
    return folder


def label(capsys: pytest.CaptureFixture[str], *args: str) -> Result:
    return call(predict.main, capsys, "--checkpoint=runs/a", "--images=photos", "--out=out", *args)


def expected(folder: Path, image: Tensor, resize: tuple[int, int] | None, inference: InferenceConfig) -> Tensor:
    network = load_run_dir(folder / "runs/a").network
    size = (image.shape[1], image.shape[2])
    return predict_labels(network, resize_image(image, resize)[None], size, inference)[0].byte()


def test_each_image_gets_a_mask_an_overlay_and_a_thumbnail_under_its_relative_stem(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = label(capsys)
    assert (result.code, result.err) == (0, "")
    assert "3 labelled: out/index.html" in result.out
    stems = ("a.b", "one", "sub dir/ü#1%")
    pictures = {f"{folder}/{stem}.jpg" for stem in stems for folder in ("overlays", "thumbnails")}
    assert names(here / "out") == pictures | {f"masks/{stem}.png" for stem in stems} | {"index.html"}


@pytest.mark.parametrize(
    ("args", "resize", "inference"),
    [
        ((), RESIZE, WHOLE),
        (("--flip=true", "--scales=[0.5,1]"), RESIZE, InferenceConfig(flip=True, scales=(0.5, 1.0))),
        (("--window=[16,24]", "--batch=3"), None, InferenceConfig(window=(16, 24), batch=3)),
        (("--window=[16,24]", "--stride=[5,9]"), None, InferenceConfig(window=(16, 24), stride=(5, 9))),
    ],
)
def test_masks_are_the_networks_labels_at_the_images_size_resized_as_the_run_or_by_windows(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    args: tuple[str, ...],
    resize: tuple[int, int] | None,
    inference: InferenceConfig,
) -> None:
    assert label(capsys, *args).code == 0
    for name, mask in (("a.b.png", "a.b.png"), ("sub dir/ü#1%.jpg", "sub dir/ü#1%.png"), ("one.png", "one.png")):
        image = decode_image(str(here / "photos" / name), ImageReadMode.RGB)
        labels = read_label(here / "out/masks" / mask)
        assert torch.equal(labels, expected(here, image, resize, inference))
        assert name == "one.png" or len(labels.unique()) > 1


def test_without_flags_an_image_is_looked_at_as_the_run_was_evaluated(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = here / "runs/a/config.yaml"
    config.write_text(
        config.read_text().replace("window: null", "window: [8, 9]").replace("scales:\n  - 1.0", "scales: [0.4, 1.0]")
    )
    assert label(capsys).code == 0
    image, inference = patches(1, 48, 96), InferenceConfig(window=(8, 9), scales=(0.4, 1.0))
    mask = read_label(here / "out/masks/a.b.png")
    assert torch.equal(mask, expected(here, image, RESIZE, inference))
    for resize, others in ((None, inference), (RESIZE, WHOLE)):
        assert not torch.equal(mask, expected(here, image, resize, others))


def test_a_run_id_gives_the_same_masks_as_its_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label(capsys)
    run_record = run_dir.read_run_record(here / "runs/a")
    assert run_record
    shutil.rmtree(here / "runs")
    arguments = (f"--run={run_record.run_id}", "--images=photos", "--out=again")
    result = call(predict.main, capsys, *arguments, f"--tracking-uri={run_record.tracking_uri}")
    assert (result.code, result.err) == (0, "")
    for path in (here / "out/masks").rglob("*.png"):
        assert path.read_bytes() == (here / "again/masks" / path.relative_to(here / "out/masks")).read_bytes()


def test_images_that_are_not_read_are_counted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("photos/x.HEIC", "photos/sub dir/y.tif"):
        (here / name).touch()
    result = label(capsys)
    assert result.code == 0
    assert result.err.count("\n") == 1
    assert "2 file(s) left out, such as photos/sub dir/y.tif" in " ".join(result.err.split())


def test_an_interrupted_prediction_leaves_a_page_of_what_there_is(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LoadedModel.label_image

    def interrupted(*args: Any) -> Tensor:
        if len(names(here / "out")) >= 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(LoadedModel, "label_image", interrupted)
    monkeypatch.setattr(os, "_exit", sys.exit)
    result = label(capsys)
    assert result.code == 130
    assert "1 labelled: out/index.html" in result.out
    assert (here / "out/index.html").read_text().count("<figure>") == 1


def test_an_image_too_large_for_memory_is_one_line_and_the_others_are_labelled(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LoadedModel.label_image

    def large(trained: Any, image: Tensor, *rest: Any) -> Tensor:
        if image.shape[1:] == (1, 1):
            torch.empty(1 << 60)
        return real(trained, image, *rest)

    monkeypatch.setattr(LoadedModel, "label_image", large)
    result = label(capsys)
    assert result.code == 1
    assert "photos/one.png: must fit into memory" in " ".join(result.err.split())
    assert "2 labelled" in result.out


def test_one_image_is_taken_as_well(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = call(
        predict.main, capsys, "--checkpoint=runs/a", "--images=photos/sub dir/ü#1%.jpg", "--out=photos/beside it"
    )
    assert result.code == 0, result.err
    assert "masks/ü#1%.png" in names(here / "photos/beside it")


def test_a_bad_image_is_one_line_and_the_others_are_labelled(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "photos/bad.png").write_bytes(b"no image")
    result = label(capsys)
    assert result.code == 1
    assert result.err.count("\n") == 1
    assert result.err.startswith("failed: photos/bad.png: must be a readable")
    assert "3 labelled" in result.out
    assert "bad" not in "".join(names(here / "out"))


def test_an_image_that_does_not_fit_into_memory_is_one_line_with_what_helps(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = LoadedModel.label_image

    def short_of_memory(trained: object, image: Tensor, *rest: object) -> Tensor:
        if image.shape[1] == 61:
            raise torch.OutOfMemoryError
        return whole(trained, image, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(LoadedModel, "label_image", short_of_memory)
    result = label(capsys)
    assert result.code == 1
    assert re.fullmatch(r"failed: photos/sub dir/ü#1%.jpg: .*--window.*\n", result.err)
    assert "2 labelled" in result.out


def test_without_a_single_good_image_there_is_no_page(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "bad.png").write_bytes(b"no image")
    result = call(predict.main, capsys, "--checkpoint=runs/a", "--images=bad.png", "--out=out")
    assert (result.code, result.out) == (1, "")
    assert names(here / "out") == set()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--images=photos", "--out=out"), ("--run, --checkpoint", "one of the two")),
        (("--run=x", "--checkpoint=runs/a", "--images=photos", "--out=out"), ("--run, --checkpoint",)),
        (("--checkpoint=runs/a",), ("--images", "--export")),
        (("--checkpoint=runs/a", "--images=photos"), ("--out", "together")),
        (("--checkpoint=runs/a", "--out=out"), ("--images",)),
        (("--checkpoint=runs/b", "--images=photos", "--out=out"), ("runs/b/config.yaml", "must exist")),
        (("--checkpoint=runs/a", "--images=nowhere", "--out=out"), ("--images", "nowhere")),
        (("--checkpoint=runs/a", "--images=runs", "--out=out"), ("runs", "at least one image")),
        (("--checkpoint=runs/a", "--images=photos", "--out=photos/out"), ("--out", "outside --images")),
        (("--checkpoint=runs/a", "--images=photos", "--out=photos/one.png"), ("--out", "is a file")),
        (("--checkpoint=runs/a", "--images=photos", "--out=out", "--window=[4,4]"), ("--window", ">= 8", "(4, 4)")),
        (("--checkpoint=runs/a", "--images=photos", "--out=out", "--stride=[4,4]"), ("--stride", "window is set")),
        (("--checkpoint=runs/a", "--images=photos", "--out=out", "--scales=[0]"), ("--scales", "(0, 8]")),
        (("--checkpoint=runs/a", "--images=photos", "--out=out", "--windw=3"), ("--windw", "nearest key: window")),
        (("--checkpoint=runs/a", "--images=", "--out=out"), ("--images", "empty")),
        (("--checkpoint=runs/a", "--export="), ("--export", "empty")),
        (
            ("--checkpoint=runs/a", "--images=photos/one.png", "--export=photos/one.png/x.onnx", "--out=out"),
            ("--export",),
        ),
        (("--checkpoint=runs/a", "--images=again/overlays", "--out=again"), ("--out", "overlays", "over --images")),
        (("--run=x", "--images=photos", "--out=out", "--tracking-uri=http://127.0.0.1:9"), ("--run", "127.0.0.1:9")),
        (("--run=nope", "--images=photos", "--out=out"), ("--run", "nope")),
        (("--run=x", "--images=photos", "--out=out", "--tracking-uri=sqlite:///no.db"), ("--tracking-uri", "no.db")),
        (("--run=x", "--images=photos", "--out=out", "--tracking-uri=nonsense://x"), ("nonsense://x",)),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], words: tuple[str, ...]
) -> None:
    before = names(here)
    result = call(predict.main, capsys, *args)
    assert names(here) == before
    assert_refused(result, empty(here), *words)


def empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def test_two_images_of_one_stem_are_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(here / "photos/one.png", here / "photos/one.jpg")
    assert_refused(label(capsys), empty(here), "photos/one.jpg", "photos/one.png")
    assert not (here / "out").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def other_network(path: Path) -> None:
    config = path.with_name("config.yaml")
    config.write_text(config.read_text().replace("width: 4", "width: 8"))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("best.safetensors", Path.unlink),
        ("best.safetensors", cut),
        ("best.safetensors", other_network),
        ("classes.json", Path.unlink),
        ("classes.json", cut),
        ("config.yaml", cut),
    ],
)
def test_a_damaged_run_folder_is_one_line_with_the_file(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, damage: object
) -> None:
    assert callable(damage)
    damage(here / "runs/a" / name)
    assert_refused(label(capsys), empty(here), f"runs/a/{name}")
    assert not (here / "out").exists()


def test_a_run_without_weights_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_record = run_dir.read_run_record(here / "runs/a")
    assert run_record
    uri = run_record.tracking_uri
    with Run(uri, create_run(uri, run_record.experiment_id, "bare", {}), here) as bare:
        bare.file(here / "runs/a/config.yaml")
    arguments = (f"--run={bare.run_id}", "--images=photos", "--out=out", f"--tracking-uri={run_record.tracking_uri}")
    assert_refused(call(predict.main, capsys, *arguments), empty(here), "bare", "classes.json")


# -- ONNX -------------------------------------------------------------------------------------------------------------


def test_an_exported_network_gives_torchs_logits_for_any_number_and_size_and_names_its_classes(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    result = call(predict.main, capsys, "--checkpoint=runs/a", "--export=sub/net.onnx")
    assert (result.code, result.err) == (0, "")
    assert "sub/net.onnx: differs from torch by" in result.out
    assert names(here / "sub") == {"net.onnx"}
    session = onnxruntime.InferenceSession(str(here / "sub/net.onnx"), providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == list(classes_of(here))
    network = load_run_dir(here / "runs/a").network
    for size in ((48, 96), (31, 77)):
        image = random_image(4, *size)
        (logits,) = session.run(None, {"image": image[None].numpy()})
        assert torch.equal(torch.from_numpy(logits).argmax(1), predict_labels(network, image[None]))


def classes_of(folder: Path) -> tuple[str, ...]:
    return read_classes(folder / "runs/a/classes.json").names


def test_an_export_that_differs_from_torch_fails_in_one_line_and_leaves_no_file(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    from harness.inference import onnx

    monkeypatch.setattr(onnx, "TOLERANCE", -1.0)
    result = call(predict.main, capsys, "--checkpoint=runs/a", "--export=net.onnx")
    assert (result.code, result.out) == (1, "")
    assert re.fullmatch(r"failed: net.onnx: must agree with torch to .*\n", result.err)
    assert not (here / "net.onnx").exists()


def test_an_export_without_its_extra_is_refused_with_what_to_install(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = call(predict.main, capsys, "--checkpoint=runs/a", "--export=net.onnx")
    assert_refused(result, empty(here), "--export", "[onnx]", "onnxruntime is not")
