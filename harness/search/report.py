"""What a study answers, on the terminal, in its folder and on its page in MLflow."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from plotly.graph_objects import Figure

from harness import run_dir
from harness.atomic import write_text
from harness.cli.display import format_cost, format_metric, format_value, out, warn
from harness.cli.options import place_to_look
from harness.config.search import SearchConfig
from harness.config.train import TrainConfig, override, to_yaml
from harness.errors import RunFailed
from harness.search import plots, tables
from harness.search.ablation import by_seed, show_ablation, write_points
from harness.search.confirmation import Confirmation, best_of
from harness.search.report_page import Page, description, learning_curves, write_report
from harness.search.search_space import SearchParameter
from harness.search.trial_store import TrialRecord, TrialStore
from harness.search.winner import Winner, publish_winner
from harness.tracking.experiment import VIEWS, view_link
from harness.tracking.names import DESCRIPTION
from harness.tracking.run import Run


@dataclass(frozen=True)
class Report:
    """Reports on a study.

    Args:
        parent: its run in MLflow.
        resume: the command that goes on with it.
        stores: of all its phases.
    """

    search: SearchConfig
    base: TrainConfig
    axes: Sequence[SearchParameter]
    folder: Path
    parent: Run
    experiment_id: str
    resume: str
    stores: Sequence[TrialStore]

    def trials(self, store: TrialStore) -> TrialRecord:
        """The trials of the search; returns the best.

        Raises:
            RunFailed: none of them has a value.
        """
        search, records, path = self.search, store.records, self.folder / "trials.csv"
        tables.show_trials(search, records, path)
        tables.write_trials(path, search, records)
        self.parent.file(path)
        best = best_of(search, records)
        if best is None:
            self.fail("no trial got to a result", store)
        if lost := tables.lost(records, "trials"):
            warn(f"{lost}; the study goes on without them")
        plots.log_plots(search, self.axes, records, self.folder, self.parent)
        tables.show_best(search, best)
        return best

    def ablation(self, store: TrialStore) -> None:
        """Of a search over seeds: its points by their means.

        Raises:
            RunFailed: there is no mean, or some seeds are lost.
        """
        search, metric, path = self.search, self.search.metric, self.folder / "points.csv"
        points = by_seed(search, store.records)
        show_ablation(search, points)
        first = points[0]
        if not first.scores:
            self.fail("no trial ran to its end, so there is no mean over seeds", store)
        out.print(f"not confirmed: these figures are on {metric}, by which the best point is chosen")
        write_points(path, points, metric)
        self.parent.file(path)
        if not any(record.lost for record in store.records):
            self.figures({f"best/{metric}/mean": first.mean})
        self.result(f"best: {metric} {first.text} over {len(first.scores)} seeds", first.values)
        self.require_all_seeds(store)

    def unconfirmed(self, best: TrialRecord) -> None:
        metric = self.search.metric
        out.print(
            f"not confirmed: {metric} is what the trials were chosen by, from one seed, and flatters the best; "
            "confirm: {top: 4, seeds: [3, 8]} in the space file reruns them from new seeds and reports test"
        )
        self.result(f"best: {metric} {format_metric(best.metric)}", best.values)

    def answer(self, race: Confirmation) -> None:
        """Of a confirmation.

        Raises:
            RunFailed: no run of it got to its end, or some seeds are lost.
        """
        search, answer = self.search, race.answer()
        if answer is None:
            self.fail("no run of the confirmation got to its end", race.store)
        found = tables.answer_table(search, race, answer)
        tables.show_answer(found)
        tables.write_answer(self.folder / "confirm.csv", race, answer)
        self.parent.file(self.folder / "confirm.csv")
        complete = not any(record.lost for record in race.store.records)  # else a resume may find another winner
        if complete:
            self.figures(tables.answer_figures(race, answer))
        if not answer.beaten:
            out.print("nothing beat the start point, so that is what to train with")
        test = race.runner(answer.chosen, "test")
        score, seeds = tables.format_mean(search, test), len(test.known())
        line = f"confirmed: {search.reported_metric} {score} over {seeds} seed(s)"
        curves = {"Learning curves, means over seeds": learning_curves(race, answer)}

        def publish() -> Winner | None:
            return publish_winner(race, answer, self.folder, self.parent) if complete else None

        self.result(line, answer.chosen.values, tables.answer_lines(search, answer), found, publish, curves)
        self.require_all_seeds(race.store)

    def result(
        self,
        line: str,
        values: Mapping[str, object],
        more: Sequence[str] = (),
        table: tables.AnswerTable | None = None,
        publish: Callable[[], Winner | None] = lambda: None,
        curves: Mapping[str, Figure] | None = None,
    ) -> None:
        """Write best.yaml and report.html, and say what was found and how to train with it."""
        path = self.folder / "best.yaml"
        write_text(path, to_yaml(override(self.base, values)))
        self.parent.file(path)
        found = ", ".join(f"{key} {format_value(value)}" for key, value in values.items())
        self.parent.tags({"harness.best": f"{line} with {found}"})
        out.print(f"[bold]{line}[/] with {found}")
        for each in more:
            out.print(each, markup=False)
        winner = publish()
        cost = format_cost(tables.spent(self.search, *self.stores))
        train = f"python -m harness.train --config {run_dir.display_path(path)}"
        page = Page(self.folder.name, f"{line} with {found}", more, train, cost, table, winner)
        self.show_page(page, curves or {})
        out.print(f"cost: {cost}")
        out.print(f"train with it:  {train}")
        if winner:
            home = run_dir.display_path(winner.folder)
            out.print(f"label with it:  python -m harness.predict --checkpoint {home} --images DIR", markup=False)
        report = run_dir.display_path(self.folder / "report.html")
        out.print(f"look at it all: {report}, or {place_to_look(self.parent.uri)}", markup=False)

    def show_page(self, page: Page, curves: Mapping[str, Figure]) -> None:
        """Beside the run in MLflow, and as its description."""
        path, parent = self.folder / "report.html", self.parent
        study = plots.in_memory(self.search, self.axes, self.stores[0].records)
        write_report(path, page, {**curves, **plots.importance(study)})
        parent.file(path)
        repeat = f"Repeat the study: `{run_dir.repeat_command(self.folder)}`"
        parent.tags(
            {DESCRIPTION: description(page, repeat, {name: view_link(self.experiment_id, name) for name in VIEWS})}
        )

    def figures(self, values: Mapping[str, float]) -> None:
        self.parent.metrics(0, values)

    def fail(self, what: str, store: TrialStore) -> NoReturn:
        raise RunFailed(f"{what}; the most common reason, {tables.most_common_reason(store.records)}.")

    def require_all_seeds(self, store: TrialStore) -> None:
        """
        Raises:
            RunFailed: some runs were lost by no fault of their own; a resumed study runs them again.
        """
        if lost := tables.lost(store.records, "runs"):
            raise RunFailed(f"{lost}. So the answer lacks seeds; once the cause is gone, run them with: {self.resume}")
