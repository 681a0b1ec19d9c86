"""Send to MLflow what a run or study has kept, since the store was away to its end.

    python -m harness.sync runs/NAME

Exit code: 0 MLflow has all; 1 the store is still away, and nothing is lost; 2 refused input.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from harness import run_dir
from harness.cli.display import out
from harness.cli.exit_code import run_command
from harness.config.parser import make_parser
from harness.errors import DONE, RunFailed, UserError
from harness.storage import storage_path

PATIENCE = 3600.0
"""Seconds that one call may take: the last one makes the model and uploads it."""


def main(args: Sequence[str] | None = None) -> int:
    description = "Send to MLflow what a run or study has kept, since the store was away."
    parser = make_parser("python -m harness.sync", description)
    parser.add_argument("run", type=str, help="Folder or address of a run or study, such as runs/NAME.")
    folder = storage_path(parser.read(args).run, "RUN")
    run_record = run_dir.read_run_record(folder)
    if run_record is None:
        raise UserError(f"RUN: must be the folder of a run, but {folder} holds no {run_dir.RECORD}.")
    with run_dir.run_lock(folder, "RUN"):
        sent = send(folder, run_record)
    out.print(f"{sent} calls sent to {run_record.tracking_uri}", markup=False)
    return DONE


def send(folder: Path, run_record: run_dir.RunRecord) -> int:
    """Send all; returns how many calls.

    Raises:
        RunFailed: the store is away.
    """
    from harness.inference.registry import PUBLISH, publish_kept  # torch and MLflow, which take seconds to import
    from harness.search import recovery
    from harness.search.trial_store import Phase, TrialStore
    from harness.tracking.outbox import OUTBOX
    from harness.tracking.patience import STORE_ERRORS, one_line
    from harness.tracking.run import Run
    from harness.tracking.store import require_answer

    uri, sent = run_record.tracking_uri, 0
    try:
        require_answer(uri)
        trials = sorted({path.parent.parent for path in folder.glob(f"*/*/{OUTBOX}/*.json")})
        for home in (*trials, folder):
            run = Run(uri, run_record.run_id if home == folder else None, home)
            run.outbox.others = {PUBLISH: lambda run=run, **given: publish_kept(run.writer, **given)}
            out.print(f"sending what {run_dir.display_path(home)} has kept", markup=False)
            sent += run.adopt(ended=True)
            if lacking := run.close(PATIENCE):
                raise RunFailed(f"MLflow's store {uri} is away ({lacking}); the same command goes on where this ended.")
        if run_record.kind == "tune":
            recovery.finish_children([TrialStore(folder, phase) for phase in get_args(Phase)], run_record)
    except STORE_ERRORS as error:
        raise RunFailed(f"MLflow's store {uri} failed: {one_line(error)}. The same command tries again.") from error
    return sent


def cli() -> None:
    """`classmix-sync`."""
    run_command(main)


if __name__ == "__main__":
    cli()
