"""Whether the cluster is still there. Without it a call to Ray says nothing for a minute, and then ends the process."""

import socket
import time
from urllib.parse import urlsplit

import ray

from harness.errors import ClusterLost

PATIENCE = 15.0
"""Seconds for which a cluster's control service may be away: it may be restarted."""
lost = False
"""Whether this process has lost its cluster."""


class Heartbeat:
    """Of the cluster that is connected."""

    def __init__(self) -> None:
        self.address = ray.get_runtime_context().gcs_address
        self.heard = time.monotonic()

    def beats(self, patience: float = PATIENCE) -> bool:
        """Whether the control service answers now, so that Ray may be asked.

        Args:
            patience: seconds for which it need not.

        Raises:
            ClusterLost: it has not for as long.
        """
        global lost
        place = urlsplit(f"//{self.address}")
        try:
            socket.create_connection((place.hostname, place.port), timeout=1).close()
        except OSError as error:
            if time.monotonic() < self.heard + patience:
                return False
            lost = True
            raise ClusterLost(f"the Ray cluster at {self.address} has not answered for {patience:g} s.") from error
        self.heard = time.monotonic()
        return True


def disconnect() -> None:
    """From Ray; from a cluster that is lost it would take a minute and end the process."""
    if not lost:
        ray.shutdown()
