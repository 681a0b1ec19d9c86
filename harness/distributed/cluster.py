"""What a connected cluster has, node by node. Ray's public functions give the sum over all nodes, those that are about
to go included."""

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
