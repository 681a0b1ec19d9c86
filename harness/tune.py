"""Search hyperparameters.

    python -m harness.tune --space search_spaces/tau_ema.yaml [--trials N] [--train FILE] [--train.data.root DIR]
    python -m harness.tune --resume [--name STUDY]
    python -m harness.tune --space tau_ema --simulate benchmarks/tables/scenes.npz

Exit code: 0 done; 1 failed, 130 interrupted (both can be resumed); 2 refused input.
"""

import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from classmix_core.errors import DataError
from harness import run_dir
from harness.atomic import write_text
from harness.cli.display import say
from harness.cli.exit_code import run_command
from harness.cli.options import CommonOptions, add_common_options
from harness.config.batch_size import require_divisible, with_batch_size
from harness.config.parser import Parser, make_parser, naming
from harness.config.search import Resources, SearchConfig, draws_splits, read_space
from harness.config.train import TrainConfig, check_types, flatten, load_config, to_yaml, train_config
from harness.errors import DONE, INTERRUPTED, UserError
from harness.search.search_space import initial_points, refuse_fixed_axes, search_parameters
from harness.storage import remove_folder
from harness.tracking.names import RUN_ID

SIMULATION = "simulation"
"""Kind of a study over recorded trainings, which `--resume` does not find."""

if TYPE_CHECKING:
    from classmix_core.data import Data
    from harness.run_dir import RunRecord


def build_parser(shared: TrainConfig | None = None) -> Parser:
    """
    Args:
        shared: defaults of `--train.KEY`.
    """
    description = "Search hyperparameters of ClassMix: every value of TrainConfig can be an axis."
    parser = make_parser("python -m harness.tune", description)
    parser.add_argument(
        "--space",
        type=str | None,
        help="Search-space YAML, or a shipped one: tau_ema, lr_schedule, ablation_mix, smoke.",
    )
    parser.add_argument("--trials", type=int | None, help="Number of trials, instead of the file's.")
    parser.add_argument(
        "--gpus-per-trial", type=float | None, help="GPUs of each trial, or a fraction, for the file's."
    )
    parser.add_argument(
        "--simulate",
        type=str | None,
        help="A table of recorded trainings (benchmarks/tables/*.npz): the whole study over these, in seconds, to try "
        "settings of a search.",
    )
    parser.add_argument(
        "--warm-start",
        type=str | None,
        help="STUDY[,STUDY]: earlier studies, also of other data sets, whose trials inform this one.",
    )
    add_common_options(parser, "study")
    parser.add_class_arguments(TrainConfig, "train")
    if shared is not None:
        parser.set_defaults({f"train.{key}": value for key, value in flatten(shared).items()})
    return parser


def main(args: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if args is None else args
    parsed = build_parser().read(words)
    options = CommonOptions.of(parsed)
    if options.resume:
        folder, run_record = run_dir.find_unfinished(options.storage, options.name, "tune")
        refuse_changes(parsed)
        search, base = read_space(folder / "space.yaml"), load_config(folder / "config.yaml")
        with run_dir.run_lock(folder):
            return run_study(search, base, folder, run_record, options, words)
    search, base, source = new_study(parsed, words)
    axes = search_parameters(search, base, source)
    initial_points(search, axes, source)  # refuses what cannot be searched
    if search.known or parsed.warm_start is not None:
        from harness.search.warm_start import warm_started

        search = warm_started(search, axes, source, parsed.warm_start, options.storage)
    with naming(str(source)):
        draws_splits(search, base.data)
    if parsed.simulate is not None:
        with run_dir.claim_folder(options.storage, options.name, SIMULATION) as folder:
            return simulate_study(search, base, folder, Path(parsed.simulate), options, words)
    with run_dir.claim_folder(options.storage, options.name, "tune") as folder:
        return run_study(search, base, folder, None, options, words)


def run_study(
    search: SearchConfig,
    base: TrainConfig,
    folder: Path,
    run_record: "RunRecord | None",
    options: CommonOptions,
    words: Sequence[str],
) -> int:
    """Check what it needs, then search to the end; returns the exit code.

    Args:
        run_record: of the study that is resumed.
        words: of the command line.
    """
    # torch, MLflow and Ray, which take seconds to import; nothing may be begun before it can go on
    from harness.cli import capacity, preflight
    from harness.cli.lifecycle import open_experiment, replace_lost_run
    from harness.cli.signals import Interrupts
    from harness.distributed.connection import connected_for_trials
    from harness.search.study import Study
    from harness.training.provenance import provenance_tags

    uri = options.uri if run_record is None else run_record.tracking_uri
    capacity.check_trial_resources(search.resources, options, capacity.needs_of(base, folder, uri, options))
    if options.resume:
        preflight.check_same_images(base, folder, run_dir.repeat_command(folder), ("val", "test"))
    stored = folder / run_dir.SPLITS if options.resume else None
    preflight.check_data_and_network(base, search.resources.workers_per_trial, ("val",), stored)
    if run_record is None:
        if search.confirm.wanted:
            preflight.warn_of_missing_test(base)
        preflight.check_metric(search.metric, base)
    # a new store takes seconds: it is made while Ray starts, where Ray can no more be the reason to refuse
    sure = options.address is None and search.resources.workers_per_trial == 1
    try:
        with Interrupts("stopping the trials") as interrupts, ThreadPoolExecutor(1) as pool:
            opening = pool.submit(open_experiment, uri, folder.name) if sure and run_record is None else None
            cluster = options.address, options.verbose, options.wait, say
            with connected_for_trials(search.resources, uri, *cluster) as max_concurrent_trials:
                interrupts.deferred = True  # until the study, which exists from now on, can say how to go on with it
                if run_record is None:
                    experiment = opening.result() if opening else open_experiment(uri, folder.name)
                    run_record = start_study(search, base, folder, uri, experiment)
                else:
                    lost = run_record
                    run_record = replace_lost_run(lost, lambda: recreate_parent(base, folder, lost.tracking_uri))
                same_place = options.storage_path, options.address, options.wait
                resume = run_dir.resume_command("harness.tune", folder, *same_place)
                settings = (search, base, folder, run_record, resume, interrupts, max_concurrent_trials)
                Study(*settings, provenance_tags("harness.tune", words)).run(options)
    except (KeyboardInterrupt, SystemExit):  # before the study began; the latter from Ray's own handler of SIGTERM
        say("interrupted before anything was begun; the same command starts it")
        return INTERRUPTED
    return DONE


def simulate_study(
    search: SearchConfig, base: TrainConfig, folder: Path, table: Path, options: CommonOptions, words: Sequence[str]
) -> int:
    """A study over recorded trainings. It takes seconds, so it is begun anew and not resumed."""
    from harness.cli.lifecycle import open_experiment
    from harness.cli.signals import Interrupts
    from harness.search.recorded import read_table
    from harness.search.simulation import simulate_phases
    from harness.search.study import Study
    from harness.training.provenance import provenance_tags

    recorded = read_table(table, search_parameters(search, base, folder), search.metric)
    if base.steps != recorded.last_step:
        rule = f"must be that of the trainings in {table} ({recorded.last_step})"
        raise UserError(f"train.steps: {rule}, but is {base.steps}; --train.steps {recorded.last_step} sets it.")
    with Interrupts("stopping the simulation") as interrupts:
        run_record = start_study(
            search, base, folder, options.uri, open_experiment(options.uri, folder.name), SIMULATION
        )
        runner = partial(simulate_phases, recorded, base)
        slots = max(1, (os.cpu_count() or 1) // search.resources.all_cpus)
        again = f"python -m harness.tune {shlex.join(words)}"
        tags = provenance_tags("harness.tune", words)
        Study(search, base, folder, run_record, again, interrupts, lambda: slots, tags, runner).run(options)
    return DONE


def new_study(parsed: Namespace, args: Sequence[str] | None) -> tuple[SearchConfig, TrainConfig, Path]:
    """The search and the configuration that its trials share: the file's, then --train FILE, then flags.

    Raises:
        UserError: see `read_space` and `Parser.read`.
    """
    if parsed.space is None:
        raise UserError("--space: must name a search-space file, such as search_spaces/tau_ema.yaml, but is not given.")
    source = Path(parsed.space)
    search = read_space(source)
    base = shared_config(build_parser(check_types(search.train, str(source), "train.")), args)
    refuse_fixed_axes(search, args or (), source)
    for name in ("gpus", "workers"):
        if getattr(base, name) is not None:
            rule = "what a trial runs on is set by resources in the space file, or --gpus-per-trial"
            raise UserError(f"train.{name}: {rule}, but got {getattr(base, name)!r}.")
    if parsed.trials is not None:
        if parsed.trials < 1:
            raise UserError(f"--trials: `trials >= 1` must hold, but got {parsed.trials}.")
        search = dataclasses.replace(search, trials=parsed.trials)
    if parsed.gpus_per_trial is not None:
        try:
            resources: Resources = dataclasses.replace(search.resources, gpus=parsed.gpus_per_trial)
        except ValueError as error:
            raise UserError(f"--gpus-per-trial: {error}") from error
        search = dataclasses.replace(search, resources=resources)
    base = with_batch_size(base, search.resources.workers_per_trial)
    with naming(str(source)):
        require_divisible(base, search.resources.workers_per_trial)
    return search, base, source


def shared_config(parser: Parser, args: Sequence[str] | None) -> TrainConfig:
    """The configuration under --train."""
    return train_config(parser.read(args).as_dict()["train"], "train.")


def refuse_changes(parsed: Namespace) -> None:
    """
    Raises:
        UserError: a flag would change the study that is resumed.
    """
    for name in ("space", "trials", "gpus_per_trial", "simulate", "warm_start", "tracking_uri"):
        value = getattr(parsed, name)
        if value is not None:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag}: a resumed study keeps its configuration, but got {value!r}.")
    default = flatten(TrainConfig())
    for key, value in flatten(train_config(parsed.as_dict()["train"], "train.")).items():
        if value != default[key]:
            raise UserError(f"train.{key}: a resumed study keeps its configuration, but got {value!r}.")


def start_study(
    search: SearchConfig, base: TrainConfig, folder: Path, uri: str, experiment: str, kind: str = "tune"
) -> "RunRecord":
    """Write the study's files and make the parent run in an MLflow experiment."""
    from harness.training.dataloaders import load_data_once

    write_text(folder / "space.yaml", to_yaml(dataclasses.replace(search, train={})))
    write_text(folder / "config.yaml", to_yaml(base))
    try:
        data = load_data_once(base.data)
    except DataError:  # test need not be there yet: the confirmation stores its names
        data = load_data_once(base.data, ("val",))
    run_dir.write_splits(folder, data)
    return create_parent(base, data, folder, uri, experiment, kind)


def create_parent(
    base: TrainConfig, data: "Data", folder: Path, uri: str, experiment: str, kind: str = "tune"
) -> "RunRecord":
    """The parent run of a study, on record in its folder."""
    from harness.tracking.names import FOLDER, repeated_by
    from harness.tracking.patience import client_of
    from harness.tracking.store import create_run, find_parent
    from harness.training.provenance import datasets

    tags = {
        **repeated_by(run_dir.repeat_command(folder)),
        "harness.role": "search" if kind == "tune" else kind,
        FOLDER: str(folder),
    }
    run_id = find_parent(uri, experiment, folder) or create_run(uri, experiment, folder.name, tags)
    client_of(uri).log_inputs(run_id, datasets(base, data))
    run_record = run_dir.RunRecord(kind, uri, experiment, run_id)
    run_record.write(folder)
    return run_record


def recreate_parent(base: TrainConfig, folder: Path, uri: str) -> "RunRecord":
    """A new parent run, in place of one that MLflow's store has lost with those of the trials."""
    from classmix_core.data import EVALUATED
    from harness.cli.lifecycle import open_experiment
    from harness.tracking.outbox import OUTBOX
    from harness.training.dataloaders import load_data_once

    experiment, splits = open_experiment(uri, folder.name), folder / run_dir.SPLITS
    for path in folder.glob(f"*/*/{RUN_ID}"):
        path.unlink()
        remove_folder(path.with_name(OUTBOX), ignore_errors=True)
    roles = tuple(role for role in EVALUATED if role in run_dir.stored_roles(splits))
    return create_parent(base, load_data_once(base.data, roles, splits), folder, uri, experiment)


def cli() -> None:
    """`classmix-tune`."""
    run_command(main)


if __name__ == "__main__":
    cli()
