"""Who decides what the next trial is: Optuna, the plan of a confirmation, and Tune's question put to either."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from harness.search.search_space import Parameter, decode, encode
from harness.search.trial_store import Entry, Ledger

optuna.logging.set_verbosity(optuna.logging.WARNING)
logging.getLogger("ray.tune.search").setLevel(logging.ERROR)

NUMBER = "number"
"""Under which Tune passes a trial's number on; all else about it is in its folder."""


class Draw(NamedTuple):
    """What a trial shall try."""

    values: dict[str, Any]
    """By dotted key."""
    drawn: dict[str, Any]
    """The same as the sampler has them."""


class Proposer(Protocol):
    """Draws what is tried."""

    def ask(self) -> Draw:
        """The next trial."""
        ...

    def tell(self, entry: Entry) -> None:
        """How a trial ended."""
        ...


class OptunaProposer:
    """Optuna's sampler over an in-memory study.

    What it draws for trial n depends on the seed, on n, on the trials that have ended and on what runs beside it, and
    on nothing else: so a study that is built anew from its ledger goes on as if it had never been interrupted.

    Args:
        points: tried first.
        entries: known so far. Those that have not ended are asked for again, in their order.
    """

    def __init__(
        self,
        axes: Sequence[Parameter],
        *,
        sampler: str,
        seed: int,
        mode: str,
        trials: int,
        points: Sequence[Mapping[str, Any]] = (),
        entries: Sequence[Entry] = (),
    ) -> None:
        self.axes, self.sampler, self.seed = axes, sampler, seed
        self.startup = min(10, max(3, trials // 3))
        self.study = optuna.create_study(direction="maximize" if mode == "max" else "minimize")
        self.asked: dict[int, optuna.Trial] = {}
        for entry in entries:
            if entry.ended:
                self.study.add_trial(frozen(entry, axes))
            else:
                self.study.enqueue_trial(sampled(entry, axes))
        for point in points[len(entries) :]:
            self.study.enqueue_trial(encode(axes, point))

    def ask(self) -> Draw:
        known = self.study.get_trials(deepcopy=False)
        seed = (self.seed * 1_000_003 + sum(trial.state != TrialState.WAITING for trial in known)) % 2**32
        if self.sampler == "tpe":
            self.study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=self.startup)
        else:
            self.study.sampler = optuna.samplers.RandomSampler(seed=seed)
        trial = self.study.ask({axis.name: axis.distribution for axis in self.axes})
        self.asked[trial.number] = trial
        return Draw(decode(self.axes, trial.params), trial.params)

    def tell(self, entry: Entry) -> None:
        trial = self.asked.pop(entry.number)
        for step, value in entry.history:
            trial.report(value, step)
        state = STATES[entry.state]
        self.study.tell(trial, entry.metric if state == TrialState.COMPLETE else None, state)


STATES = {"complete": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}


def sampled(entry: Entry, axes: Sequence[Parameter]) -> dict[str, Any]:
    """The values as the sampler drew them; back from 1 - x their last bits would differ."""
    return entry.drawn or encode(axes, entry.values)


def frozen(entry: Entry, axes: Sequence[Parameter]) -> optuna.trial.FrozenTrial:
    """A trial that ended, as Optuna keeps it: one that was stopped early is pruned, not complete."""
    state = STATES[entry.state]
    return optuna.trial.create_trial(
        state=state,
        params=sampled(entry, axes),
        distributions={axis.name: axis.distribution for axis in axes},
        value=None if state == TrialState.FAIL else entry.metric,
        intermediate_values=dict(entry.history),
    )


class PlanProposer:
    """Nothing is drawn: the ledger holds all trials before the first starts."""

    def ask(self) -> Draw:
        return Draw({}, {})

    def tell(self, entry: Entry) -> None:
        pass


class LedgerSearch(Searcher):
    """Answers Tune from a ledger: first what has not ended, then what the proposer draws, up to a number of trials.

    Args:
        steps: length of a trial whose values do not set it.
        deadline: by time.monotonic(); after it no trial starts.
    """

    def __init__(self, ledger: Ledger, proposer: Proposer, trials: int, steps: int, deadline: float = float("inf")):
        super().__init__()
        self.ledger, self.proposer, self.trials, self.steps, self.deadline = ledger, proposer, trials, steps, deadline
        self.unfinished = [entry for entry in ledger.entries if not entry.ended]
        self.running: dict[str, Entry] = {}

    def set_search_properties(self, *args: Any, **options: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        """The number of the next trial."""
        if time.monotonic() > self.deadline:
            return Searcher.FINISHED
        if self.unfinished:
            entry = self.unfinished.pop(0)
            self.proposer.ask()
        elif len(self.ledger.entries) < self.trials:
            values, drawn = self.proposer.ask()
            entry = self.ledger.add(values, int(values.get("steps", self.steps)), drawn=drawn)
        else:
            return Searcher.FINISHED
        self.running[trial_id] = entry
        return {NUMBER: entry.number}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        entry = self.running.pop(trial_id, None)
        if entry is None:
            return
        if error or entry.reason is not None:
            self.ledger.end(entry, "failed", "its process died: killed, or out of memory")
        else:
            self.ledger.end(entry, "complete" if entry.step >= entry.steps else "stopped")
        self.proposer.tell(entry)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is on disk."""
