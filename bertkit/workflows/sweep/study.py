"""The trials of a sweep in an Optuna study: who trains which, from any number of processes and machines.

Imported only where a sweep runs, since Optuna is an extra.

A trial that was killed, or interrupted, is a failed one for Optuna; it is put in the queue again as a new trial with
the same settings that names the first one (``FIRST``). To the user all attempts are one trial.
"""

from __future__ import annotations

import math
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import gethostname
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from bertkit.errors import BertkitError, ConfigError, RunError, one_line
from bertkit.loop import DivergedError
from bertkit.run import hide_password, trial_folder
from bertkit.workflows import locks
from bertkit.workflows.sweep.folder import Sweep
from bertkit.workflows.sweep.plan import Plan
from bertkit.workflows.sweep.space import Choices, Point, Range, Space, points
from bertkit.workflows.sweep.table import Trial

FIRST = "first"
"""Attribute of a later attempt: the number of the first one."""
EXTRA = "extra"
"""Attribute of a trial that was drawn though none was left to train, because two processes asked at once."""
FAILED = "failed"
"""Attribute of a trial that training itself gave up: why. It is not run again."""
PLACE = "place"
"""Attribute: the id of the sweep folder in which a trial is trained."""
RUN = "run"
"""Attribute: its run folder, as the machine that trained it names it."""
HEARTBEAT = 60
"""Seconds between two signs of life, where several machines may share a storage."""
GRACE = 900
"""Seconds without one after which a trial of another machine counts as killed; a machine may well stall for minutes."""
UNCLAIMED = 60
"""Seconds after which a trial without a place counts as killed: between being drawn and claimed lies no work."""
OVER = (TrialState.COMPLETE, TrialState.PRUNED)
STATES = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "interrupted", "RUNNING": "running", "WAITING": "waiting"}
"""Optuna's states -> ours; a trial that training gave up is ``failed``."""


class Unfinished(Exception):  # noqa: N818 (no fault: the trial is run again)
    """Training was interrupted."""


class Queue:
    """A study, and this process's way to take trials from it."""

    def __init__(self, study: optuna.Study, space: Space, sweep: Sweep, *, number: int) -> None:
        """Take the study, what is tried, this machine's folder, and how many trials there shall be."""
        self.study = study
        self.space = space
        self.sweep = sweep
        self.number = number

    # What there is -------------------------------------------------------------------------------------------

    def attempts(self) -> dict[int, list[FrozenTrial]]:
        """Return Optuna's number of a first attempt -> all attempts at that trial, oldest first."""
        found: dict[int, list[FrozenTrial]] = {}
        for trial in self.study.get_trials(deepcopy=False):
            if EXTRA not in trial.user_attrs:
                found.setdefault(first_of(trial), []).append(trial)
        return found

    def trials(self) -> tuple[Trial, ...]:
        """Return the trials by number, all attempts at one taken together."""
        found = [tries for _, tries in sorted(self.attempts().items())][: self.number]
        return tuple(self._trial(number, tries) for number, tries in enumerate(found, start=1))

    def _trial(self, number: int, tries: Sequence[FrozenTrial]) -> Trial:
        counts = _counting(tries)
        error = str(counts.user_attrs.get(FAILED, ""))
        # An attempt that waits for its turn has neither settings nor a place yet.
        begun = next((one for one in [counts, *reversed(tries)] if RUN in one.user_attrs), counts)
        here = begun.user_attrs.get(PLACE) == self.sweep.id
        return Trial(
            trial=number,
            state="failed" if error else STATES[counts.state.name],
            settings=dict(max([counts, *tries], key=lambda one: len(one.params)).params),
            score=counts.value if counts.value is not None and math.isfinite(counts.value) else None,
            run=str(trial_folder(self.sweep.folder, number)) if here else str(begun.user_attrs.get(RUN, "")),
            error=error,
        )

    def index(self, first: int) -> int:
        """Return which of the trials, counted from 0, a trial is; numbers have gaps where two asked at once."""
        return sum(other < first for other in self.attempts())

    # Taking trials -------------------------------------------------------------------------------------------

    def work(self, train: Callable[[int, Point, optuna.Trial], float], *, should_stop: Callable[[], bool]) -> None:
        """Train trials until none is left for this process.

        Args:
            train: number, from 1, settings, and the trial, to report to -> its score.
            should_stop: asked before each trial.

        Raises:
            Unfinished: as ``train`` does; its trial is run again by whoever comes first.
        """
        while not should_stop():
            self._put_back()
            found = self.attempts().values()
            if len(found) >= self.number and all(_counting(one).state != TrialState.WAITING for one in found):
                return
            with _reported(self.study), suppress(_NotMine):
                self.study.optimize(lambda trial: self._train(trial, train), n_trials=1, catch=(DivergedError,))

    def _train(self, trial: optuna.Trial, train: Callable[[int, Point, optuna.Trial], float]) -> float:
        first = first_of(trial)
        with locks.alone(self._lock(first)) as mine:
            if not mine or self._superseded(trial, first):
                trial.set_user_attr(EXTRA, True)
                raise _NotMine
            number = 1 + self.index(first)
            folder = trial_folder(self.sweep.folder, number)
            trial.set_user_attr(PLACE, self.sweep.id)
            trial.set_user_attr(RUN, f"{gethostname()}:{folder.resolve()}")
            try:
                return self._comparable(train(number, self._settings(trial), trial))
            except DivergedError as error:
                trial.set_user_attr(FAILED, str(error))
                raise

    def _comparable(self, score: float) -> float:
        """Return a score that can be compared: one that is no number is the worst there is."""
        worst = -math.inf if self.study.direction == optuna.study.StudyDirection.MAXIMIZE else math.inf
        return worst if math.isnan(score) else score

    def _superseded(self, trial: optuna.Trial, first: int) -> bool:
        """Say whether the trial is one too many, or another attempt at it is over or under way."""
        if self.index(first) >= self.number:
            return True
        others = [one for one in self.attempts().get(first, []) if one.number != trial.number]
        return any(
            one.state in OVER or (one.state == TrialState.RUNNING and one.number < trial.number) for one in others
        )

    def _settings(self, trial: optuna.Trial) -> Point:
        return {key: _suggested(trial, key, choices) for key, choices in self.space.items()}

    def _put_back(self) -> None:
        """Queue again what was killed or interrupted."""
        for trials in self.attempts().values():
            for trial in trials:
                if trial.state == TrialState.RUNNING and self._is_dead(trial):
                    # Another process may have seen it as well.
                    with suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):
                        self.study.tell(trial.number, state=TrialState.FAIL)
        for first, trials in self.attempts().items():
            failed = all(one.state == TrialState.FAIL and FAILED not in one.user_attrs for one in trials)
            if failed and not locks.is_held(self._lock(first)):
                last = max(trials, key=lambda one: len(one.params))
                self.study.enqueue_trial(dict(last.params), user_attrs={FIRST: first})

    def _is_dead(self, trial: FrozenTrial) -> bool:
        """Say whether nobody trains a running trial: the lock of a process that ends, however it ends, is free."""
        place = trial.user_attrs.get(PLACE)
        if place is None:
            begun = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
            return time.time() - begun > UNCLAIMED
        return place == self.sweep.id and not locks.is_held(self._lock(first_of(trial)))

    def _lock(self, first: int) -> Path:
        """Return the lock that a process of this machine holds while it is at work on a trial."""
        return self.sweep.lock(f"trial-{first:03d}")


class _NotMine(Exception):  # noqa: N818 (no fault)
    """Another process has the trial."""


def first_of(trial: FrozenTrial | optuna.Trial) -> int:
    """Return the number of the first attempt."""
    return int(trial.user_attrs.get(FIRST, trial.number))


def _counting(tries: Sequence[FrozenTrial]) -> FrozenTrial:
    """Return the attempt that counts: one that is over, else the newest."""
    return next((one for one in tries if one.state in OVER), tries[-1])


def open_study(sweep: Sweep, plan: Plan, *, higher: bool) -> optuna.Study:
    """Open a sweep's study, or make it.

    Args:
        sweep: says where it is stored.
        plan: what is tried.
        higher: whether a higher score is the better one.

    Raises:
        ConfigError: if the storage cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url, shared = sweep.address, bool(sweep.storage)
    try:
        with warnings.catch_warnings():
            # The heartbeat is marked as experimental; nothing else tells a machine that was switched off.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.create_study(
                storage=optuna.storages.RDBStorage(
                    url,
                    engine_kwargs={"connect_args": {"timeout": 100}} if url.startswith("sqlite") else {},
                    heartbeat_interval=HEARTBEAT if shared else None,
                    grace_period=GRACE if shared else None,
                ),
                study_name=plan.study,
                direction="maximize" if higher else "minimize",
                load_if_exists=True,
                sampler=_Sampler(plan.space, drawn=plan.drawn, seed=plan.request.seed),
                pruner=optuna.pruners.MedianPruner() if plan.prune else optuna.pruners.NopPruner(),
            )
    except (ImportError, ValueError, OSError, sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:
        raise ConfigError(
            f"--storage {hide_password(url)} cannot be opened: {hide_password(one_line(str(error)))[:300]}. It takes a "
            "database's address as SQLAlchemy writes it, for example sqlite:///sweeps.db or "
            "postgresql://user@host/sweeps, whose driver is installed."
        ) from error


def agree(study: optuna.Study, facts: Mapping[str, Any]) -> None:
    """Note what all trials of a study have alike, or compare it with what the first process noted.

    Raises:
        RunError: if they are not the same, so that scores could not be compared.
    """
    known = study.user_attrs
    for name, value in facts.items():
        if name not in known:
            study.set_user_attr(name, value)
        elif known[name] != value:
            raise RunError(
                f"The study '{study.study_name}' was begun with {name} {known[name]}, and here it is {value}, so the "
                "scores could not be compared. Use the same data and encoder, or another --out."
            )


@contextmanager
def _reported(study: optuna.Study) -> Iterator[None]:
    """Turn the faults of a storage into bertkit's, and pass over a trial that another machine took."""
    try:
        yield
    except (BertkitError, Unfinished, _NotMine):
        raise
    except optuna.exceptions.UpdateFinishedTrialError:
        return
    except ValueError as error:
        if not str(error).startswith("Cannot tell"):
            raise
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise RunError(
            f"The storage of the study '{study.study_name}' failed: {hide_password(one_line(str(error)))[:300]}. "
            "The same command goes on."
        ) from error


def _suggested(trial: optuna.Trial, key: str, choices: Choices) -> Any:
    if not isinstance(choices, Range):
        return trial.suggest_categorical(key, choices)
    if choices.whole:
        return trial.suggest_int(key, int(choices.low), int(choices.high), log=choices.log)
    return trial.suggest_float(key, choices.low, choices.high, log=choices.log)


class _Sampler(BaseSampler):
    """Gives the n-th trial the n-th combination of a grid, or draws with a tree-structured Parzen estimator.

    Optuna's ``GridSampler`` may give two processes the same point, and counts a killed trial as done. The estimator is
    seeded for each value by the trial's number, so that several processes do not draw the same numbers, and a sweep
    that was interrupted draws what it would have.
    """

    def __init__(self, space: Space, *, drawn: bool, seed: int) -> None:
        self._points = [] if drawn else points(space)
        self._seed = seed

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return nothing: each setting is drawn by itself."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return nothing, likewise."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a trial's value of one setting."""
        first = first_of(trial)
        if self._points:
            others = {first_of(one) for one in study.get_trials(deepcopy=False) if EXTRA not in one.user_attrs}
            return self._points[sum(other < first for other in others)][param_name]
        seed = zlib.crc32(f"{self._seed} {first} {param_name}".encode())
        sampler = TPESampler(seed=seed)
        assert isinstance(param_distribution, CategoricalDistribution | FloatDistribution | IntDistribution)
        return sampler.sample_independent(study, trial, param_name, param_distribution)
