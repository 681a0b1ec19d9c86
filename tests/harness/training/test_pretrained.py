"""Weights from files and downloads: what is found under which names, and how what cannot be used is refused."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large, resnet18, resnet101

from benchmarks.convert_efficientnet_lite0 import check, renamed
from classmix_core.config import ModelConfig
from classmix_core.errors import DataError, InvalidValue
from classmix_core.models import build_model
from harness.config.train import train_config
from harness.training.checkpoint import save_weights
from harness.training.pretrained import NESTED, load_weights_into

CLASSES = 13


class Small(nn.Module):
    """Named as a network over an encoder: 7 tensors and a counter."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict({"conv1": nn.Conv2d(5, 2, 3, bias=False), "bn1": nn.BatchNorm2d(2)})
        self.classifier = nn.Conv2d(2, classes, 1)


def values(network: nn.Module) -> dict[str, Tensor]:
    """Its tensors, every one different from those that a fresh network has."""
    return {name: torch.full_like(value, 2 + index) for index, (name, value) in enumerate(network.state_dict().items())}


def saved(path: Path, content: object) -> str:
    torch.save(content, path)
    return str(path)


def prefixed(prefix: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: {prefix + name: value for name, value in tensors.items()}


def nested(*keys: str) -> Callable[[dict[str, Tensor]], object]:
    def wrap(tensors: dict[str, Tensor]) -> object:
        content: object = tensors
        for key in reversed(keys):
            content = {key: content, "epoch": 3}
        return content

    return wrap


SHAPES = {
    "plain": lambda tensors: tensors,
    "without counters": lambda tensors: {name: tensors[name] for name in tensors if "num_batches" not in name},
    "beside other things": lambda tensors: {"epoch": 4, "lr": [0.1], **tensors},
    **{f"under {key}": nested(key) for key in NESTED},
    "under two": nested("model", "state_dict"),
    **{f"after {prefix}": prefixed(prefix) for prefix in ("module.", "model.", "module._orig_mod.", "network.")},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_all_tensors_are_found_however_a_training_code_saved_them(shape: str, tmp_path: Path) -> None:
    network = Small()
    expected = values(network)
    report = load_weights_into(network, saved(tmp_path / "w.pth", SHAPES[shape](expected)))
    assert (len(report.loaded), report.missing, report.other_shape, report.unused) == (7, (), (), ())
    for name in report.loaded:
        assert torch.equal(network.state_dict()[name], expected[name]), name


def test_the_best_weights_of_a_run_are_read_back(tmp_path: Path) -> None:
    source, network = build_model(ModelConfig(width=4), CLASSES), build_model(ModelConfig(width=4), CLASSES)
    save_weights(tmp_path / "best.safetensors", source.state_dict())
    assert not load_weights_into(network, str(tmp_path / "best.safetensors")).missing
    image = torch.rand(1, 3, 9, 14)
    assert torch.equal(network.eval()(image), source.eval()(image))


def test_the_report_counts_what_fitted_what_is_missing_what_differs_and_what_is_left_over(tmp_path: Path) -> None:
    network, given = Small(classes=4), values(Small(classes=3))
    del given["backbone.bn1.bias"]
    given |= {"head.weight": torch.zeros(1), "head.bias": torch.zeros(2)}
    fresh = {name: value.clone() for name, value in network.state_dict().items()}
    report = load_weights_into(network, saved(tmp_path / "w.pth", given))
    assert set(report.loaded) == {f"backbone.{name}" for name in ("conv1.weight", "bn1.weight")} | {
        f"backbone.bn1.running_{name}" for name in ("mean", "var")
    }
    assert report.missing == ("backbone.bn1.bias",)
    assert report.other_shape == ("classifier.weight", "classifier.bias")
    assert report.unused == ("head.weight", "head.bias")
    for name in (*report.missing, *report.other_shape):
        assert torch.equal(network.state_dict()[name], fresh[name]), name
    assert str(report) == (
        f"weights: 4 of 7 tensors from {tmp_path}/w.pth; not in it: 1 (backbone.bn1.bias); "
        "of another shape: 2 (classifier.weight, ...); not used: 2 (head.weight, ...)"
    )


def test_values_keep_the_type_of_the_network(tmp_path: Path) -> None:
    network = Small()
    halves = {name: value.half() for name, value in values(network).items()}
    load_weights_into(network, saved(tmp_path / "w.pth", halves))
    assert network.classifier.weight.dtype == torch.float32
    assert torch.equal(network.classifier.weight, halves["classifier.weight"].float())


@pytest.mark.parametrize(
    ("name", "encoder", "prefix", "unused"),
    [
        ("deeplabv2", resnet101, "backbone.", 2),
        ("deeplabv3_resnet101", resnet101, "network.backbone.", 2),
        ("lraspp_mobilenet_v3_large", mobilenet_v3_large, "network.backbone.", 4),
        ("smp/Unet/resnet18", resnet18, "network.encoder.", 2),
    ],
)
def test_a_classifier_fills_the_whole_encoder_and_nothing_else(
    name: str, encoder: Callable[[], nn.Module], prefix: str, unused: int, tmp_path: Path
) -> None:
    if name.startswith("smp/"):
        pytest.importorskip("segmentation_models_pytorch")
    path = saved(tmp_path / "w.pth", encoder().state_dict())
    with torch.device("meta"):
        network = build_model(ModelConfig(name=name), CLASSES)
    report = load_weights_into(network, path)
    own = [tensor for tensor in network.state_dict() if not tensor.endswith("num_batches_tracked")]
    assert set(report.loaded) == {tensor for tensor in own if tensor.startswith(prefix)}
    assert set(report.missing) == {tensor for tensor in own if not tensor.startswith(prefix)}
    assert (report.other_shape, len(report.unused)) == ((), unused)  # weight and bias of each linear layer


# convnext: timm joins the names of its stages with _ in an encoder
@pytest.mark.parametrize("encoder", ["tf_efficientnet_lite0", "convnext_atto"])
def test_a_classifier_of_timm_fills_its_encoder(encoder: str, tmp_path: Path) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    timm = pytest.importorskip("timm")
    source = timm.create_model(encoder).state_dict()
    save_file(source, tmp_path / "w.safetensors")
    network = build_model(ModelConfig(name=f"smp/DeepLabV3Plus/{encoder}"), CLASSES)
    report = load_weights_into(network, str(tmp_path / "w.safetensors"))
    assert report.other_shape == ()
    assert all(not name.startswith("network.encoder.") for name in report.missing)
    stem = next(iter(source))
    first = next(parameter for name, parameter in network.named_parameters() if name.startswith("network.encoder."))
    assert torch.equal(first, source[stem])


def test_weights_of_the_authors_trunk_are_found_under_scale(tmp_path: Path) -> None:
    with torch.device("meta"):
        network = build_model(ModelConfig(name="deeplabv2"), CLASSES)
    content = {"Scale.conv1.weight": torch.zeros(64, 3, 7, 7), "Scale.layer5.conv2d_list.0.bias": torch.zeros(21)}
    report = load_weights_into(network, saved(tmp_path / "w.pth", content))
    assert report.loaded == ("backbone.conv1.weight",)
    assert report.unused == ("Scale.layer5.conv2d_list.0.bias",)


# -- what cannot be used ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_file_of_which_nothing_fits_is_refused_with_both_sides_names(device: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", {"classifier.weight": torch.zeros(3, 2, 1, 2), "other": torch.zeros(1)})
    with pytest.raises(DataError) as caught:
        load_weights_into(Small().to(device), path)
    assert str(caught.value) == (
        f"{path}: must hold tensors of the network by name and shape, but has classifier.weight, ... "
        "for backbone.conv1.weight, ...."
    )


WHOLE = io.BytesIO()
torch.save({"a": torch.zeros(3)}, WHOLE)
BAD_FILES = {
    "missing.pth": None,
    "missing.safetensors": None,
    "text.pth": b"no weights",
    "text.safetensors": b"no weights",
    "cut off.pth": WHOLE.getvalue()[:-50],
    "damaged.pth": b"\x80\x02X\x01\x00\x00\x00\xff.",
    "empty.pth": b"",
    "empty.safetensors": b"",
    "module.pth": nn.Linear(1, 1),
    "list.pth": [torch.zeros(1)],
    "numbers.pth": {"epoch": 1, "state_dict": {"step": 2}},
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_holds_no_weights_is_refused_in_one_line_with_its_path(name: str, tmp_path: Path) -> None:
    path, content = tmp_path / name, BAD_FILES[name]
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(DataError) as caught:
        load_weights_into(Small(), str(path))
    read = not isinstance(content, bytes | nn.Module | None)
    rule = "must hold tensors by name" if read else "must be a file of weights"
    assert str(caught.value).startswith(f"{path}: {rule}, ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source", ["torchvision:ResNet101_Weights.NONSENSE", "torchvision:Nonsense.X", "timm:nonsense"]
)
def test_a_download_that_does_not_exist_is_refused(source: str) -> None:
    if source.startswith("timm:"):
        pytest.importorskip("timm")
    with pytest.raises(InvalidValue, match=rf"has weights of that name` must hold, but got '{source}'") as caught:
        load_weights_into(Small(), source)
    assert caught.value.field == "weights"


def unreachable(*args: object, **options: object) -> None:
    raise URLError("Name or service not known")


@pytest.mark.parametrize("source", ["torchvision:ResNet18_Weights.DEFAULT", "timm:resnet18"])
def test_a_download_that_cannot_be_reached_names_the_way_without_one(
    source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", os.fspath(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    if source.startswith("timm:"):
        monkeypatch.setattr(pytest.importorskip("timm"), "create_model", unreachable)
    with pytest.raises(DataError, match=rf"^{source}: must be reachable; .* set model\.weights to a file .*\(.*known"):
        load_weights_into(Small(), source)


def test_a_download_is_matched_like_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = values(Small())
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **options: expected)
    network = Small()
    assert len(load_weights_into(network, "torchvision:ResNet18_Weights.IMAGENET1K_V1").loaded) == 7
    assert torch.equal(network.classifier.weight, expected["classifier.weight"])


def test_a_file_is_the_same_wherever_a_worker_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    sources = {"w.pth": f"{tmp_path}/w.pth", f"{tmp_path}/w.pth": f"{tmp_path}/w.pth", None: None}
    sources |= {name: name for name in ("timm:resnet18", "torchvision:ResNet18_Weights.DEFAULT")}
    for given, expected in sources.items():
        assert train_config({"model": {"weights": given}}).model.weights == expected


# -- the conversion ---------------------------------------------------------------------------------------------------

WANTED = {"stem.weight": torch.zeros(4, 3), "stem.bias": torch.zeros(4), "norm.running_var": torch.zeros(4)}


def test_a_conversion_pairs_tensors_by_their_order() -> None:
    given = {"_a.weight": torch.ones(4, 3), "_a.bias": torch.full((4,), 2.0), "_b.running_var": torch.full((4,), 3.0)}
    assert {name: value.flatten()[0].item() for name, value in renamed(given, WANTED).items()} == {
        "stem.weight": 1,
        "stem.bias": 2,
        "norm.running_var": 3,
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"_a.weight": (4, 3), "_a.bias": (4,)}, "must be 3 tensors, but there are 2"),
        ({"_a.weight": (3, 4), "_a.bias": (4,), "_b.running_var": (4,)}, r"_a\.weight \(3, 4\) must be stem\.weight"),
        ({"_a.weight": (4, 3), "_b.running_var": (4,), "_a.bias": (4,)}, r"_b\.running_var \(4,\) must be stem\.bias"),
    ],
)
def test_a_conversion_of_tensors_in_another_order_is_refused(given: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        renamed({name: torch.zeros(shape) for name, shape in given.items()}, WANTED)


@pytest.mark.parametrize(("name", "good", "bad"), [("n.running_var", 0.0, -1e-9), ("n.weight", -1.0, float("nan"))])
def test_a_conversion_refuses_what_no_trained_network_has(name: str, good: float, bad: float) -> None:
    check({name: torch.tensor([1.0, good])})
    with pytest.raises(ValueError, match=name):
        check({name: torch.tensor([1.0, bad])})
