"""Tables, files and plots of a study."""

import csv
import html
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from rich.table import Table

from harness.cli.command import format_metric, out
from harness.config.search import SearchConfig
from harness.search.confirmation import Candidate, ranked
from harness.search.progress import leaf, short
from harness.search.search_space import SearchParameter
from harness.search.searcher import frozen
from harness.search.trial_store import TrialRecord
from harness.tracking import Run


def show_trials(search: SearchConfig, records: Sequence[TrialRecord]) -> None:
    """All trials, best first."""
    table = Table(title="trials")
    for name in ("trial", *(leaf(key) for key in search.space), search.metric, "steps", "", "time"):
        table.add_column(name, justify="right")
    best = ranked(search, records)
    for record in best + [record for record in records if record not in best]:
        values = [short(value) for value in record.values.values()]
        row = [str(record.number), *values, format_metric(record.metric), str(record.step), record.state]
        table.add_row(*row, f"{record.seconds:.0f} s", style="bold green" if best and record is best[0] else None)
    out.print(table)


def write_trials(path: Path, search: SearchConfig, records: Sequence[TrialRecord]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", *search.space, search.metric, "steps", "state", "seconds", "reason"])
        for one in records:
            values = [one.values[key] for key in search.space]
            writer.writerow(
                [one.number, *values, one.metric, one.step, one.state, round(one.seconds, 1), one.reason or ""]
            )


def most_common_reason(records: Sequence[TrialRecord]) -> str:
    """Why the trials failed, and how many of them so."""
    reasons = [record.reason for record in records if record.reason]
    if not reasons:
        return "none got as far as an evaluation"
    kinds = Counter(re.sub(r"[\d.]+", "", reason) for reason in reasons)  # steps and losses differ
    kind, count = kinds.most_common(1)[0]
    first = next(reason for reason in reasons if re.sub(r"[\d.]+", "", reason) == kind)
    return f"{count} of {len(records)}: {first}"


def show_candidates(search: SearchConfig, candidates: Sequence[Candidate], metric: str) -> None:
    """Mean and standard deviation over the seeds, best first."""
    table = Table(title=f"confirmation: {metric} from new seeds")
    for name in ("trial", *(leaf(key) for key in search.space), search.metric, metric, "seeds"):
        table.add_column(name, justify="right")
    for place, one in enumerate(candidates):
        trial = "start" + (f" ({one.trial})" if one.trial >= 0 else "") if one.start else str(one.trial)
        values = [short(value) for value in one.values.values()]
        row = [trial, *values, format_metric(one.searched), one.text, str(len(one.scores))]
        table.add_row(*row, style="bold green" if place == 0 else None)
    out.print(table)


def show_ablation(search: SearchConfig, candidates: Sequence[Candidate]) -> None:
    """Points by mean and standard deviation over their seeds; over two axes, one across and one down."""
    keys = [key for key in search.space if key != "seed"]
    best = candidates[0]
    table = Table(
        title=f"{search.metric}, mean +- std over {len(best.scores)} seeds (where some failed, n = the others)"
    )
    if len(keys) == 2 and all("values" in search.space[key] for key in keys):
        down, across = keys
        table.add_column(f"{leaf(down)} / {leaf(across)}")
        for value in search.space[across]["values"]:
            table.add_column(short(value), justify="right")
        at = {(one.values[down], one.values[across]): one for one in candidates}
        for row in search.space[down]["values"]:
            cells = [at.get((row, column)) for column in search.space[across]["values"]]
            texts = ["-" if one is None else cell(one, best) for one in cells]
            table.add_row(short(row), *texts)
    else:
        for name in (*(leaf(key) for key in keys), search.metric, "seeds"):
            table.add_column(name, justify="right")
        for one in candidates:
            values = [short(one.values[key]) for key in keys]
            style = "bold green" if one is best else None
            table.add_row(*values, one.text, str(len(one.scores)), style=style)
    out.print(table)


def cell(one: Candidate, best: Candidate) -> str:
    """Its text, and how many seeds where some have failed."""
    text = one.text if len(one.scores) in (0, len(best.scores)) else f"{one.text} (n={len(one.scores)})"
    return f"[bold green]{text}[/]" if one is best else text


def log_insight(
    search: SearchConfig, axes: Sequence[SearchParameter], records: Sequence[TrialRecord], folder: Path, parent: Run
) -> None:
    """optuna.visualization's plots, and a database for optuna-dashboard."""
    exported = export_study(
        folder / "optuna.db", folder.name, search.mode, [frozen(record, axes) for record in records]
    )
    parent.file(folder / "optuna.db")
    write_plots(folder / "plots.html", figures(exported))
    parent.file(folder / "plots.html")


def write_plots(path: Path, plots: Mapping[str, Any]) -> None:
    """All on one page, which carries plotly.js itself: what MLflow's log_figure writes is blank without a network."""
    parts = [f"<!doctype html><meta charset='utf-8'><title>{html.escape(path.parent.name)}</title>"]
    for number, (name, figure) in enumerate(plots.items()):
        parts += [f"<h2>{name.replace('_', ' ')}</h2>", figure.to_html(full_html=False, include_plotlyjs=number == 0)]
    path.write_text("\n".join(parts), encoding="utf-8")


def export_study(path: Path, name: str, mode: str, trials: Sequence[optuna.trial.FrozenTrial]) -> optuna.Study:
    """Write finished trials to an Optuna database, which optuna-dashboard opens; replaces the file."""
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    direction = optuna.study.StudyDirection.MAXIMIZE if mode == "max" else optuna.study.StudyDirection.MINIMIZE
    study = optuna.create_study(storage=f"sqlite:///{part}", study_name=name, direction=direction)
    study.add_trials(list(trials))
    study._storage.remove_session()
    os.replace(part, path)
    return optuna.load_study(study_name=name, storage=f"sqlite:///{path}")


def figures(study: optuna.Study) -> dict[str, Any]:
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
    values = {trial.value for trial in study.trials if trial.state == TrialState.COMPLETE}
    if len(values) > 1:  # importance has nothing to explain in one value
        plots["importance"] = visualization.plot_param_importances(study)
    return plots
