"""Pruners: the decisions of Optuna's own, and the same one however often they are asked."""

from typing import Any

import numpy as np
import optuna
import pytest
from optuna.pruners import BasePruner, HyperbandPruner
from optuna.samplers import RandomSampler

from pipeline.search.study.pruner import Hyperband, make_pruner
from tests.studies import study_params


def study_of(pruner: BasePruner, name: str = "s") -> optuna.Study:
    return optuna.create_study(study_name=name, pruner=pruner, sampler=RandomSampler())


def curves_of(seed: int, trials: int, steps: list[int]) -> list[dict[int, float]]:
    """Noisy curves that fall, each to a level of its own."""
    draws = np.random.default_rng(seed)
    return [
        {step: float(level + 1000 / step + draws.normal(0, 30)) for step in steps}
        for level in draws.uniform(100, 1000, trials)
    ]


def stopped_at(study: optuna.Study, curves: list[dict[int, float]], asks: int = 1) -> list[int | None]:
    """Where each trial was pruned, two at a time as by two workers; None = it came to its end."""
    waiting, running = list(enumerate(curves)), list[Any]()
    found: dict[int, int | None] = {}
    while waiting or running:
        while waiting and len(running) < 2:
            number, curve = waiting.pop(0)
            running.append((number, study.ask(), iter(curve.items())))
        for number, trial, points in list(running):
            step, value = next(points)
            trial.report(value, step)
            stops = [trial.should_prune() for _ in range(asks)][-1]
            if stops or step == max(curves[number]):
                found[number] = step if stops else None
                study.tell(
                    trial, state=optuna.trial.TrialState.PRUNED if stops else None, values=None if stops else value
                )
                running = [each for each in running if each[0] != number]
    return [found[number] for number in range(len(curves))]


@pytest.mark.parametrize(
    ("least", "most", "every"), [(135, 540, 60), (60, 540, 60), (15, 60, 5), (1, 81, 1), (4, 12, 4), (25, 74, 25)]
)
def test_hyperband_decides_as_optunas_does(least: int, most: int, every: int) -> None:
    steps = [*range(every, most, every), most]
    for seed, name in enumerate(("s", "dcgan", "a study")):
        curves = curves_of(seed, 24, steps)
        ours = stopped_at(study_of(Hyperband(least, most), name), curves)
        theirs = stopped_at(study_of(HyperbandPruner(least, most, reduction_factor=3), name), curves)
        assert ours == theirs
        assert None in ours and len({step for step in ours if step}) >= 1, "some end, some are pruned"


@pytest.mark.parametrize("pruner", ["hyperband", "median"])
def test_a_question_asked_twice_has_one_answer(pruner: str) -> None:
    search = study_params(**{"search.pruner": pruner}).search
    curves = curves_of(5, 24, list(range(60, 541, 60)))
    once = stopped_at(study_of(make_pruner(search)), curves)
    assert stopped_at(study_of(make_pruner(search)), curves, asks=3) == once
    assert sum(step is not None for step in once) > 5


@pytest.mark.parametrize("pruner", ["hyperband", "median"])
def test_nothing_is_pruned_in_the_first_quarter(pruner: str) -> None:
    search = study_params(**{"search.pruner": pruner, "search.steps": 400, "search.score_every": 20}).search
    curves = curves_of(5, 24, list(range(20, 401, 20)))
    assert min(step for step in stopped_at(study_of(make_pruner(search)), curves) if step) == 100


def test_optunas_hyperband_answers_otherwise_the_second_time() -> None:
    """Why it is not used: when this fails, Optuna has changed, and `Hyperband` may no longer be needed."""
    study = study_of(HyperbandPruner(10, 20, reduction_factor=3))
    answers = []
    for value in (1.0, 2.0):
        trial = study.ask()
        trial.report(value, 10)
        answers.append([trial.should_prune() for _ in range(2)])
    assert answers == [[False, False], [True, False]]


def test_hyperband_by_hand() -> None:
    """One bracket, rungs at 10 and 30 steps: the lowest third goes on, or the lowest while there are fewer than 3."""
    study = study_of(Hyperband(10, 29))
    answers = []
    for value in (5.0, 6.0, 4.0, 4.5, 3.0, 4.2):
        trial = study.ask()
        trial.report(value, 10)
        answers.append(trial.should_prune())
    # 5; 5 6; 4 5 6; 4 4.5 5 6; 3 4 4.5 5 6; 3 4 4.2 4.5 5 6, of which two go on
    assert answers == [False, True, False, True, False, True]
