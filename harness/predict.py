"""Label images with the network of a run: masks, overlays and a page that shows them.

    python -m harness.predict --run RUN_ID | --checkpoint DIR --images DIR_OR_FILE --out DIR [--window '[512,512]']
    python -m harness.predict --run RUN_ID | --checkpoint DIR --export FILE.onnx

Exit code: 0 done; 1 an image could not be labelled, the others were; 2 refused input.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

import harness  # noqa: F401
from classmix_core.data.samples import FileSamples, image_files
from classmix_core.errors import DataError, InvalidValue
from harness.cli import command
from harness.config.train import Parser, TrainConfig, make_parser
from harness.errors import RunFailed, UserError
from harness.inference import gallery
from harness.inference.loaded_model import LoadedModel, fetch, load_run_dir
from harness.inference.looks import Look, label_image
from harness.run_dir import display_path

UNREAD = (".avif", ".bmp", ".gif", ".heic", ".heif", ".tif", ".tiff")
"""Images that are not read."""


def build_parser() -> Parser:
    parser = make_parser("python -m harness.predict", "Label images with the network of a run.")
    add = parser.add_argument
    add("--run", type=str | None, help="MLflow run id of a training, as its page shows it.")
    add("--checkpoint", type=str | None, help="Folder of a training (runs/NAME), instead of --run.")
    add("--images", type=str | None, help="An image, or a folder of images, whatever their sizes.")
    add("--out", type=str | None, help="Folder for masks, overlays and index.html.")
    window = "Height and width of windows: the images are read at full resolution. Unset: as the run was evaluated."
    add("--window", type=tuple[int, int] | None, help=window)
    add("--stride", type=tuple[int, int] | None, help="Steps from window to window. Unset: 2/3 of the window.")
    add("--flip", type=bool | None, help="Average with the mirrored image. Unset: as the run was evaluated.")
    scales = "Average over the image resized by these factors. Unset: as the run was evaluated."
    add("--scales", type=tuple[float, ...] | None, help=scales)
    add("--batch", type=int | None, help="Windows a forward pass. Unset: as the run was evaluated.")
    add("--export", type=str | None, help="Write the network as an ONNX file (the extra `onnx`).")
    add("--tracking-uri", type=str | None, help="MLflow store; by default mlflow.db in this folder.")
    return parser


def main(args: Sequence[str] | None = None) -> int:
    options = build_parser().read(args)
    check_options(options)
    images = find_images(Path(options.images)) if options.images is not None else {}
    trained = load(options)
    look = look_as(options, trained.config)
    code = export(trained, Path(options.export)) if options.export else command.DONE
    return max(code, label_all(trained, images, Path(options.out), look)) if images else code


def check_options(options: Any) -> None:
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
    if options.export:
        from harness.inference.onnx import check_installed

        check_installed()
        if Path(options.export).is_dir():
            raise UserError(f"--export: must be a file, but {options.export} is a folder.")
        make_writable(Path(options.export).parent, "--export")
    if options.out is None:
        return
    images, out = Path(options.images), Path(options.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out: must be a folder, but {out} is a file.")
    for part in gallery.FOLDERS:
        if images.resolve().is_relative_to((out / part).resolve()):
            raise UserError(f"--out: its {part} would be written over --images, but got {out} and {images}.")
    if images.is_dir() and out.resolve().is_relative_to(images.resolve()):
        raise UserError(f"--out: must lie outside --images ({images}), or it would be read as images, but got {out}.")


def make_writable(folder: Path, flag: str) -> None:
    """Make the folder if need be.

    Raises:
        UserError: that is not allowed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{flag}: must lie in a folder that can be written, but got {folder}: {error.strerror}."
        ) from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"{flag}: must lie in a folder that can be written, but {folder} is not.")


def find_images(path: Path) -> dict[Path, Path]:
    """Files by the relative stem of what is written for them.

    Raises:
        UserError: there is nothing at `path`, or two images would be written under one name.
        DataError: the folder holds no image.
    """
    if not path.exists():
        raise UserError(f"--images: must be an image or a folder of images, but there is no {path}.")
    root = path if path.is_dir() else path.parent
    others = sorted(file for file in root.rglob("*") if file.suffix.lower() in UNREAD) if path.is_dir() else []
    if others:
        what = f"{len(others)} file(s) left out, such as {others[0]}: JPEG, PNG and WebP are read"
        command.err.print(f"warning: {what}", markup=False)
    found: dict[Path, Path] = {}
    for file in image_files(path) if path.is_dir() else [path]:
        stem = file.relative_to(root).with_suffix("")
        if stem in found:
            raise UserError(f"--images: names must differ before their suffix, but got {found[stem]} and {file}.")
        found[stem] = file
    return found


def load(options: Any) -> LoadedModel:
    """The network; from MLflow by way of a temporary folder."""
    if options.checkpoint is not None:
        return load_run_dir(Path(options.checkpoint))
    from harness.tracking import default_uri

    with TemporaryDirectory() as folder:
        fetch(options.tracking_uri or default_uri(), options.run, Path(folder))
        return load_run_dir(Path(folder))


def look_as(options: Any, config: TrainConfig) -> Look:
    """As the run was evaluated, but for what the flags say; a window of theirs is one at full resolution.

    Raises:
        UserError: a flag breaks a rule.
    """
    given = {name: getattr(options, name) for name in ("window", "stride", "batch", "flip", "scales")}
    changed = {name: value for name, value in given.items() if value is not None}
    inference = config.eval.inference()
    if options.window is not None and options.stride is None:
        changed["stride"] = None
    try:
        inference = replace(inference, **changed)
    except InvalidValue as error:
        raise UserError(f"--{error.field}: {error}") from error
    return Look(None if options.window is not None else config.data.resize, inference)


def export(trained: LoadedModel, path: Path) -> int:
    from harness.inference.onnx import ExportError, export

    try:
        difference = export(trained.network, path, trained.classes.names)
    except ExportError as error:
        fail(str(error))
        return command.FAILED
    command.out.print(f"{display_path(path.absolute())}: differs from torch by {difference:.1e}", markup=False)
    return command.DONE


def label_all(trained: LoadedModel, images: dict[Path, Path], out: Path, look: Look) -> int:
    """Label what can be, name what cannot; returns the exit code."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trained.network.to(device)
    if trained.config.channels_last:
        trained.network.to(memory_format=torch.channels_last)
    make_writable(out, "--out")
    labelled_images: list[gallery.GalleryImage] = []
    try:
        try:
            for labelled_image in labelled(trained, images, out, look, device):
                labelled_images.append(labelled_image)
        finally:  # a Ctrl-C leaves a page of what there is
            if labelled_images:
                page = gallery.write_page(out, labelled_images, trained.classes)
                command.out.print(f"{len(labelled_images)} labelled: {display_path(page.absolute())}", markup=False)
    except OSError as error:
        raise RunFailed(f"--out: there must be room for all that is written, but got: {error}.") from error
    return command.DONE if len(labelled_images) == len(images) else command.FAILED


def labelled(
    trained: LoadedModel, images: dict[Path, Path], out: Path, look: Look, device: torch.device
) -> Iterator[gallery.GalleryImage]:
    """Label and write one image after the other; one that cannot be is named and left out."""
    samples = FileSamples([path.as_posix() for path in images.values()], list(images.values()), None)
    for index, stem in enumerate(with_bar(list(images))):
        try:
            image = samples.image(index)
            label = label_image(trained, image, look, device)
        except DataError as error:
            fail(str(error))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            fail(f"{samples.names[index]}: must fit into memory; --window or a smaller --batch helps.")
        else:
            yield gallery.write_image(out, samples.names[index], stem, image, label, trained.classes)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether it is a GPU's or the CPU's, which has no class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def with_bar(stems: list[Path]) -> Iterator[Path]:
    """Each of them, under a bar with the time left."""
    columns = (
        TextColumn("[bold]predict"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=command.err, disable=not command.err.is_terminal) as bar:
        yield from bar.track(stems)


def fail(message: str) -> None:
    command.err.print(f"[bold red]failed:[/] {escape(' '.join(message.split()))}")


if __name__ == "__main__":
    command.run_command(main)
