"""CPU, memory, disk, network and GPUs of the machine, into the run's "System metrics" in MLflow while it lasts."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from harness.tracking.names import SYSTEM
from harness.tracking.patience import STORE_ERRORS
from harness.tracking.run import Run

INTERVAL = 10.0
"""Seconds between two samples."""


@contextmanager
def system_metrics(run: Run, interval: float = INTERVAL) -> Iterator[None]:
    """Sample the machine while the block lasts; the step of a sample is the seconds since the run was made.

    MLflow's monitor measures. Its own thread would end for good at the first answer that the store fails to give, and
    could hold up the end of a run for as long as the store does not answer.
    """
    ended = threading.Event()
    words = (run.uri, run.run_id, interval, ended)
    thread = threading.Thread(target=sample, name="system metrics", args=words, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=2)  # one that waits for the store may be left behind


def sample(uri: str, run_id: str, interval: float, ended: threading.Event) -> None:
    """Log a sample every `interval` seconds until `ended` is set; one that the store does not take is lost."""
    monitor, client = SystemMetricsMonitor(run_id, tracking_uri=uri), MlflowClient(uri)
    monitor.collect_metrics()  # psutil tells the use of the CPU since it was asked last
    while not ended.wait(interval):
        for part in monitor.monitors:
            part.clear_metrics()
        monitor.collect_metrics()
        values, now = monitor.aggregate_metrics(), int(time.time() * 1000)
        with suppress(*STORE_ERRORS):
            step = (now - client.get_run(run_id).info.start_time) // 1000
            metrics = [Metric(f"{SYSTEM}{name}", float(value), now, step) for name, value in values.items()]
            client.log_batch(run_id, metrics=metrics)
