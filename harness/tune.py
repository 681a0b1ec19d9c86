"""Search hyperparameters.

    python -m harness.tune --space search_spaces/tau_ema.yaml [--trials N] [--train FILE] [--train.data.root DIR]
    python -m harness.tune --resume [--name STUDY]

Exit code: 0 done; 1 failed, 130 interrupted (both can be resumed); 2 refused input.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape

import harness  # noqa: F401
from classmix_core.errors import DataError
from harness import run_dir
from harness.cli import command
from harness.config.search import Resources, SearchConfig, read_space
from harness.config.train import Parser, TrainConfig, flatten, make_parser, to_yaml, train_config
from harness.errors import UserError
from harness.search.search_space import initial_points, search_parameters
from harness.train import add_common, check, open_experiment

DESCRIPTION = "Search hyperparameters of ClassMix: every value of TrainConfig can be an axis."


def build_parser() -> Parser:
    parser = make_parser("python -m harness.tune", DESCRIPTION)
    parser.add_argument("--space", type=str | None, help="Search-space YAML, such as search_spaces/tau_ema.yaml.")
    parser.add_argument("--trials", type=int | None, help="Number of trials, instead of the file's.")
    parser.add_argument(
        "--gpus-per-trial", type=float | None, help="GPUs of each trial, or a fraction, for the file's."
    )
    add_common(parser, "study")
    parser.add_class_arguments(TrainConfig, "train")
    return parser


def as_flags(values: dict[str, Any], prefix: str) -> list[str]:
    """Nested values as the flags that set them."""
    flags = []
    for key, value in values.items():
        if isinstance(value, dict):
            flags += as_flags(value, f"{prefix}{key}.")
        else:
            flags.append(f"--{prefix}{key}={value if isinstance(value, str) else json.dumps(value)}")
    return flags


def main(args: Sequence[str] | None = None) -> int:
    options = build_parser().read(args)
    storage = Path(options.storage_path).absolute()
    if options.resume:
        folder, run_record = run_dir.find_unfinished(storage, options.name, "tune")
        refuse_changes(options)
        search, base = read_study(folder)
        enough(search.resources, options.address)
        if not (folder / "trials.csv").is_file():  # after the search val is not needed, and test is read then
            check(base, ("val",))
    else:
        search, base, source = new_study(options, args)
        initial_points(search, search_parameters(search, base, source), source)  # refuses what cannot be searched
        folder = run_dir.new_folder(storage, options.name, "tune")
        enough(search.resources, options.address)
        check(base, ("val",))
        if search.confirm.wanted:
            warn_of_test(base)
        check_metric(search.metric, base)
    from harness.search.study import ray_for, run_study
    from harness.tracking import default_uri  # slow to import, and nothing may be begun before it can go on

    uri = options.tracking_uri or default_uri()
    # a new store takes seconds: it is made while Ray starts, where Ray can no more be the reason to refuse
    sure = options.address is None and search.resources.workers_per_trial == 1
    try:
        with command.Interrupts("stopping the trials") as interrupts, ThreadPoolExecutor(1) as pool:
            opening = pool.submit(open_experiment, uri, folder.name) if sure and not options.resume else None
            with ray_for(search.resources, options) as room:
                interrupts.install()
                interrupts.deferred = True  # until the study, which exists from now on, can say how to go on with it
                if not options.resume:
                    experiment = opening.result() if opening else open_experiment(uri, folder.name)
                    folder.mkdir(parents=True, exist_ok=True)
                with run_dir.run_lock(folder):
                    if not options.resume:
                        run_record = start_study(search, base, folder, uri, experiment)
                    resume = run_dir.resume_command("harness.tune", folder, options.storage_path, options.address)
                    return run_study(search, base, folder, run_record, options, resume, interrupts, room)
    except (KeyboardInterrupt, SystemExit):  # before the study began; the latter from Ray's own handler of SIGTERM
        return command.INTERRUPTED


def new_study(options: Any, args: Sequence[str] | None) -> tuple[SearchConfig, TrainConfig, Path]:
    """The search and the configuration that its trials share: the file's, then --train FILE, then flags.

    Raises:
        UserError: see `read_space` and `Parser.read`.
    """
    if options.space is None:
        raise UserError("--space: must name a search-space file, such as search_spaces/tau_ema.yaml, but is not given.")
    source = Path(options.space)
    search = read_space(source)
    flags, given = as_flags(search.train, "train."), sys.argv[1:] if args is None else args
    try:
        base = shared_config(flags)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    base = shared_config([*flags, *given])
    for name in ("gpus", "workers"):
        if getattr(base, name) is not None:
            rule = "what a trial runs on is set by resources in the space file, or --gpus-per-trial"
            raise UserError(f"train.{name}: {rule}, but got {getattr(base, name)!r}.")
    if options.trials is not None:
        if options.trials < 1:
            raise UserError(f"--trials: `trials >= 1` must hold, but got {options.trials}.")
        search = dataclasses.replace(search, trials=options.trials)
    if options.gpus_per_trial is not None:
        try:
            resources = dataclasses.replace(search.resources, gpus=options.gpus_per_trial)
        except ValueError as error:
            raise UserError(f"--gpus-per-trial: {error}") from error
        search = dataclasses.replace(search, resources=resources)
    return search, base, source


def shared_config(words: Sequence[str]) -> TrainConfig:
    """The configuration under --train."""
    values = build_parser().read(words).as_dict()["train"]
    try:
        return train_config(values)
    except UserError as error:
        raise UserError(f"train.{error}") from error


def refuse_changes(options: Any) -> None:
    for name in ("space", "trials", "gpus_per_trial", "tracking_uri"):
        value = getattr(options, name)
        if value is not None:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag}: a resumed study keeps its configuration, but got {value!r}.")
    default = flatten(TrainConfig())
    for key, value in flatten(train_config(options.as_dict()["train"])).items():
        if value != default[key]:
            raise UserError(f"train.{key}: a resumed study keeps its configuration, but got {value!r}.")


def read_study(folder: Path) -> tuple[SearchConfig, TrainConfig]:
    search = read_space(folder / "space.yaml")
    return search, shared_config([f"--train={folder / 'config.yaml'}"])


def enough(resources: Resources, address: str | None) -> None:
    """Refuse a trial that fits nowhere."""
    if address is None:
        there: Mapping[str, float] = {"GPU": torch.cuda.device_count(), "CPU": os.cpu_count() or 1}
        where = "this machine"
    else:
        from harness.distributed.torch_trainer import cluster_resources

        there, where = cluster_resources(address), f"the cluster at {address}"
    cpus = resources.cpus if address is None else resources.all_cpus  # a Ray of our own counts as many as needed
    for name, asked, unit in (("gpus", resources.gpus, "GPU"), ("cpus", cpus, "CPU")):
        have = there.get(unit, 0)
        if asked > have:
            raise UserError(f"resources.{name}: {asked:g} asked for each trial, but {where} has {have:g} {unit}s.")


def warn_of_test(base: TrainConfig) -> None:
    """The search needs no test, so it can start before that is there; better to hear of it now than in the end."""
    from harness.training.trainer import load_data_once

    try:
        load_data_once(base.data, ("test",))  # which opens no file
    except DataError as error:
        command.err.print(f"[yellow]warning:[/] {escape(str(error))} The confirmation after the search will need it.")


def check_metric(metric: str, base: TrainConfig) -> None:
    from harness.training.trainer import load_data_once

    known = ["val/miou", "val/accuracy", *(f"val/iou/{name}" for name in load_data_once(base.data, ("val",)).classes)]
    if metric not in known:
        raise UserError(f"metric: must be one of {', '.join(known)}, but got {metric!r}.")


def start_study(search: SearchConfig, base: TrainConfig, folder: Path, uri: str, experiment: str) -> run_dir.RunRecord:
    """Write the study's files and make the parent run in an MLflow experiment."""
    from harness import tracking
    from harness.training.trainer import load_data_once

    space_file, config_file = folder / "space.yaml", folder / "config.yaml"
    space_file.write_text(to_yaml(dataclasses.replace(search, train={})))
    config_file.write_text(to_yaml(base))
    run_dir.write_splits(folder, load_data_once(base.data, ("val",)))
    repeat = (
        f"python -m harness.tune --space {run_dir.display_path(space_file)} --train {run_dir.display_path(config_file)}"
    )
    tags = {**tracking.repeated_by(repeat), "harness.role": "search", tracking.FOLDER: str(folder)}
    run = tracking.find_run(uri, experiment, folder) or tracking.Run.create(uri, experiment, folder.name, tags)
    run_record = run_dir.RunRecord("tune", uri, experiment, run.run_id)
    run_record.write(folder)
    return run_record


if __name__ == "__main__":
    command.run_command(main)
