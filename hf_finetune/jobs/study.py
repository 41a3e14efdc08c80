"""The study of a search in its folder: which trials there are, which process works on which, and what is drawn next.

Trials are in a database of Optuna. Each is worked on by the process that holds its lock, which the kernel releases when
the process ends, however it ends. A trial that is under way and whose lock nobody holds has lost its process: it is
marked as failed, and tried again in the folder where its checkpoints are.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from hf_finetune.config.search_space import Choices, Space
from hf_finetune.errors import UserError
from hf_finetune.logs import get_logger
from hf_finetune.training.checkpoints.lock import AtWork, check_unused, locked

logger = get_logger(__name__)

DATABASE = "study.db"
_NAME = "hf_finetune"
_STUDY_LOCK = ".study.lock"
_POLL_SECONDS = 0.05
_DATABASE_SECONDS = 60  # that a process waits for another that writes
_MOST_TRIES = 3  # of a trial whose processes end without a word, as those that run out of memory do
# What is kept with a trial: the first trial of those that are tries of one, and which one it follows.
_FIRST, _RETRY_OF, _TRIES = "first", "retry_of", "tries"

optuna.logging.set_verbosity(optuna.logging.WARNING)


class SeededTPE(optuna.samplers.BaseSampler):
    """TPE (Bergstra et al. 2011, "Algorithms for hyper-parameter optimization") whose draws belong to the trial.

    They are a function of the seed, of the trial's place among the trials that are no second tries, and of the results
    so far: several processes do not draw the same, and a study that was interrupted goes the same way.

    Args:
        seed: Of the study.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._tpe = optuna.samplers.TPESampler(seed=seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Seed the draws of a trial."""
        earlier = study.get_trials(deepcopy=False)
        place = trial.number - sum(_RETRY_OF in other.user_attrs for other in earlier if other.number < trial.number)
        seed = int(np.random.SeedSequence([self._seed, place]).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._tpe = optuna.samplers.TPESampler(seed=seed, constant_liar=True)  # others are at work beside

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return what is drawn together."""
        return self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw what is drawn together."""
        return self._tpe.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw one value."""
        return self._tpe.sample_independent(study, trial, param_name, param_distribution)


@dataclass(frozen=True)
class Task:
    """A trial that this process works on.

    Attributes:
        trial: Optuna's.
        values: The keys of the space with their values.
        folder: The folder of its run.
    """

    trial: Trial
    values: dict[str, Any]
    folder: Path


class Study:
    """The trials of a search, in a folder that several processes may share.

    Args:
        folder: The folder, which is created.
        space: What is searched.
        seed: Of the draws.
        greater_is_better: Whether a larger figure is better.

    Raises:
        UserError: The folder holds the study of another space.
    """

    def __init__(self, folder: Path, space: Space, seed: int, greater_is_better: bool) -> None:
        self.folder, self.space = folder, space
        with self.alone():
            storage = optuna.storages.RDBStorage(
                f"sqlite:///{(folder / DATABASE).absolute()}",
                engine_kwargs={"connect_args": {"timeout": _DATABASE_SECONDS}},
            )
            self.optuna = optuna.create_study(
                storage=storage,
                sampler=SeededTPE(seed),
                pruner=optuna.pruners.MedianPruner(),
                study_name=_NAME,
                direction="maximize" if greater_is_better else "minimize",
                load_if_exists=True,
            )
            told = {key: repr(parameter) for key, parameter in space.items()}
            known = self.optuna.user_attrs.get("space")
            if known is None:
                self.optuna.set_user_attr("space", told)
            elif known != told:
                key = next(key for key in {**known, **told} if known.get(key) != told.get(key))
                raise UserError(
                    f"output_dir: {folder} holds a study of another space, in which {key} differs; use another"
                    " --output_dir."
                )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from looking at the study or changing it."""
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(locked(self.folder, _STUDY_LOCK))
                    break
                except AtWork:
                    time.sleep(_POLL_SECONDS)
            yield

    @contextmanager
    def next(self, trials: int) -> Iterator[Task | None]:
        """Begin a trial, which is this process's own within the context; None where there are enough.

        Args:
            trials: How many trials the study has in the end, those of other processes included.
        """
        with ExitStack() as stack:
            with self.alone():
                self._fail_lost()
                waiting = self._in_state(TrialState.WAITING)
                if not waiting and len(self.trials()) >= trials:
                    task = None
                else:
                    trial = self.optuna.ask()
                    stack.enter_context(locked(self.folder, _lock_of(trial.number)))
                    first = trial.user_attrs.get(_FIRST, trial.number)
                    values = {key: self._suggest(trial, key) for key in self.space}
                    task = Task(trial, values, self.folder / f"trial-{first}")
                    if _RETRY_OF in trial.user_attrs:
                        lost = self.optuna.trials[trial.user_attrs[_RETRY_OF]]
                        for step, value in lost.intermediate_values.items():
                            trial.report(value, step)
            yield task

    def trials(self) -> list[FrozenTrial]:
        """Return the trials, of several tries the last one, in the order of their numbers."""
        everything = self.optuna.get_trials(deepcopy=False)
        tried_again = {trial.user_attrs[_RETRY_OF] for trial in everything if _RETRY_OF in trial.user_attrs}
        return [trial for trial in everything if trial.number not in tried_again and trial.state != TrialState.WAITING]

    def best(self) -> FrozenTrial | None:
        """Return the complete trial with the best figure, None where there is none yet."""
        complete = self._in_state(TrialState.COMPLETE)
        sign = 1 if self.optuna.direction == optuna.study.StudyDirection.MAXIMIZE else -1
        return max(complete, key=lambda trial: (sign * (trial.value or 0.0), -trial.number), default=None)

    def values_of(self, trial: FrozenTrial) -> dict[str, Any]:
        """Return the keys of the space with their values in a trial."""
        return {key: self._value(key, drawn) for key, drawn in trial.params.items()}

    def importances(self) -> dict[str, float]:
        """Return how much of the variance of the figures each key explains, by fANOVA (Hutter et al. 2014).

        Returns:
            Parts of 1, the largest first; nothing where two complete trials with different figures are missing.
        """
        complete = self._in_state(TrialState.COMPLETE)
        if len({trial.value for trial in complete}) < 2:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
            return optuna.importance.get_param_importances(self.optuna, evaluator=evaluator)

    def _in_state(self, state: TrialState) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False, states=(state,))

    def _suggest(self, trial: Trial, key: str) -> Any:
        parameter = self.space[key]
        if isinstance(parameter, Choices):
            return self._value(key, trial.suggest_categorical(key, list(parameter.values)))
        if parameter.whole:
            return trial.suggest_int(key, int(parameter.low), int(parameter.high), log=parameter.log)
        return trial.suggest_float(key, parameter.low, parameter.high, log=parameter.log)

    def _value(self, key: str, drawn: Any) -> Any:
        parameter = self.space[key]
        return parameter.values[drawn] if isinstance(parameter, Choices) else drawn

    def _fail_lost(self) -> None:
        """Mark trials that have lost their process as failed, and enqueue another try of each."""
        for trial in self._in_state(TrialState.RUNNING):
            try:
                check_unused(self.folder, _lock_of(trial.number))
            except AtWork:
                continue
            # Looked at again, because its process may have told its end before it let go of the lock.
            if trial.number not in [other.number for other in self._in_state(TrialState.RUNNING)]:
                continue
            tries = trial.user_attrs.get(_TRIES, 1)
            self.optuna.tell(trial.number, state=TrialState.FAIL)
            again = tries < _MOST_TRIES
            logger.info(
                f"Trial {trial.number} has lost its process and is marked as failed;"
                f" {'it is tried again' if again else f'{tries} tries are enough'}."
            )
            if again:
                attributes: Mapping[str, int] = {
                    _FIRST: trial.user_attrs.get(_FIRST, trial.number),
                    _RETRY_OF: trial.number,
                    _TRIES: tries + 1,
                }
                self.optuna.enqueue_trial(trial.params, user_attrs=dict(attributes))


def _lock_of(number: int) -> str:
    return f".trial-{number}.lock"
