"""What a resumed study runs again, and MLflow's states of the trials of a study that ends."""

from collections.abc import Sequence

from harness.run_dir import RunRecord
from harness.search.trial_store import TrialRecord, TrialStore
from harness.storage import remove_folder
from harness.tracking.names import TRIAL
from harness.tracking.outbox import OUTBOX
from harness.tracking.patience import client_of
from harness.tracking.run import Run
from harness.tracking.store import children, finish_killed_children


def to_restart(store: TrialStore, total: int, lost_as_well: bool) -> list[TrialRecord]:
    """The failed trials that a resumed study runs again: all of a phase of which nothing came, else the lost ones.

    Args:
        total: trials that the phase shall have; before it has them it goes on with the others.
        lost_as_well: whether an answer lacks those that failed by no fault of their own.
    """
    failed = [record for record in store.records if record.state == "failed"]
    if len(failed) == len(store.records) >= total:
        return failed
    return [record for record in failed if record.lost] if lost_as_well else []


def restart(store: TrialStore, records: Sequence[TrialRecord], run_record: RunRecord) -> None:
    """Let trials begin anew; MLflow's runs of them go."""
    names, client = {store.name(record) for record in records}, client_of(run_record.tracking_uri)
    for run in children(client, run_record.experiment_id, run_record.run_id) if names else ():
        if run.data.tags.get(TRIAL) in names:
            client.delete_run(run.info.run_id)
    for record in records:
        remove_folder(store.trial_folder(record.number) / OUTBOX, ignore_errors=True)
    store.restart(records)


def send_kept(stores: Sequence[TrialStore], uri: str) -> str | None:
    """Send what trials that ended could not; returns why it is still kept, in one line."""
    for store in stores:
        for record in store.records:
            run = Run(uri, None, store.trial_folder(record.number))
            if run.adopt(ended=True) and (lacking := run.close()):
                return lacking
    return None


def finish_children(stores: Sequence[TrialStore], run_record: RunRecord) -> None:
    """Give the runs of trials that were killed, or that fail for good now, the states that they have in the store."""
    outcomes = {
        store.name(record): ("FAILED" if record.state == "failed" else "FINISHED", record.reason)
        for store in stores
        for record in store.records
        if record.ended
    }
    finish_killed_children(run_record.tracking_uri, run_record.experiment_id, run_record.run_id, outcomes)
