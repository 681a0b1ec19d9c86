"""What a cluster's autoscaler does when it is asked for more. None says in advance how far it can go."""

import json
import time
from collections.abc import Sequence

import ray
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.experimental.internal_kv import _internal_kv_get

from harness.distributed.bundles import Bundle
from harness.distributed.waiting import asked_for

ANSWERS_WITHIN = 20.0
"""Seconds; it looks at what is asked for every 5."""
NO_TYPE = "node_"
"""How the type of each node begins where no autoscaler has made them."""


def can_add(bundles: Sequence[Bundle]) -> bool:
    """Whether machines are on their way when room for all bundles at a time is asked for, or there is room already."""
    types, _ = report()
    end = time.monotonic() + ANSWERS_WITHIN * any(not one.startswith(NO_TYPE) for one in types)
    with asked_for(bundles) as group:
        while not group.wait(1):
            _, coming = report()
            if coming:
                return True
            if time.monotonic() > end:
                return False
        return True


def report() -> tuple[list[str], bool]:
    """The types of nodes that are there, and whether others are on their way, by an autoscaler of either generation."""
    first_generation = json.loads(_internal_kv_get("__autoscaling_status") or "{}").get("autoscaler_report")
    if first_generation:
        of = first_generation.get
        return [*(of("active_nodes") or ()), *(of("idle_nodes") or ())], bool(
            of("pending_launches") or of("pending_nodes")
        )
    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    types = [node.ray_node_type_name or NO_TYPE for node in (*status.active_nodes, *status.idle_nodes)]
    return types, bool(status.pending_launches or status.pending_nodes)
