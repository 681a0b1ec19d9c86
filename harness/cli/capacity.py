"""How many workers a training may have, and whether a trial of a search fits, on this machine or on a cluster."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from harness.cli.display import warn
from harness.cli.options import CommonOptions
from harness.config.batch_size import most_workers, require_divisible, sharing_numbers, train_command
from harness.config.search import Resources
from harness.config.train import TrainConfig
from harness.distributed.bundles import Bundle, training_bundles, trial_bundles
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.distributed.nodes import Needs


@dataclass(frozen=True)
class Team:
    """The workers of a training."""

    numbers: tuple[int, ...]
    """How many there may be at a time, the fewest first; one number, but for elastic training."""
    on_gpus: bool
    """One on each."""

    @property
    def most(self) -> int:
        return self.numbers[-1]

    def tags(self) -> dict[str, str]:
        """Of an MLflow run."""
        return {"harness.workers": str(self.most), "harness.gpus": str(self.most if self.on_gpus else 0)}

    def __str__(self) -> str:
        count = f"{self.most}" if len(self.numbers) == 1 else f"{self.numbers[0]} to {self.most}"
        return f"{count} GPU(s)" if self.on_gpus else f"CPU, {count} worker(s)"


def find_team(config: TrainConfig, options: CommonOptions, words: Sequence[str], needs: "Needs | None" = None) -> Team:
    """The workers of a training: where it does not say, as many as there are GPUs and as can share its batch.

    Args:
        options: whether what the cluster does not have yet is waited for, among others.
        words: of the command line, for the message.
        needs: what each machine of a cluster must have.

    Raises:
        UserError: a machine lacks it; there are fewer GPUs or CPUs than the training needs; its workers cannot share
            the batch evenly.
    """
    there, where = available(options.address, needs)
    gpus_there = int(there.get("GPU", 0))
    if options.wait and config.gpus is None and not gpus_there:
        rule = "what is waited for must be given where there is no GPU yet: --gpus N, or --gpus 0 for the CPU"
        raise UserError(f"--wait: {rule}; {where} has none.")
    on_gpus = bool(gpus_there if config.gpus is None else config.gpus)
    if on_gpus and config.workers is None and config.gpus is None:
        most = most_workers(config, gpus_there)
    else:
        most = config.gpus or config.workers or 1
    require_divisible(config, most, most if on_gpus else 0, words)
    if options.address is None and not on_gpus and most > there["CPU"]:
        warn(f"{most} workers share {there['CPU']:g} CPUs: that is slower than one worker on each")
    numbers = sharing_numbers(config, most if config.min_workers is None else min(most, config.min_workers), most)
    if not options.wait:
        try:
            refuse_too_many(config, numbers[0], on_gpus, options, words, there, where)
        except UserError:
            if not grows(options.address, training_bundles(numbers[0], on_gpus), needs):
                raise
    return Team(numbers, on_gpus)


def grows(address: str | None, bundles: Sequence[Bundle], needs: "Needs | None") -> bool:
    """Whether machines are added to a cluster when room for this is asked for."""
    if address is None or needs is None:
        return False
    from harness.distributed.connection import autoscaler_adds

    return autoscaler_adds(address, bundles, needs.store)


def refuse_too_many(
    config: TrainConfig,
    workers: int,
    on_gpus: bool,
    options: CommonOptions,
    words: Sequence[str],
    there: Mapping[str, float],
    where: str,
) -> None:
    """
    Args:
        workers: the fewest that the training can have.

    Raises:
        UserError: there are fewer GPUs, or on a cluster fewer CPUs. (A Ray of our own counts as many as are needed.)
    """
    gpus_there, cpus_there = int(there.get("GPU", 0)), int(there.get("CPU", 0))
    queue = "add --wait to queue" if options.address else ""
    if on_gpus and workers > gpus_there and config.gpus is None:
        raise UserError(f"workers: {workers} asked for, but {where} has {gpus_there} GPU(s); add --gpus 0 for the CPU")
    if on_gpus and workers > gpus_there:
        flags: dict[str, object] = {"--gpus": gpus_there} if gpus_there else {"--gpus": 0, "--workers": 2}
        instead = f"run{'' if gpus_there else ' on CPU'}: {train_command(words, flags)}"
        ways = ", or ".join(filter(None, (queue, instead)))
        raise UserError(f"gpus: {workers} asked for, but {where} has {gpus_there}; {ways}")
    if options.address and not on_gpus and workers > cpus_there:
        fewer = train_command(words, {"--workers": most_workers(config, cpus_there)})
        ways = f"run: {fewer}, or {queue}" if cpus_there else queue
        raise UserError(f"workers: {workers} asked for, but {where} has {cpus_there} CPU(s), one for each; {ways}")


def check_trial_resources(resources: Resources, options: CommonOptions, needs: "Needs | None" = None) -> None:
    """
    Args:
        needs: what each machine of a cluster must have.

    Raises:
        UserError: a machine lacks it; a trial fits nowhere, and no other nodes are waited for.
    """
    there, where = available(options.address, needs)
    if options.wait:
        return
    own = options.address is None  # a Ray of our own counts as many cores as needed
    cpus = resources.cpus if own else resources.all_cpus
    asked = (("gpus", resources.gpus, "GPU"), ("cpus", cpus, "CPU"))
    short = [(name, count, unit) for name, count, unit in asked if count > there.get(unit, 0)]
    if short and not grows(options.address, trial_bundles(resources), needs):
        name, count, unit = short[0]
        raise UserError(
            f"resources.{name}: {count:g} asked for each trial, but {where} has {there.get(unit, 0):g} {unit}s"
            + ("." if own else "; add --wait to queue.")
        )


def needs_of(config: TrainConfig, folder: Path, uri: str, options: CommonOptions) -> "Needs | None":
    """What each machine of a cluster must have for a run in a folder; None: there is no cluster."""
    if options.address is None:
        return None
    from harness.distributed.nodes import Needs, is_for_one_machine

    away_or_not = options.resume and not is_for_one_machine(uri)  # a run that goes on does not wait for its server
    return Needs.of(config, folder, "" if away_or_not else uri)


def available(address: str | None, needs: "Needs | None") -> tuple[Mapping[str, float], str]:
    """What a cluster or this machine has of CPU and GPU, and how to call it."""
    if address is None:
        return {"GPU": torch.cuda.device_count(), "CPU": os.cpu_count() or 1}, "this machine"
    from harness.distributed.connection import cluster_resources

    return cluster_resources(address, needs)
