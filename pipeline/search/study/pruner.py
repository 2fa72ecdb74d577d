"""Pruners as functions of the trials' curves alone: asked twice about the same point, they answer the same.

A worker may be killed after it asked and before it acted. The next one asks again, so an answer must not depend on how
often it was given. Optuna's HyperbandPruner does depend on it: it writes to the storage that a trial has completed a
rung before it says whether the trial may pass, and the second time it asks about the next rung.
"""

import binascii
import math

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.trial import FrozenTrial

from pipeline.params import SearchParams

UNPRUNED = 0.25  # of a trial's steps: the earliest distances foretell nothing, see docs/studies.md


def make_pruner(search: SearchParams) -> BasePruner:
    """The pruner, which lets every trial pass the first `UNPRUNED` of its steps."""
    least = max(search.score_every, round(search.steps * UNPRUNED))
    match search.pruner:
        case "hyperband":
            return Hyperband(least, search.steps)
        case "median":
            return MedianPruner(n_startup_trials=5, n_warmup_steps=least)
        case "none":
            return NopPruner()


class Hyperband(BasePruner):
    """Asynchronous Hyperband, with the decisions of Optuna's HyperbandPruner.

    A trial belongs to one bracket, by its number and the study's name. Bracket b has rungs at `least` times
    `factor` ** (b + 0, 1, ..) steps. Where a trial reaches a rung, it goes on if its distance is among the lowest
    1 / `factor` of those that its bracket's trials had there, or the lowest while they are fewer than `factor`.

    Li et al. 2018, https://jmlr.org/papers/v18/16-558.html; Li et al. 2020, https://arxiv.org/abs/1810.05934.
    """

    def __init__(self, least: int, most: int, factor: int = 3) -> None:
        self._least, self._factor = least, factor
        count = 1
        while least * factor**count <= most:
            count += 1
        self._shares = [math.ceil(count * factor**left / (left + 1)) for left in reversed(range(count))]

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether a trial stops at the last point of its curve."""
        curve = trial.intermediate_values
        if not curve:
            return False
        step = max(curve)
        before = max((at for at in curve if at < step), default=0)
        bracket = self._bracket(study.study_name, trial.number)
        rivals = [
            other.intermediate_values
            for other in study.get_trials(deepcopy=False)
            if other.number != trial.number and self._bracket(study.study_name, other.number) == bracket
        ]
        rung = self._least * self._factor**bracket
        while rung <= step:
            if rung > before and not self._passes(curve[step], [_value_at(rung, rival) for rival in rivals]):
                return True
            rung *= self._factor
        return False

    def _bracket(self, study: str, number: int) -> int:
        left = binascii.crc32(f"{study}_{number}".encode()) % sum(self._shares)
        bracket = 0
        while left >= self._shares[bracket]:
            left -= self._shares[bracket]
            bracket += 1
        return bracket

    def _passes(self, value: float, rivals: list[float | None]) -> bool:
        values = sorted([value, *(rival for rival in rivals if rival is not None)])
        return value <= values[max(len(values) // self._factor, 1) - 1]


def _value_at(rung: int, curve: dict[int, float]) -> float | None:
    """The value with which a trial reached a rung: that of its first point there or later."""
    step = min((at for at in curve if at >= rung), default=None)
    return None if step is None else curve[step]
