"""Look at runs and searches: a lean MLflow server on 127.0.0.1 over the store of this folder.

python -m harness.ui [--port 5000] [--tracking-uri URI]
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from harness.cli.display import out
from harness.cli.exit_code import run_command
from harness.cli.options import default_uri
from harness.cli.signals import Interrupts
from harness.config.parser import make_parser
from harness.errors import DONE, FAILED, UserError

PATIENCE = 5
"""Seconds that the server may take to end; a page that is open in a browser can hold it up for ever."""


def main(args: Sequence[str] | None = None) -> int:
    parser = make_parser("python -m harness.ui", "Serve the MLflow pages of this folder's runs on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=5000, help="TCP port.")
    parser.add_argument("--tracking-uri", type=str | None, help="MLflow store; by default mlflow.db in this folder.")
    options = parser.read(args)
    if not 1 <= options.port <= 65535:
        raise UserError(f"--port: `1 <= port <= 65535` must hold, but got {options.port}.")

    uri = options.tracking_uri or default_uri()
    page = f"http://127.0.0.1:{options.port}/#/experiments?workflowType=machine_learning"  # else it opens as GenAI
    out.print(f"{page}  over {uri}  (Ctrl-C ends it)", markup=False, soft_wrap=True)
    # one worker and no job processes: a third of the memory and start time of the default
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    words = ["server", "--host", "127.0.0.1", "--port", str(options.port), "--workers", "1", "--backend-store-uri", uri]
    # the signal is noted and not raised, so that it cannot come between the server's start and what ends it
    with Interrupts("stopping the server", deferred=True) as interrupts:
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # a terminal that is closed; under nohup it is ignored
            signal.signal(signal.SIGHUP, interrupts.handle)
        server = subprocess.Popen([sys.executable, "-m", "mlflow", *words], env=environment, start_new_session=True)
        try:
            while server.poll() is None:
                interrupts.check()
                time.sleep(0.1)
        finally:
            end_group(server)
    return DONE if server.returncode == 0 else FAILED


def end_group(leader: "subprocess.Popen[bytes]") -> None:
    """End a process and all that it has started; MLflow's server is such a tree, and ends its branches not always."""
    with suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        leader.wait(PATIENCE)
    with suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()


def cli() -> None:
    """`classmix-ui`."""
    run_command(main)


if __name__ == "__main__":
    cli()
