"""What a study prints and writes as tables."""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import stdev
from typing import NamedTuple

from rich.markup import escape

from harness.cli.display import format_metric, format_value, last_key, make_table, out
from harness.config.search import SearchConfig
from harness.run_dir import display_path
from harness.search.confirmation import Answer, Candidate, Confirmation, ranked
from harness.search.race import Difference, Runner
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
    limits = {
        "min": search.budget.minutes,
        "core-hours": search.budget.core_hours,
        "GPU-hours": search.budget.gpu_hours,
    }
    budget = "".join(f", {limit:g} {unit} at most" for unit, limit in limits.items() if limit)
    budget += f", until {search.stop.patience} in a row bring no gain" if search.stop.patience else ""
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


class AnswerTable(NamedTuple):
    """Who took part, best first by val; test stands beside the chosen one, the start points and the baseline alone."""

    columns: list[str]
    rows: list[list[str]]
    chosen: int
    """Its row."""


def answer_table(search: SearchConfig, race: Confirmation, answer: Answer) -> AnswerTable:
    axes = [last_key(key).replace("_", " ") for key in search.space]
    reported = {answer.chosen.name, *(pair.other.name for pair in answer.compared)}
    rows = []
    for one in answer.ranked:
        runner = race.runner(one)
        values = [format_value(one.values[key]) if key in one.values else "-" for key in search.space]
        val = format_metric(search.sign * runner.mean if runner.known() else None)
        scored = format_mean(search, race.runner(one, "test")) if one.name in reported else ""
        rows.append([label(one), *values, val, scored, str(len(runner.known()))])
    columns = ["trial", *axes, search.metric, search.reported_metric, "seeds"]
    return AnswerTable(columns, rows, list(answer.ranked).index(answer.chosen))


def show_answer(found: AnswerTable) -> None:
    table = make_table("confirmation, from new seeds", found.columns)
    for number, row in enumerate(found.rows):
        table.add_row(*row, style="bold green" if number == found.chosen else None)
    out.print(table)


def label(one: Candidate) -> str:
    """Of a candidate, in a table: 14, start (0), baseline."""
    number = one.name.partition("/")[2].lstrip("0") or "0"
    if one.baseline:
        return "baseline"
    if one.start:
        return f"start ({number})" if one.name.startswith("trials/") else "start"
    return number


def format_mean(search: SearchConfig, runner: Runner) -> str:
    """Mean and standard deviation over the seeds."""
    scores = list(runner.known().values())
    if not scores:
        return "failed"
    spread = f" +- {stdev(scores):.3f}" if len(scores) > 1 else ""
    return f"{search.sign * runner.mean:.3f}{spread}"


def answer_lines(search: SearchConfig, answer: Answer) -> list[str]:
    """What the comparisons on test say, each in a line."""
    lines = []
    for other, by in answer.compared:
        what = "unlabelled images" if other.baseline else f"over {label(other)}"
        flags = " ".join(f"--{key} {value}" for key, value in other.values.items())
        harm = f"they do harm: the baseline is {flags}"
        worth = {"better": "they help", "worse": harm} if other.baseline else {}
        lines.append(f"{what}: {format_difference(search, by)}, {worth.get(by.verdict, by.verdict)}")
    return lines


def format_difference(search: SearchConfig, by: Difference) -> str:
    """A gain in points (hundredths of the metric), positive where the chosen one is better, with its interval."""
    if by.mean != by.mean:
        return "no seed in common"
    low, high = 100 * (by.mean - by.reach), 100 * (by.mean + by.reach)
    return f"{100 * by.mean:+.1f} points (95%: {low:.1f} to {high:.1f}; {by.seeds} seeds)"


def write_answer(path: Path, race: Confirmation, answer: Answer) -> None:
    """Every run of the race, by candidate and seed."""
    metric, test = race.search.metric, race.search.reported_metric
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        keys = list(race.search.space)
        writer.writerow(["place", "of", "start", "baseline", *keys, "seed", "state", metric, test])
        for place, one in enumerate(answer.ranked, 1):
            values = [one.values.get(key) for key in keys]
            for seed, record in sorted(race.runs(one).items()):
                scores = record.metrics.get(metric), record.metrics.get(test)
                writer.writerow([place, one.name, one.start, one.baseline, *values, seed, record.state, *scores])


def answer_figures(race: Confirmation, answer: Answer) -> dict[str, float]:
    """The answer as metrics by name: means of the chosen, the start points and the baseline, and gains over these."""
    search = race.search
    figures: dict[str, float] = {}
    test = search.reported_metric
    known = [("chosen", answer.chosen)]
    for number, (other, by) in enumerate(answer.compared):
        name = "baseline" if other.baseline else "start" if number == 0 else f"start_{number}"
        known.append((name, other))
        if by.mean == by.mean:
            figures |= {f"gain_over_{name}/{test}": by.mean, f"gain_over_{name}/low": by.mean - by.reach}
            figures[f"gain_over_{name}/high"] = by.mean + by.reach
    for name, one in known:
        for role, metric in (("val", search.metric), ("test", test)):
            runner = race.runner(one, role)
            if scores := list(runner.known().values()):
                figures[f"{name}/{metric}/mean"] = search.sign * runner.mean
                figures |= {f"{name}/{metric}/std": stdev(scores)} if len(scores) > 1 else {}
    return {key: value for key, value in figures.items() if abs(value) != float("inf")}
