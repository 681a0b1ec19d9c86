"""Label images with the network of a run: masks, overlays and a page that shows them.

    python -m harness.predict --run RUN_ID | --checkpoint DIR --images DIR_OR_FILE --out DIR [--window '[512,512]']
    python -m harness.predict --run RUN_ID | --checkpoint DIR --export FILE.onnx

Exit code: 0 done; 1 an image could not be labelled, the others were; 2 refused input.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import TextColumn, TimeRemainingColumn

from classmix_core.config import InferenceConfig, Size
from classmix_core.errors import DataError, InvalidValue
from harness.cli.display import err, live_bar, out
from harness.cli.exit_code import run_command
from harness.cli.options import default_uri
from harness.config.parser import Parser, make_parser
from harness.config.train import TrainConfig
from harness.errors import DONE, FAILED, RunFailed, UserError, is_out_of_memory
from harness.run_dir import display_path
from harness.storage import storage_path

if TYPE_CHECKING:
    from harness.inference.gallery import GalleryImage
    from harness.inference.loaded_model import LoadedModel


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What is labelled by which network, and how. Unset: as the run was evaluated."""

    run: str | None = None
    """MLflow run id of a training, as its page shows it."""
    checkpoint: str | None = None
    """Folder of a training (runs/NAME), instead of --run."""
    images: str | None = None
    """An image, or a folder of images, whatever their sizes."""
    out: str | None = None
    """Folder for masks, overlays and index.html."""
    window: Size | None = None
    """Height and width of windows: the images are read at full resolution."""
    stride: Size | None = None
    """Steps down and right from window to window. Unset: 2/3 of the window."""
    flip: bool | None = None
    """Average with the mirrored image."""
    scales: tuple[float, ...] | None = None
    """Average over the image resized by these factors."""
    batch: int | None = None
    """Windows a forward pass."""
    export: str | None = None
    """Write the network as an ONNX file (the extra `onnx`)."""
    tracking_uri: str | None = None
    """MLflow store; by default mlflow.db in this folder."""


def build_parser() -> Parser:
    parser = make_parser("python -m harness.predict", "Label images with the network of a run.")
    parser.add_class_arguments(PredictOptions, None, skip={"tracking_uri"})
    parser.add_argument("--tracking-uri", type=str | None, help="MLflow store; by default mlflow.db in this folder.")
    return parser


def main(args: Sequence[str] | None = None) -> int:
    parsed = build_parser().read(args)
    options = PredictOptions(**{item.name: getattr(parsed, item.name) for item in fields(PredictOptions)})
    check_options(options)
    from harness.cli import preflight
    from harness.inference import onnx

    if options.export:
        onnx.check_installed()
        preflight.make_writable(Path(options.export).parent, "--export")
    images: dict[Path, Path] = {}
    if options.images is not None and options.out is not None:
        preflight.check_output(Path(options.images), Path(options.out))
        images = preflight.find_images(Path(options.images))
    model = load(options)
    resize, inference = settings(options, model.config)
    code = DONE
    if options.export:
        target = Path(options.export)
        try:
            difference = onnx.export(model.network, target, model.classes.names)
            out.print(f"{display_path(target.absolute())}: differs from torch by {difference:.1e}", markup=False)
        except RunFailed as error:  # the images are labelled all the same
            fail(str(error))
            code = FAILED
    return max(code, label_all(model, images, Path(options.out), resize, inference)) if options.out else code


def check_options(options: PredictOptions) -> None:
    """
    Raises:
        UserError: flags that contradict each other, or ask for nothing.
    """
    if (options.run is None) == (options.checkpoint is None):
        raise UserError("--run, --checkpoint: one of the two must be given.")
    for name in ("run", "checkpoint", "images", "out", "export"):
        if getattr(options, name) == "":
            raise UserError(f"--{name}: must not be empty, but got ''.")
    if options.images is None and options.export is None:
        raise UserError("--images: must be given, or --export.")
    if (options.images is None) != (options.out is None):
        raise UserError("--images, --out: must be given together.")
    if options.export and Path(options.export).is_dir():
        raise UserError(f"--export: must be a file, but {options.export} is a folder.")


def load(options: PredictOptions) -> "LoadedModel":
    """The network; from MLflow by way of a temporary folder."""
    from harness.inference.loaded_model import fetch, load_run_dir

    if options.checkpoint is not None:
        return load_run_dir(storage_path(options.checkpoint, "--checkpoint"))
    assert options.run is not None
    with TemporaryDirectory() as folder:
        fetch(options.tracking_uri or default_uri(), options.run, Path(folder))
        return load_run_dir(Path(folder))


def settings(options: PredictOptions, config: TrainConfig) -> tuple[Size | None, InferenceConfig]:
    """The size that images are resized to, and the passes over them: as the run was evaluated, but for the flags.

    Raises:
        UserError: a flag breaks a rule.
    """
    given = {name: getattr(options, name) for name in ("window", "stride", "batch", "flip", "scales")}
    changed = {name: value for name, value in given.items() if value is not None}
    if options.window is not None and options.stride is None:
        changed["stride"] = None
    try:
        inference = replace(config.eval.inference(), **changed)
    except InvalidValue as error:
        raise UserError(f"--{error.field}: {error}") from error
    return (None if options.window is not None else config.data.resize), inference


def label_all(
    model: "LoadedModel", images: dict[Path, Path], folder: Path, resize: Size | None, inference: InferenceConfig
) -> int:
    """Label what can be, name what cannot; returns the exit code."""
    import torch

    from harness.cli.preflight import make_writable
    from harness.inference import gallery

    model.network.to("cuda" if torch.cuda.is_available() else "cpu")
    if model.config.channels_last:
        model.network.to(memory_format=torch.channels_last)
    make_writable(folder, "--out")
    done: list[GalleryImage] = []
    try:
        try:
            for image in label_images(model, images, folder, resize, inference):
                done.append(image)
        finally:  # a Ctrl-C leaves a page of what there is
            if done:
                page = gallery.write_page(folder, done, model.classes)
                out.print(f"{len(done)} labelled: {display_path(page.absolute())}", markup=False)
    except OSError as error:
        raise RunFailed(f"--out: there must be room for all that is written, but got: {error}.") from error
    return DONE if len(done) == len(images) else FAILED


def label_images(
    model: "LoadedModel", images: dict[Path, Path], folder: Path, resize: Size | None, inference: InferenceConfig
) -> "Iterator[GalleryImage]":
    """Label and write one image after the other; one that cannot be is named and left out."""
    from classmix_core.data.samples import FileSamples
    from harness.inference.gallery import write_image

    samples = FileSamples([path.as_posix() for path in images.values()], list(images.values()), None)
    with live_bar("predict", TextColumn("left"), TimeRemainingColumn(), console=err) as bar:
        for index, stem in enumerate(bar.track(list(images))):
            try:
                image = samples.image(index)
                label = model.label_image(image, resize, inference)
            except DataError as error:
                fail(str(error))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                fail(f"{samples.names[index]}: must fit into memory; --window or a smaller --batch helps.")
            else:
                yield write_image(folder, samples.names[index], stem, image, label, model.classes)


def fail(message: str) -> None:
    err.print(f"[bold red]failed:[/] {escape(' '.join(message.split()))}")


def cli() -> None:
    """`classmix-predict`."""
    run_command(main)


if __name__ == "__main__":
    cli()
