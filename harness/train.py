"""Train one network.

    python -m harness.train [--config recipes/x.yaml] [--gpus N | --gpus 0 --workers N] [--data.name camvid ...]
    python -m harness.train --resume [--name RUN]

One worker runs in this process; several run in a Ray TorchTrainer. Exit code: 0 done; 1 failed, 130 interrupted (both
can be resumed); 2 refused input.
"""

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table

import harness  # noqa: F401
from classmix_core.data import EVALUATED, Role, check_data
from classmix_core.errors import DataError, InvalidValue
from harness import run_dir
from harness.cli import command
from harness.config.train import (
    Parser,
    TrainConfig,
    add_train_config,
    flatten,
    load_config,
    make_parser,
    to_yaml,
    train_config,
)
from harness.errors import Interrupted, RunFailed, UserError
from harness.inference.class_names import CLASSES, write_classes
from harness.training.context import LocalContext
from harness.training.pretrained import load_weights_into
from harness.training.trainer import NETWORKS, TrainJob, load_data_once, train

EXPERIMENT = "train"
RESUME_MAY_CHANGE = ("data.cache", "data.cache_dir", "data.loader_workers")
"""What a resumed run may change: no result depends on it."""


def build_parser() -> Parser:
    parser = make_parser("python -m harness.train", "Train one network with ClassMix.")
    add_train_config(parser)
    add_common(parser, "run")
    parser.add_argument("--wait", action="store_true", help="With --address: queue until the cluster has the GPUs.")
    return parser


def add_common(parser: Parser, what: str) -> None:
    parser.add_argument("--name", type=str | None, help=f"Name of the {what} and of its folder; by default the time.")
    parser.add_argument("--resume", action="store_true", help=f"Go on with the {what} called --name, or the newest.")
    parser.add_argument("--tracking-uri", type=str | None, help="MLflow store; by default mlflow.db in this folder.")
    parser.add_argument("--storage-path", type=str, default="runs", help=f"Folder that holds the {what} folders.")
    parser.add_argument("--address", type=str | None, help="Ray cluster to run on, such as auto.")
    parser.add_argument("--verbose", action="store_true", help="Show the logs of Ray as well.")


def main(args: Sequence[str] | None = None) -> int:
    parser = build_parser()
    options = parser.read(args)
    storage = Path(options.storage_path).absolute()
    if options.resume:
        folder, run_record = run_dir.find_unfinished(storage, options.name, "train")
        if options.tracking_uri not in (None, run_record.tracking_uri):
            raise UserError(f"--tracking-uri: a resumed run keeps its own, but got {options.tracking_uri!r}.")
        config = resumed_config(folder, sys.argv[1:] if args is None else args)
        workers, gpus = resources(config, options)
        announce = f"resuming {run_dir.display_path(folder)}"
    else:
        config = train_config(options.as_dict())
        workers, gpus = resources(config, options)
        folder = run_dir.new_folder(storage, options.name, "train")
        check(config)
        run_record = start_run(config, folder, options.tracking_uri)
        announce = f"training {run_dir.display_path(folder)}"
    place = f"{gpus} GPU(s)" if gpus else f"CPU, {workers} worker(s)"
    command.out.print(
        f"[bold]{escape(announce)}[/]  {config.data.name}, {config.model.name}, {config.steps} steps, {place}"
    )
    resume = run_dir.resume_command("harness.train", folder, options.storage_path, options.address)
    with run_dir.run_lock(folder):
        log_start(run_dir.reopened(run_record), config, folder)
        return run(config, folder, run_record, workers, gpus, options, resume)


def resources(config: TrainConfig, options: Any) -> tuple[int, int]:
    """Workers and GPUs to use.

    Raises:
        UserError: more GPUs than there are.
    """
    if options.address:
        from harness.distributed.torch_trainer import cluster_resources

        there, where = int(cluster_resources(options.address).get("GPU", 0)), f"the cluster at {options.address}"
        if options.wait:
            there = max(there, config.gpus or 0)
    else:
        there, where = torch.cuda.device_count(), "this machine"
    gpus = min(there, config.workers or there) if config.gpus is None else config.gpus
    if config.gpus is None and there and config.workers and config.workers > there:
        raise UserError(
            f"workers: {config.workers} asked for, but {where} has {there} GPU(s); add --gpus 0 for the CPU"
        )
    if gpus > there:
        instead = f"--gpus {there}" if there else "--gpus 0 --workers 2"
        raise UserError(
            f"gpus: {gpus} asked for, but {where} has {there}; run: python -m harness.train {instead}"
            + (" (CPU)" if not there else "")
            + (", or add --wait to queue" if options.address else "")
        )
    return (gpus or config.workers or 1), gpus


def resumed_config(folder: Path, words: Sequence[str]) -> TrainConfig:
    """The configuration that the run was started with; flags that contradict it are refused."""
    file = folder / "config.yaml"
    stored, given = load_config(file), train_config(build_parser().read([f"--config={file}", *words]).as_dict())
    original = flatten(stored)
    for key, value in flatten(given).items():
        if value != original[key] and key not in RESUME_MAY_CHANGE:
            raise UserError(f"{key}: a resumed run keeps its configuration ({original[key]!r}), but got {value!r}.")
    return given


def check(config: TrainConfig, roles: tuple[Role, ...] = EVALUATED) -> None:
    """Read the whole data set and build the network once, so that nothing is begun that cannot end.

    Args:
        roles: which of val and test are looked at.
    """
    from classmix_core.models import build_model

    try:
        data = load_data_once(config.data, roles)
        learnt = ("labelled", "unlabelled") if config.ssl.unlabelled_weight > 0 else ("labelled",)
        command.checking(check_data(data, config.data, (*learnt, *roles)))
    except InvalidValue as error:
        raise UserError(f"data.{error.field}: {error}") from error
    try:
        # some of segmentation_models_pytorch's encoders compute while they are built
        with torch.device("cpu" if config.model.name.startswith("smp/") else "meta"):
            model = build_model(config.model, len(data.classes))
        if config.model.weights:
            command.out.print(str(load_weights_into(model, config.model.weights)), markup=False)
    except InvalidValue as error:
        raise UserError(f"model.{error.field}: {error}") from error


def start_run(config: TrainConfig, folder: Path, tracking_uri: str | None) -> run_dir.RunRecord:
    """Make the run's folder and its MLflow run."""
    from harness import tracking

    uri = tracking_uri or tracking.default_uri()
    experiment = open_experiment(uri, EXPERIMENT)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    data = load_data_once(config.data)
    write_classes(folder, data)
    run_dir.write_splits(folder, data)
    repeat = f"python -m harness.train --config {run_dir.display_path(folder / 'config.yaml')}"
    run = tracking.Run.create(uri, experiment, folder.name, tracking.repeated_by(repeat))
    run_record = run_dir.RunRecord("train", uri, experiment, run.run_id)
    run_record.write(folder)
    return run_record


def log_start(run: Any, config: TrainConfig, folder: Path) -> None:
    """The run's parameters, files and splits; once more when it is resumed, in case it was cut short."""
    with run.failing():
        run.params(flatten(config))
        for name in ("config.yaml", CLASSES):
            run.file(folder / name)
        for path in sorted((folder / "splits").iterdir()):
            run.file(path, "splits")


def open_experiment(uri: str, name: str) -> str:
    """The MLflow experiment, made if need be.

    Raises:
        UserError: the store cannot be opened.
    """
    from harness import tracking

    try:
        tracking.require_answer(uri)
        return tracking.open_experiment(uri, name)
    except (*tracking.STORE_ERRORS, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--tracking-uri: must be an MLflow store that can be opened, but got {uri}: {reason}"
        ) from error


def run(
    config: TrainConfig, folder: Path, run_record: run_dir.RunRecord, workers: int, gpus: int, options: Any, resume: str
) -> int:
    from harness.tracking import STORE_ERRORS, Run

    job = TrainJob(config, folder, run_record.tracking_uri, run_record.run_id)
    log = Run(run_record.tracking_uri, run_record.run_id)
    status = "FAILED"
    try:
        with command.TrainingDisplay(config.steps) as display:
            if workers == 1 and not options.address:
                device = torch.device("cuda", 0) if gpus else torch.device("cpu")
                with command.StopFlag("stopping after this step; once more to stop at once") as stop:
                    metrics = train(job, LocalContext(device, display.show, stop))
            else:
                from harness.distributed.torch_trainer import train_on_workers

                metrics = train_on_workers(job, workers, gpus, options.address, options.verbose, display.show)
        publish(log, config, folder, metrics)
        status = "FINISHED"
    except (KeyboardInterrupt, Interrupted):
        status = "KILLED"
        command.out.print(f"interrupted; go on with: {resume}", markup=False)
        return command.INTERRUPTED
    except RunFailed as error:
        with suppress(*STORE_ERRORS):
            log.failed(error)
        raise
    except DataError as error:  # all was read once before: a file that is gone now, a cache that is full
        with suppress(*STORE_ERRORS):
            log.failed(error)
        reason = str(error).strip().splitlines()[-1].removeprefix("classmix_core.errors.DataError: ")  # of a loader
        raise RunFailed(f"{reason} Once the cause is gone, go on with: {resume}") from error
    except BaseException as error:
        command.err.print(f"failed; once the cause is gone, go on with: {resume}", markup=False)
        with suppress(*STORE_ERRORS):  # which may be the error
            log.failed(error)
        raise
    finally:
        trouble = log.finish_or_reason(status)
    if trouble:
        raise RunFailed(f"MLflow does not know of the end: {trouble} Once the cause is gone, go on with: {resume}")
    run_record.end(folder)
    show_result(metrics, folder, config.eval.network)
    return command.DONE


def publish(log: Any, config: TrainConfig, folder: Path, metrics: dict[str, float]) -> None:
    """The best network into MLflow: a model of the run, and a version in the registry."""
    from harness.inference.registry import log_model, model_name, register

    val = load_data_once(config.data).val
    assert val is not None
    log_model(log, folder, val, smp=config.model.name.startswith("smp/"))
    register(log, model_name(config.data), metrics["val/best_miou"])


def show_result(metrics: dict[str, float], folder: Path, network: str) -> None:
    table = Table(title=f"test, {network} of the best step on val")
    table.add_column("class")
    table.add_column("IoU", justify="right")
    for key, value in metrics.items():
        if key.startswith("test/iou/"):
            table.add_row(key.removeprefix("test/iou/"), command.format_metric(value))
    table.add_section()
    table.add_row("[bold]mean", f"[bold]{command.format_metric(metrics['test/miou'])}")
    command.out.print(table)
    command.out.print(f"pixel accuracy {metrics['test/accuracy']:.3f}")
    both = Table(title="test mIoU")
    for column in ("", f"best step on val ({metrics['test/best_step']:.0f})", "last step"):
        both.add_column(column, justify="right")
    for name in NETWORKS:
        both.add_row(
            name, *(command.format_metric(metrics[f"test/{which}_{name}_miou"]) for which in ("best", "final"))
        )
    command.out.print(both)
    command.out.print(
        f"weights and splits: {run_dir.display_path(folder)}; curves and pictures: python -m harness.ui", markup=False
    )


if __name__ == "__main__":
    command.run_command(main)
