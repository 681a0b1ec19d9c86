"""What a training or a trial reserves on a cluster."""

from collections.abc import Mapping

from harness.config.search import Resources

Bundle = Mapping[str, float]
"""What one worker reserves on one machine: CPU and GPU."""


def training_bundles(workers: int, on_gpus: bool) -> list[Bundle]:
    """What Ray Train reserves for a training."""
    return [{"GPU": 1} if on_gpus else {"CPU": 1}] * workers


def trial_bundles(resources: Resources) -> list[Bundle]:
    """What one trial of a search reserves."""
    share = {"GPU": min(resources.gpus, 1)} if resources.gpus else {}
    return [{"CPU": resources.cpus} | share] * resources.workers_per_trial
