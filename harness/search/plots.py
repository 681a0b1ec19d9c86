"""Plots of a search as one page, and its database for optuna-dashboard."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
from optuna.trial import TrialState
from plotly.graph_objects import Figure

from harness.atomic import atomic_file, write_text
from harness.cli.options import sqlite_uri
from harness.config.search import SearchConfig
from harness.search.search_space import SearchParameter
from harness.search.searcher import frozen, new_study
from harness.search.trial_store import TrialRecord
from harness.tracking.run import Run


def log_plots(
    search: SearchConfig, axes: Sequence[SearchParameter], records: Sequence[TrialRecord], folder: Path, parent: Run
) -> None:
    """optuna.visualization's plots, and a database for optuna-dashboard."""
    exported = export_study(
        folder / "optuna.db", folder.name, search.mode, [frozen(record, axes) for record in records]
    )
    parent.file(folder / "optuna.db")
    write_plots(folder / "plots.html", figures(exported))
    parent.file(folder / "plots.html")


def write_plots(path: Path, plots: Mapping[str, Figure]) -> None:
    """All on one page, which carries plotly.js itself: what MLflow's log_figure writes is blank without a network."""
    parts = [f"<!doctype html><meta charset='utf-8'><title>{html.escape(path.parent.name)}</title>"]
    for name, plot in as_html(plots).items():
        parts += [f"<h2>{name.replace('_', ' ')}</h2>", plot]
    write_text(path, "\n".join(parts))


def as_html(plots: Mapping[str, Figure]) -> dict[str, str]:
    """Parts of one page by name; the first carries plotly.js."""
    return {
        name: figure.to_html(full_html=False, include_plotlyjs=number == 0)
        for number, (name, figure) in enumerate(plots.items())
    }


def export_study(path: Path, name: str, mode: str, trials: Sequence[optuna.trial.FrozenTrial]) -> optuna.Study:
    """Write finished trials to an Optuna database, which optuna-dashboard opens; replaces the file."""
    direction = optuna.study.StudyDirection.MAXIMIZE if mode == "max" else optuna.study.StudyDirection.MINIMIZE
    with atomic_file(path) as part:
        part.unlink(missing_ok=True)
        exported = optuna.create_study(storage=sqlite_uri(part), study_name=name, direction=direction)
        exported.add_trials(list(trials))
        exported._storage.remove_session()
    study = optuna.create_study(study_name=name, direction=direction)
    study.add_trials(list(trials))
    return study


def in_memory(search: SearchConfig, axes: Sequence[SearchParameter], records: Sequence[TrialRecord]) -> optuna.Study:
    """The trials of a search as Optuna knows them."""
    study = new_study(search.mode)
    study.add_trials([frozen(record, axes) for record in records])
    return study


def figures(study: optuna.Study) -> dict[str, Figure]:
    """optuna.visualization's plots of a study, as plotly figures by name."""
    if not any(trial.state == TrialState.COMPLETE for trial in study.trials):
        return {}
    visualization = optuna.visualization
    plots = {
        "learning_curves": visualization.plot_intermediate_values(study),  # the only one of trials stopped early too
        "history": visualization.plot_optimization_history(study),
        "slice": visualization.plot_slice(study),
        "parallel_coordinate": visualization.plot_parallel_coordinate(study),
    }
    return plots | importance(study)


def importance(study: optuna.Study) -> dict[str, Figure]:
    """How much each axis matters, over the trials that ran to their end."""
    values = {trial.value for trial in study.trials if trial.state == TrialState.COMPLETE}
    if len(values) < 2:  # there is nothing to explain in one value
        return {}
    return {"importance": optuna.visualization.plot_param_importances(study)}
