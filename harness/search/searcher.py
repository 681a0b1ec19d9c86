"""Tune's searcher: it suggests first the trials of the store that have not ended (a resumed search), then what Optuna's
sampler draws."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from harness.config.train import Values
from harness.search.limits import NoLimits
from harness.search.search_space import SearchParameter, decode, encode
from harness.search.trial_store import TrialRecord, TrialStore, joined
from harness.search.warm_start import FIRST, Known, advice

optuna.logging.set_verbosity(optuna.logging.WARNING)
logging.getLogger("ray.tune.search").setLevel(logging.ERROR)

NUMBER = "number"
"""Under which Tune passes a trial's number on; all else about it is in its folder."""
PAUSES = (2.0, 10.0, 30.0)
"""Seconds until the second, the third and any later try of a trial: what hindered it may have passed by then."""
DIED = "its process died: killed, or out of memory"


class Suggestion(NamedTuple):
    """What a trial shall try."""

    values: Values
    """By dotted key."""
    sampler_params: Values
    """The same as the sampler has them."""


class OptunaSampler:
    """Optuna's sampler over an in-memory study.

    What it draws for trial n depends on the seed, on n, on the trials that have ended and on what runs beside it, and
    on nothing else: so a study that is built anew from its store goes on as if it had never been interrupted.

    Args:
        points: tried first.
        records: of the search, to which new ones are added. Those that have not ended are asked for again.
        fixed: values that every trial has besides.
        known: trials of other studies.
    """

    def __init__(
        self,
        axes: Sequence[SearchParameter],
        *,
        sampler: str,
        seed: int,
        mode: str,
        trials: int,
        points: Sequence[Mapping[str, Any]] = (),
        records: Sequence[TrialRecord] = (),
        fixed: Mapping[str, Any] | None = None,
        known: Known | None = None,
    ) -> None:
        self.axes, self.sampler, self.seed, self.fixed = axes, sampler, seed, dict(fixed or {})
        self.mode, self.sign = mode, 1 if mode == "max" else -1
        self.records, self.known, self.points = records, known, len(points)
        self.startup = min(10, max(3, trials // 3))
        self.study = new_study(mode)
        self.asked: dict[int, optuna.Trial] = {}
        for record in records:
            if record.ended:
                self.study.add_trial(frozen(record, axes))
            else:
                self.study.enqueue_trial(sampled(record, axes))
        for point in points[len(records) :]:
            self.study.enqueue_trial(encode(axes, point))

    def ask(self) -> Suggestion:
        trials = self.study.get_trials(deepcopy=False)
        number = sum(trial.state != TrialState.WAITING for trial in trials)
        seed = (self.seed * 1_000_003 + number) % 2**32
        if self.sampler == "tpe":
            self.study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=self.startup)
        else:
            self.study.sampler = optuna.samplers.RandomSampler(seed=seed)
        if self.known is not None and number == len(trials):
            self.enqueue_advised(self.known, number)
        trial = self.study.ask({axis.name: axis.distribution for axis in self.axes})
        self.asked[trial.number] = trial
        return Suggestion(decode(self.axes, trial.params) | self.fixed, trial.params)

    def enqueue_advised(self, known: Known, number: int) -> None:
        """Have trial `number` drawn with the known trials in view, as long as these agree with what has been tried."""
        found = advice(known, self.axes, [record for record in self.records if record.ended], self.sign)
        if not found.agrees:
            return
        place = number - self.points
        if place >= FIRST and (place - FIRST) % 2:
            return
        if place < min(FIRST, len(known.values)):
            self.study.enqueue_trial(encode(self.axes, known.values[place]))
            return
        both = new_study(self.mode, self.study.sampler)
        scores = known.scores if found.scores is None else found.scores
        for values, score in zip(known.values, scores.tolist(), strict=True):
            both.add_trial(completed(self.axes, encode(self.axes, values), self.sign * score))
        if found.scores is not None:  # else there is no common scale yet
            both.add_trials(self.study.get_trials(deepcopy=False))
        self.study.enqueue_trial(both.ask({axis.name: axis.distribution for axis in self.axes}).params)

    def tell(self, record: TrialRecord) -> None:
        trial = self.asked.pop(record.number)
        for step, value in record.intermediate_values:
            trial.report(value, step)
        state = STATES[record.state]
        self.study.tell(trial, record.metric if state == TrialState.COMPLETE else None, state)


def new_study(mode: str, sampler: optuna.samplers.BaseSampler | None = None) -> optuna.Study:
    return optuna.create_study(direction="maximize" if mode == "max" else "minimize", sampler=sampler)


def completed(axes: Sequence[SearchParameter], params: Values, value: float) -> optuna.trial.FrozenTrial:
    distributions = {axis.name: axis.distribution for axis in axes}
    return optuna.trial.create_trial(params=params, distributions=distributions, value=value)


STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


def sampled(record: TrialRecord, axes: Sequence[SearchParameter]) -> Values:
    """The values as the sampler drew them; back from 1 - x their last bits would differ."""
    return record.sampler_params or encode(axes, record.values)


def frozen(record: TrialRecord, axes: Sequence[SearchParameter]) -> optuna.trial.FrozenTrial:
    """A trial that ended, as Optuna keeps it: one that was stopped early is pruned, not complete."""
    state = STATES[record.state]
    return optuna.trial.create_trial(
        state=state,
        params=sampled(record, axes),
        distributions={axis.name: axis.distribution for axis in axes},
        value=None if state == TrialState.FAIL else record.metric,
        intermediate_values=dict(record.intermediate_values),
    )


class ResumableSearcher(Searcher):
    """Answers Tune from a store: first what has not ended, then what the sampler draws, up to a number of trials.

    A trial that fails by no fault of its own waits for a while and is then given to Tune again, under its number. The
    sampler hears nothing of that: it is told how a trial ended once, for good.

    Args:
        sampler: None: the trials are entered into the store by others, as those of a confirmation.
        steps: length of a trial whose values do not set it.
        retries: how often a trial that failed by no fault of its own is tried again.
        limits: of the phase.
        enter: enters more trials into the store, if it is time for them, and returns them.
    """

    def __init__(
        self,
        store: TrialStore,
        sampler: OptunaSampler | None,
        trials: int,
        steps: int,
        retries: int = 0,
        limits: NoLimits | None = None,
        enter: Callable[[], list[TrialRecord]] = list,
    ):
        super().__init__()
        self.store, self.sampler, self.trials, self.steps = store, sampler, trials, steps
        self.retries, self.limits, self.enter = retries, limits or NoLimits(), enter
        self.due: dict[int, float] = {}
        """When, by time.monotonic(), a trial is tried again."""
        self.unfinished = [record for record in store.records if not record.ended]
        self.running: dict[str, TrialRecord] = {}

    def suggest(self, trial_id: str) -> Any:
        """The number of the next trial; None: there is none now, but one may fail and be due again."""
        if self.limits.spent():
            return Searcher.FINISHED
        record = self.next_record()
        if record is None:
            return None if self.running or self.due else Searcher.FINISHED
        self.running[trial_id] = record
        return {NUMBER: record.number}

    def next_record(self) -> TrialRecord | None:
        due = next((number for number, when in self.due.items() if when <= time.monotonic()), None)
        if due is not None:
            del self.due[due]
            return self.store.records[due]
        self.unfinished = self.unfinished or self.enter()
        if self.unfinished:
            if self.sampler:
                self.sampler.ask()
            return self.unfinished.pop(0)
        if self.sampler and len(self.store.records) < self.trials and not self.limits.settled():
            values, drawn = self.sampler.ask()
            return self.store.add(values, int(values.get("steps", self.steps)), sampler_params=drawn)
        return None

    def on_trial_complete(self, trial_id: str, result: Values | None = None, error: bool = False) -> None:
        record = self.running.pop(trial_id, None)
        if record is None:
            return
        if error or record.reason is not None:
            record.failures.append(record.reason or DIED)
            if not record.own_fault and len(record.failures) <= self.retries:
                self.store.send_back(record)
                self.due[record.number] = time.monotonic() + PAUSES[min(len(record.failures), len(PAUSES)) - 1]
                return
            self.store.end(record, "failed", joined(record.failures))
        else:
            self.store.end(record, "complete" if record.step >= record.steps else "pruned")
        if self.sampler:
            self.sampler.tell(record)
