"""What a connected cluster has, node by node, and what its autoscaler may add. Ray's public functions give the sum over
all nodes, those that are about to go included."""

import ray
from ray._private.state import state


def leaving() -> set[str]:
    """The ids of nodes that are about to go: drained by the autoscaler, or their machine got a notice (SIGTERM)."""
    return set(state.get_draining_nodes())


def total(unit: str) -> float:
    """CPU or GPU of all nodes that stay, whether it is free or not."""
    going = leaving()
    return sum(there.get(unit, 0) for node, there in state.total_resources_per_node().items() if node not in going)


def free(unit: str) -> float:
    """CPU or GPU that nobody has reserved, on nodes that stay; what has just been given back comes late."""
    going = leaving()
    return sum(there.get(unit, 0) for node, there in state.available_resources_per_node().items() if node not in going)


def may_grow() -> bool:
    """Whether the autoscaler may add machines."""
    there = ray.cluster_resources()
    return any(most > there.get(unit, 0) for unit, most in reachable().items())


def reachable() -> dict[str, float]:
    """CPU and GPU of all nodes, or what they are with all that the autoscaler may add, where that is more."""
    there = ray.cluster_resources()
    most = state.get_max_resources_from_cluster_config() or {}
    return {unit: max(there.get(unit, 0), most.get(unit) or 0) for unit in ("CPU", "GPU")}
