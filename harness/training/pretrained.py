"""Weights to start from, from a file or a download, into a network that is built: what fits by name and shape.

FILE.safetensors, FILE.pth                     safetensors, or what torch.save wrote (read with weights_only)
torchvision:ResNet101_Weights.IMAGENET1K_V2    one of torchvision's
timm:tf_efficientnet_lite0                     one of timm's, with or without a tag
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from classmix_core.errors import DataError, InvalidValue
from harness.config.train import DOWNLOADS

NESTED = ("state_dict", "model_state_dict", "model", "student", "network", "net")
"""Where training codes keep the weights in what they save."""
WRAPPERS = {"module", "_orig_mod", "model", "network", "net", "backbone", "encoder", "features", "student", "Scale"}
"""Modules that hold a whole network or encoder, so that the same tensor has a longer name in them."""


@dataclass(frozen=True)
class WeightsReport:
    """What became of a network's tensors and of those that were read; counters of batches are left out."""

    source: str
    loaded: tuple[str, ...]
    """Names in the network, as in the next two."""
    missing: tuple[str, ...]
    """Not there."""
    other_shape: tuple[str, ...]
    """There in another shape: left as they were."""
    unused: tuple[str, ...]
    """Names of the source that the network does not have."""

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.missing) + len(self.other_shape)
        parts = [f"weights: {len(self.loaded)} of {total} tensors from {self.source}"]
        rest = {"not in it": self.missing, "of another shape": self.other_shape, "not used": self.unused}
        parts += [f"{what}: {len(names)} ({shortened(names)})" for what, names in rest.items() if names]
        return "; ".join(parts)


def shortened(names: Iterable[str]) -> str:
    first, *more = names
    return f"{first}, ..." if more else first


def load_weights_into(model: nn.Module, source: str) -> WeightsReport:
    """Copy into `model`, in place, every tensor of `source` that fits one of its own by name and shape.

    Names may be longer or shorter by modules that wrap a whole network (`module.`, `encoder.`, `backbone.`, ...). On
    the meta device nothing is copied: a cheap check.

    Args:
        source: a path, or a download (see the top of this file).

    Raises:
        DataError: the file cannot be read, the download cannot be reached, or no tensor fits.
        InvalidValue: torchvision or timm has no weights of that name.
    """
    given = without_counters(read_weights(source))
    own = without_counters(model.state_dict())
    pairs = pair_names(own, given)
    loaded = [name for name, theirs in pairs.items() if own[name].shape == given[theirs].shape]
    if not loaded:
        there, here = (shortened(tensors) if tensors else "nothing" for tensors in (given, own))
        raise DataError(f"{source}: must hold tensors of the network by name and shape, but has {there} for {here}.")
    with torch.no_grad():
        for name in loaded:
            own[name].copy_(given[pairs[name]])
    return WeightsReport(
        source,
        tuple(loaded),
        tuple(name for name in own if name not in pairs),
        tuple(name for name in pairs if name not in set(loaded)),
        tuple(name for name in given if name not in set(pairs.values())),
    )


def without_counters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All but batch norm's num_batches_tracked, which nothing reads and old files lack."""
    return {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}


# -- names ------------------------------------------------------------------------------------------------------------


def pair_names(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, str]:
    """From names in the network to names in the file, by the two prefixes under which most shapes agree."""
    best: dict[str, str] = {}
    most = -1
    for prefix in prefixes(own):
        inner = {plain(name.removeprefix(prefix)): name for name in own if name.startswith(prefix)}
        for outer in prefixes(given):
            theirs = {plain(name.removeprefix(outer)): name for name in given if name.startswith(outer)}
            pairs = {name: theirs[key] for key, name in inner.items() if key in theirs}
            fitting = sum(own[name].shape == given[other].shape for name, other in pairs.items())
            if fitting > most:
                best, most = pairs, fitting
    return best


def prefixes(names: Iterable[str]) -> list[str]:
    """The empty one and all runs of wrappers that names begin with, short ones first."""
    found = {""}
    for name in names:
        prefix = ""
        for part in name.split(".")[:-1]:
            if part not in WRAPPERS:
                break
            prefix += f"{part}."
            found.add(prefix)
    return sorted(found, key=lambda prefix: (len(prefix), prefix))


def plain(name: str) -> str:
    """timm writes stages_0 for the stages.0 of a network when it serves as an encoder."""
    return name.replace("_", ".")


# -- reading ----------------------------------------------------------------------------------------------------------


def read_weights(source: str) -> dict[str, Tensor]:
    """Tensors by name.

    Raises:
        DataError, InvalidValue: see `load_weights_into`.
    """
    if not source.startswith(DOWNLOADS):
        return read_file(Path(source))
    library, name = source.split(":", 1)
    try:
        return from_torchvision(name) if library == "torchvision" else from_timm(name)
    except LookupError as error:
        raise InvalidValue("weights", f"{library} has weights of that name", source) from error
    except (OSError, RuntimeError, HTTPException) as error:  # a cut download is one of the latter two
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        rule = "must be reachable; without a network set model.weights to a file that holds the weights"
        raise DataError(f"{source}: {rule} ({reason})") from error


def read_file(path: Path) -> dict[str, Tensor]:
    try:
        content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # damaged files raise ten kinds of error, from KeyError to struct.error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: must be a file of weights, safetensors or torch.save's, but: {reason}") from error
    tensors = unnested(content)
    if not tensors:
        raise DataError(f"{path}: must hold tensors by name, also under one of {', '.join(NESTED)}, but holds none.")
    return tensors


def unnested(content: Any) -> dict[str, Tensor]:
    """The tensors of a state dict, or of the first one inside it that a training code may have saved."""
    if not isinstance(content, Mapping):
        return {}
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    inner = (unnested(content[name]) for name in NESTED if name in content)
    return next((found for found in inner if found), tensors)


def from_torchvision(name: str) -> dict[str, Tensor]:
    from torchvision.models import get_weight

    try:
        weights = get_weight(name)
    except ValueError as error:
        raise LookupError(name) from error
    return dict(weights.get_state_dict(progress=False, check_hash=True))


def from_timm(name: str) -> dict[str, Tensor]:
    try:
        import timm
    except ImportError as error:
        raise InvalidValue("weights", "timm is installed (pip install '.[smp]')", f"timm:{name}") from error
    if not timm.models.is_model_pretrained(name):
        raise LookupError(name)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it reports each of ten attempts, 45 s in all
    return dict(timm.create_model(name, pretrained=True).state_dict())
