"""A network as an ONNX file, uint8 images in, logits out, of any number and size."""

import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from classmix_core.augment import to_float
from harness.atomic import atomic_file
from harness.errors import RunFailed, UserError

TOLERANCE = 1e-4
"""Largest difference from torch that is taken, relative to the largest logit where that is above 1."""


class FromBytes(nn.Module):
    """uint8 RGB images (B, 3, H, W) to logits (B, K, H, W)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(to_float(image))


def check_installed() -> None:
    """
    Raises:
        UserError: the extra is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        rule = "onnx, onnxruntime and onnxscript must be installed (pip install -e '.[onnx]')"
        raise UserError(f"--export: {rule}, but {error.name} is not.") from None


@torch.no_grad()
def export(network: nn.Module, path: Path, classes: tuple[str, ...]) -> float:
    """Write the file, after it agreed with torch on random images of another number and size.

    Args:
        network: on the CPU, in evaluation mode.
        classes: kept in the file's metadata, as JSON under `classes`.

    Returns:
        the largest difference from torch.

    Raises:
        RunFailed: it is above TOLERANCE, or torch cannot export such a network.
    """
    model = FromBytes(network).eval()
    program = trace(model, path)
    program.model.metadata_props["classes"] = json.dumps(classes)
    with atomic_file(path) as part:
        program.save(part)
        difference, allowed = compare(model, part)
        if not difference <= allowed:  # also where it is not a number
            raise RunFailed(f"{path}: must agree with torch to {allowed:.1e}, but differs by {difference:.1e}.")
    return difference


def trace(model: nn.Module, path: Path) -> torch.onnx.ONNXProgram:
    free = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    try:
        program = torch.onnx.export(
            model,
            (random_images(2, 64, 96),),
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes={"image": free},
            dynamo=True,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        reason = " ".join(str(error).split())[:300]
        raise RunFailed(f"{path}: torch cannot export this network: {reason}") from error
    assert program is not None
    return program


def compare(model: nn.Module, path: Path) -> tuple[float, float]:
    """The largest difference between torch and onnxruntime, and how much may be."""
    import onnxruntime

    image = random_images(3, 75, 51)
    expected = model(image)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": image.numpy()})
    difference = (torch.from_numpy(logits) - expected).abs().max()
    return float(difference), TOLERANCE * max(1.0, float(expected.abs().max()))


def random_images(batch: int, height: int, width: int) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=draw)
