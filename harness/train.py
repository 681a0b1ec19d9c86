"""Train one network.

    python -m harness.train [--config recipes/x.yaml] [--gpus N | --gpus 0 --workers N] [--data.name camvid ...]
    python -m harness.train --resume [--name RUN]

One worker runs in this process; several run in a Ray TorchTrainer. Exit code: 0 done; 1 failed, 130 interrupted (both
can be resumed); 2 refused input.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from harness import run_dir
from harness.atomic import write_text
from harness.cli.display import TrainingDisplay, out, say, show_result
from harness.cli.exit_code import run_command
from harness.cli.options import CommonOptions, add_common_options, place_to_look
from harness.config.batch_size import used_sizes, with_batch_size
from harness.config.parser import Parser, make_parser
from harness.config.train import TrainConfig, add_train_config, flatten, load_config, to_yaml, train_config
from harness.errors import DONE, UserError

if TYPE_CHECKING:
    from harness.cli.capacity import Team
    from harness.run_dir import RunRecord
    from harness.tracking.run import Run

EXPERIMENT = "train"
WORKERS = ("gpus", "workers", "min_workers")
RESUME_MAY_CHANGE = ("data.cache", "data.cache_dir", "data.loader_workers", *WORKERS, "accumulate")
"""No result depends on these, but for batch norms, which see what one worker has of a batch, or a piece of it."""


def build_parser() -> Parser:
    parser = make_parser("python -m harness.train", "Train one network with ClassMix.")
    add_train_config(parser)
    add_common_options(parser, "run")
    return parser


def main(args: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if args is None else args
    parsed = build_parser().read(words)
    options = CommonOptions.of(parsed)
    if options.resume:
        folder, run_record = run_dir.find_unfinished(options.storage, options.name, "train")
        if options.tracking_uri is not None and options.uri != run_record.tracking_uri:
            raise UserError(f"--tracking-uri: a resumed run keeps its own, but got {options.tracking_uri!r}.")
        config = resumed_config(folder, words)
        with run_dir.run_lock(folder):
            return run_training(config, folder, run_record, options, words)
    config = train_config(parsed.as_dict())
    with run_dir.claim_folder(options.storage, options.name, "train") as folder:
        return run_training(config, folder, None, options, words)


def run_training(
    config: TrainConfig,
    folder: Path,
    run_record: "RunRecord | None",
    options: CommonOptions,
    words: Sequence[str],
) -> int:
    """Check what it needs, then train to the end; returns the exit code.

    Args:
        run_record: of the run that is resumed.
    """
    from harness.cli import capacity, lifecycle, preflight  # torch and MLflow, which take seconds to import
    from harness.tracking.run import HAND_OVER
    from harness.training.provenance import provenance_tags

    uri = options.uri if run_record is None else run_record.tracking_uri
    team = capacity.find_team(config, options, words, capacity.needs_of(config, folder, uri, options))
    config = with_batch_size(config, team.most)
    if run_record is not None:
        anew = f"python -m harness.train --config {run_dir.display_path(folder / 'config.yaml')} --name NEW"
        preflight.check_same_images(config, folder, anew)
        run_record = lifecycle.replace_lost_run(run_record, lambda: create_run(folder, uri))
    else:
        preflight.check_data_and_network(config, team.most)
        run_record = start_run(config, folder, uri)
    verb = "resuming" if options.resume else "training"
    batch = " + ".join(map(str, used_sizes(config).values()))
    what = f"{config.data.name}, {config.model.name}, {config.steps} steps of {batch} images, {team}"
    out.print(f"[bold]{verb} {escape(run_dir.display_path(folder))}[/]  {escape(what)}")
    run = lifecycle.reopen_run(run_record, folder)
    same_place = options.storage_path, options.address, options.wait
    resume = run_dir.resume_command("harness.train", folder, *same_place)
    with lifecycle.run_lifecycle(run, run_record, folder, resume):
        run.note(team.tags() | provenance_tags("harness.train", words))
        run.params(flatten(config))  # once more when it is resumed, in case it was cut short
        run.files(folder, "config.yaml", "classes.json")
        run.close(HAND_OVER)
        metrics = train_and_publish(config, folder, run, team, options)
    from harness.training.trainer import NETWORKS

    here = run_dir.display_path(folder)
    show_result(metrics, NETWORKS, config.eval.network, here, place_to_look(uri))
    return DONE


def resumed_config(folder: Path, words: Sequence[str]) -> TrainConfig:
    """The configuration that the run was started with; flags that contradict it are refused."""
    stored = load_config(folder / "config.yaml")
    original, parser = flatten(stored), build_parser()
    parser.set_defaults(original)
    given = train_config(parser.read(words).as_dict())
    for key, value in flatten(given).items():
        if value != original[key] and key not in RESUME_MAY_CHANGE:
            raise UserError(f"{key}: a resumed run keeps its configuration ({original[key]!r}), but got {value!r}.")
    return given


def start_run(config: TrainConfig, folder: Path, uri: str) -> "RunRecord":
    """Fill the run's folder and make its MLflow run."""
    from harness.inference.class_names import write_classes
    from harness.training.dataloaders import load_data_once

    data = load_data_once(config.data)
    write_text(folder / "config.yaml", to_yaml(config))
    write_classes(folder, data)
    run_dir.write_splits(folder, data)
    return create_run(folder, uri)


def create_run(folder: Path, uri: str) -> "RunRecord":
    """The MLflow run of a folder, on record there."""
    from harness.cli.lifecycle import open_experiment
    from harness.tracking.names import repeated_by
    from harness.tracking.patience import client_of
    from harness.tracking.store import create_run as create

    experiment = open_experiment(uri, EXPERIMENT)
    repeat = f"python -m harness.train --config {run_dir.display_path(folder / 'config.yaml')}"
    run_record = run_dir.RunRecord("train", uri, experiment, create(uri, experiment, folder.name, repeated_by(repeat)))
    try:
        run_record.write(folder)
    except BaseException:
        client_of(uri).set_terminated(run_record.run_id, "KILLED")
        raise
    return run_record


def train_and_publish(
    config: TrainConfig, folder: Path, run: "Run", team: "Team", options: CommonOptions
) -> dict[str, float]:
    """Train on what was asked for, and put the best network into MLflow; returns the last metrics."""
    import torch

    from harness.cli.signals import Interrupts
    from harness.inference.registry import publish
    from harness.training.context import LocalContext
    from harness.training.trainer import TrainJob, train

    job = TrainJob(config, folder, run.uri, run.run_id, splits=folder / run_dir.SPLITS)
    interrupts = Interrupts("stopping after this step; once more to stop at once", deferred=True, insist=True)
    with TrainingDisplay(config.steps) as display, interrupts:
        if team.numbers == (1,) and not options.address:
            device = torch.device("cuda", 0) if team.on_gpus else torch.device("cpu")
            metrics = train(job, LocalContext(device, display.show, interrupts.raised))
        else:
            from harness.distributed.elastic import train_on_workers

            place = team.numbers, team.on_gpus, options.address, options.verbose
            metrics = train_on_workers(job, *place, interrupts.raised, display.show, say)
    uri = publish(run, folder, metrics["val/best_miou"], folder / run_dir.SPLITS)
    if uri:
        out.print(f"registered as {uri}", markup=False)
    return metrics


def cli() -> None:
    """`classmix-train`."""
    run_command(main)


if __name__ == "__main__":
    cli()
