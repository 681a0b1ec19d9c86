"""Optuna in Ray Tune's search loop."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search.optuna import OptunaSearch

from harness.space import NUMBER, Parameter, SearchConfig, encode

optuna.logging.set_verbosity(optuna.logging.WARNING)
logging.getLogger("ray.tune.search.optuna").setLevel(logging.ERROR)


class BudgetAwareSearch(OptunaSearch):
    """OptunaSearch that tells Optuna how a trial ended: complete, stopped before its last step, or failed.

    (Ray's tells a trial that was stopped early as complete, with the value of its last report.) It uses private
    attributes of OptunaSearch of ray 2.60, to which pyproject pins it; a test runs it through the real Tune.
    """

    def __init__(self, space: dict[str, Any], *, steps: int, **options: Any) -> None:
        super().__init__(space, **options)
        self.steps = steps

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next configuration, with the trial's number besides: Tune's ids are random."""
        drawn = super().suggest(trial_id)
        return None if drawn is None else {**drawn, NUMBER: self._ot_trials[trial_id].number}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: Ray decides what is stopped, and Optuna is told the last value at the end."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id in self._completed_trials or trial_id not in self._ot_trials:
            return
        study = self._ot_study
        assert study is not None
        value = (result or {}).get(self.metric)
        trial = self._ot_trials[trial_id]
        if error or result is None or value is None or value != value:
            study.tell(trial, state=TrialState.FAIL)
        elif result["step"] < int(trial.params.get("steps", self.steps)):
            trial.report(value, result["step"])
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, value)
        self._completed_trials.add(trial_id)

    def finished(self) -> list[FrozenTrial]:
        """The trials that ended, as Optuna knows them."""
        assert self._ot_study is not None
        return [trial for trial in self._ot_study.trials if trial.state.is_finished()]


def build_searcher(search: SearchConfig, axes: Sequence[Parameter], steps: int) -> BudgetAwareSearch:
    """The sampler of a search, with its start points queued."""
    if search.sampler == "tpe":
        startup = min(10, max(3, search.trials // 3))
        sampler: optuna.samplers.BaseSampler = optuna.samplers.TPESampler(seed=search.seed, n_startup_trials=startup)
    else:
        sampler = optuna.samplers.RandomSampler(seed=search.seed)
    return BudgetAwareSearch(
        {axis.name: axis.distribution for axis in axes},
        steps=steps,
        metric=search.metric,
        mode=search.mode,
        sampler=sampler,
        points_to_evaluate=[encode(axes, point) for point in search.start[: search.trials]] or None,
    )


def export_study(path: Path, name: str, mode: str, trials: Sequence[FrozenTrial]) -> optuna.Study:
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
        "history": visualization.plot_optimization_history(study),
        "slice": visualization.plot_slice(study),
        "parallel_coordinate": visualization.plot_parallel_coordinate(study),
    }
    values = {trial.value for trial in study.trials if trial.state == TrialState.COMPLETE}
    if len(values) > 1:  # importance has nothing to explain in one value
        plots["importance"] = visualization.plot_param_importances(study)
    return plots
