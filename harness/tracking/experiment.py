"""MLflow experiments: found or made, as machine learning, with views that have the columns of a search."""

import json
from collections.abc import Sequence
from pathlib import Path

from harness.tracking.patience import client_of
from harness.tracking.store import sqlite_file, store_lock

KIND, MACHINE_LEARNING = "mlflow.experimentKind", "custom_model_development"
"""Without it MLflow guesses, and files runs under evaluations of generative AI."""
VIEWS = {"search": "trials", "confirmation": "confirm"}
"""The runs of a study by their role: each kind stands in a view of its own, so that none crowds out the others."""


def find_or_create_experiment(uri: str, name: str) -> str:
    """The id of an experiment, made if need be, and the store with it: of 4 commands that make one at once 3 die."""
    with store_lock(uri):
        client = client_of(uri)
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            location = (Path.cwd() / "mlruns").as_uri() if sqlite_file(uri) else None
            return client.create_experiment(name, artifact_location=location, tags={KIND: MACHINE_LEARNING})
        if experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment.experiment_id)
        if KIND not in experiment.tags:
            client.set_experiment_tag(experiment.experiment_id, KIND, MACHINE_LEARNING)
        return experiment.experiment_id


def views(params: Sequence[str], metrics: Sequence[str], ascending: bool) -> dict[str, str]:
    """Tags of an experiment with views in which the runs of a study stand one below the other, best first.

    MLflow shows a closed row and no column by default; this is what its "share" button stores.

    Args:
        params: columns.
        metrics: columns; runs are ordered by the first.
        ascending: whether less of that is better.
    """
    found = {}
    columns = [f"metrics.`{key}`" for key in metrics] + [f"params.`{key}`" for key in params]
    for name, role in VIEWS.items():
        view = {
            "selectedColumns": ["attributes.`Duration`", *columns],
            "searchFilter": f"tags.`harness.role` = '{role}'",
            "orderByKey": f"metrics.`{metrics[0]}`",
            "orderByAsc": ascending,
        }
        found[f"mlflow.sharedViewState.{name}"] = json.dumps(view)
    return found


def view_link(experiment_id: str, view: str) -> str:
    """Of one of `VIEWS`, from a page of MLflow's."""
    return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={view}"
