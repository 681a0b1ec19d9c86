"""What a study prints and writes as tables."""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from harness.cli.display import format_metric, format_value, last_key, make_table, out
from harness.config.search import SearchConfig
from harness.run_dir import display_path
from harness.search.confirmation import Candidate, ranked
from harness.search.trial_store import TrialRecord, TrialStore
from harness.training.cost import cost

SHOWN = 30
"""Trials in the table that is printed."""


def announce(
    verb: str, folder: Path, search: SearchConfig, total: int, longest: int, max_concurrent_trials: int
) -> None:
    """Say what will run, and how many trials at a time."""
    each = search.resources
    stopping = "ASHA" if search.early_stopping else "no early stopping"
    budget = f", {search.budget_minutes:g} min at most" if search.budget_minutes else ""
    share = f"{each.all_cpus} core(s)" + (f" and {each.gpus:g} GPU" if each.gpus else "")
    workers = f" in {each.workers_per_trial} workers" if each.workers_per_trial > 1 else ""
    out.print(
        f"[bold]{verb} {escape(display_path(folder))}[/]  {total} trials of up to {longest} steps over "
        f"{', '.join(search.space)}; {search.sampler}, {stopping}{budget}; "
        f"{max_concurrent_trials} at a time on {share} each{workers}"
    )


def show_trials(search: SearchConfig, records: Sequence[TrialRecord], file: Path) -> None:
    """The first trials, best first; where there are more, the last line says that `file` has them all."""
    axes = (last_key(key) for key in search.space)
    table = make_table("trials", ("trial", *axes, search.metric, "steps", "", "time"))
    best = ranked(search, records)
    known = {record.number for record in best}
    for record in (best + [record for record in records if record.number not in known])[:SHOWN]:
        values = [format_value(value) for value in record.values.values()]
        row = [str(record.number), *values, format_metric(record.metric), str(record.step), record.state]
        table.add_row(*row, f"{record.seconds:.0f} s", style="bold green" if best and record is best[0] else None)
    out.print(table)
    if len(records) > SHOWN:
        out.print(f"and {len(records) - SHOWN} more: {display_path(file)}", markup=False)


def show_best(search: SearchConfig, best: TrialRecord) -> None:
    """The best trial of the search, and what it reached for each class."""
    found = ", ".join(f"{key} {format_value(value)}" for key, value in best.values.items())
    out.print(f"best of the search: {search.metric} {format_metric(best.metric)} (trial {best.number}) with {found}")
    ious = {key.removeprefix("val/iou/"): iou for key, iou in best.metrics.items() if key.startswith("val/iou/")}
    out.print(f"its IoU on val: {', '.join(f'{name} {format_metric(iou)}' for name, iou in ious.items())}")


def write_trials(path: Path, search: SearchConfig, records: Sequence[TrialRecord]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", *search.space, search.metric, "steps", "state", "seconds", "reason"])
        for one in records:
            values = [one.values[key] for key in search.space]
            writer.writerow(
                [one.number, *values, one.metric, one.step, one.state, round(one.seconds, 1), one.reason or ""]
            )


def spent(search: SearchConfig, *stores: TrialStore) -> dict[str, float]:
    """Metrics of all trials so far, by their time and what each of them had to itself."""
    seconds = sum(record.seconds for store in stores for record in store.records)
    return cost(seconds, search.resources.all_cpus, search.resources.gpus)


def most_common_reason(records: Sequence[TrialRecord]) -> str:
    """Why the trials failed, and how many of them so."""
    reasons = [record.reason for record in records if record.reason]
    if not reasons:
        return "none got as far as an evaluation"
    kinds = Counter(re.sub(r"[\d.]+", "", reason) for reason in reasons)  # steps and losses differ
    kind, count = kinds.most_common(1)[0]
    first = next(reason for reason in reasons if re.sub(r"[\d.]+", "", reason) == kind)
    return f"{count} of {len(records)}: {first}"


def lost(records: Sequence[TrialRecord], what: str) -> str | None:
    """How many failed by no fault of their own, and why most of them, in one line; None: none did."""
    those = [record for record in records if record.lost]
    if not those:
        return None
    count = f"{len(those)} of {len(records)} {what} were lost by no fault of their own"
    return f"{count}; the most common reason, {most_common_reason(those)}"


def show_candidates(search: SearchConfig, candidates: Sequence[Candidate], metric: str) -> None:
    """Mean and standard deviation over the seeds, best first."""
    axes = (last_key(key) for key in search.space)
    table = make_table(f"confirmation: {metric} from new seeds", ("trial", *axes, search.metric, metric, "seeds"))
    for place, one in enumerate(candidates):
        trial = "start" + (f" ({one.trial})" if one.trial >= 0 else "") if one.start else str(one.trial)
        values = [format_value(value) for value in one.values.values()]
        row = [trial, *values, format_metric(one.searched), one.text, str(len(one.scores))]
        table.add_row(*row, style="bold green" if place == 0 else None)
    out.print(table)


def show_ablation(search: SearchConfig, candidates: Sequence[Candidate]) -> None:
    """Points by mean and standard deviation over their seeds; over two axes, one across and one down."""
    keys = [key for key in search.space if key != "seed"]
    best, most = candidates[0], max(len(one.scores) for one in candidates)
    title = f"{search.metric}, mean +- std over {most} seeds (where some failed, n = the others)"
    if len(keys) == 2 and all("values" in search.space[key] for key in keys):
        down, across = keys
        values = search.space[across]["values"]
        table = make_table(title, (f"{last_key(down)} / {last_key(across)}", *map(format_value, values)))
        at = {(one.values[down], one.values[across]): one for one in candidates}
        for row in search.space[down]["values"]:
            cells = [at.get((row, column)) for column in values]
            texts = ["-" if one is None else cell(one, best, most) for one in cells]
            table.add_row(format_value(row), *texts)
    else:
        table = make_table(title, (*map(last_key, keys), search.metric, "seeds"))
        for one in candidates:
            texts = [format_value(one.values[key]) for key in keys]
            style = "bold green" if one is best else None
            table.add_row(*texts, one.text, str(len(one.scores)), style=style)
    out.print(table)


def cell(one: Candidate, best: Candidate, most: int) -> str:
    """Its text, and how many seeds where some have failed."""
    text = one.text if len(one.scores) in (0, most) else f"{one.text} (n={len(one.scores)})"
    return f"[bold green]{text}[/]" if one is best else text
