"""A study: its budget, its sampler and its pruner; and the finals, in which its best trials are trained anew.

The trials of a study are measured cheaply, on one training seed. Whoever picks the best of many such values picks luck
too; so the `finalists` are trained again with fresh seeds at the full budget, beside the recipe as it was.
"""

import json
import warnings
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from pipeline.core.errors import PipelineError
from pipeline.core.randomness import stable_hash
from pipeline.params import Params, SearchParams
from pipeline.search.study import jobs
from pipeline.search.study.space import current, space_of
from pipeline.search.study.storage import create, locked, open_storage, shown
from pipeline.search.study.trial_stats import along, distance_of, front

UNPRUNED = 0.25  # of a trial's steps: the earliest distances foretell nothing, see docs/studies.md
FINALS = " finals"  # in the name of a study's finals
POPULATION = 8  # of NSGA-II: the usual 24 trials are three generations; of Optuna's own, 50, they would all be random


@dataclass(frozen=True)
class Place:
    """Where a study is kept."""

    url: str
    name: str
    storage: BaseStorage

    @property
    def study_id(self) -> int:
        return self.storage.get_study_id_from_name(self.name)

    def load(self, sampler: BaseSampler | None = None, pruner: BasePruner | None = None) -> optuna.Study:
        """The study as it is now; a new object each time, since one remembers the trials that it has seen."""
        return optuna.load_study(study_name=self.name, storage=self.storage, sampler=sampler, pruner=pruner)

    def finals(self) -> "Place":
        """Where the finals of the study's present trials are kept; those of more trials are others."""
        trials = self.storage.get_all_trials(self.study_id, deepcopy=False)
        count = sum(trial.state != TrialState.FAIL for trial in trials)
        return Place(self.url, f"{self.name}{FINALS} of {count}", self.storage)


def place(url: str, name: str, patience: float = 0.0) -> Place:
    """Open the storage of a study, which need not exist yet; an outage is waited for so many seconds."""
    return Place(url, name, open_storage(url, patience))


def make_study(at: Place, params: Params, model: str, data_sha256: str, trials: int) -> None:
    """Make the study with so many trials, or bring one that is there to so many; the first has the recipe's values.

    Raises:
        PipelineError: there is a study of this name with another space, budget, recipe or data.
    """
    objectives = 1 if params.search.against is None else 2
    _make(at, _settings(params, model, data_sha256), [current(params, model)], trials, objectives)


def make_finals(at: Place, params: Params) -> None:
    """Make the finals of a study that is over: its best trials and its first, each with every final seed.

    The finals have one objective, the distance, also where the study has two.
    """
    finalists = choose_finalists(at.load(), params.search.finalists)
    settings = {
        "finalists": [_finalist(trial) for trial in finalists],
        "final_seeds": list(params.search.final_seeds),
        "train": params.train.model_dump(mode="json"),
        "samples": params.generate.samples,
    }
    pairs = [{"finalist": i, "seed": s} for s in params.search.final_seeds for i in range(len(finalists))]
    _make(at.finals(), settings, pairs, len(pairs))


def _finalist(trial: FrozenTrial) -> dict[str, Any]:
    return {"trial": trial.number, "values": trial.params, "proxy": distance_of(trial)}


def choose_finalists(study: optuna.Study, count: int) -> list[FrozenTrial]:
    """The first trial, which is the recipe as it is, and the best `count` others, the best first.

    With two objectives, `count` others of the Pareto front: both its ends and evenly between, the cheapest first.

    Raises:
        PipelineError: no trial has a value.
    """
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not done:
        faults = [trial.user_attrs["fault"] for trial in trials if "fault" in trial.user_attrs]
        told = f"{len(faults)} failed, the first so: {faults[0]}" if faults else "all were pruned"
        raise PipelineError(
            f"study {study.study_name}: none of its {len(trials)} trials came to its end ({told}): "
            "narrow search.space, and start another with --study NAME"
        )
    single = len(study.directions) == 1
    chosen = [trials[0]]
    for trial in sorted(done, key=lambda trial: (distance_of(trial), trial.number)) if single else front(done):
        if all(trial.params != other.params for other in chosen):
            chosen.append(trial)
    return chosen[: count + 1] if single else [chosen[0], *along(chosen[1:], count)]


def make_sampler(search: SearchParams, number: int) -> BaseSampler:
    """The sampler for the trial `number`: seeded by it, so that a resumed study goes on as if it had not stopped."""
    seed = stable_hash(search.seed, "sampler", number) % 2**31
    match search.sampler:
        case "tpe":
            return TPESampler(seed=seed)
        case "gp":
            return GPSampler(seed=seed)
        case "cmaes":
            return CmaEsSampler(seed=seed, warn_independent_sampling=False)
        case "nsga2":
            return NSGAIISampler(population_size=POPULATION, seed=seed)
        case "qmc":
            return _Sobol(search.seed % 2**31, number)
        case "random":
            return RandomSampler(seed=seed)


class _Sobol(QMCSampler):
    """One Sobol sequence for the whole study, whose trials take the point of their number.

    Optuna counts in the storage instead: two workers get the same point, and a killed trial's point is lost.
    """

    def __init__(self, seed: int, number: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            super().__init__(scramble=True, seed=seed, warn_asynchronous_seeding=False, warn_independent_sampling=False)
        self.number = number

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, Any]) -> int:
        return self.number


def make_pruner(search: SearchParams) -> BasePruner:
    """The pruner, which lets every trial pass the first `UNPRUNED` of its steps."""
    least = max(search.score_every, round(search.steps * UNPRUNED))
    match search.pruner:
        case "hyperband":
            return HyperbandPruner(least, search.steps, reduction_factor=3)
        case "median":
            return MedianPruner(n_startup_trials=5, n_warmup_steps=least)
        case "none":
            return NopPruner()


def _settings(params: Params, model: str, data_sha256: str) -> dict[str, Any]:
    """What two commands must agree on to work at one study."""
    search = params.search
    space = {name: dim.model_dump(exclude_none=True) for name, dim in space_of(params, model).items()}
    chosen = search.model_dump(include={"sampler", "pruner", "against", "seed", "steps", "score_every", "samples"})
    measured = {"extractor": params.metrics.extractor, "weights": params.metrics.weights}
    recipe = params.models[model].model_dump(mode="json")
    return {"space": space, "model": model, "recipe": recipe, "data_sha256": data_sha256, **chosen, **measured}


def _make(at: Place, settings: dict[str, Any], first: list[dict[str, Any]], count: int, objectives: int = 1) -> None:
    with locked(at.url):
        create(at.storage, at.name, [StudyDirection.MINIMIZE] * objectives)
        study = at.load()
        if "settings" not in study.user_attrs:  # new, or its maker was killed at this very point
            if study.get_trials(deepcopy=False) or len(study.directions) != objectives:
                raise PipelineError(
                    f"{shown(at.url)} holds a study {at.name!r} that pipeline.search did not make: "
                    "start another with --study NAME"
                )
            study.set_user_attr("settings", json.dumps(settings))
        there = json.loads(study.user_attrs["settings"])
        wanted = json.loads(json.dumps(settings))
        for key in sorted(there.keys() | wanted.keys()):
            if there.get(key) != wanted.get(key):
                raise PipelineError(
                    f"{shown(at.url)} holds a study {at.name!r} with another {key}: {_difference(there, wanted, key)}; "
                    "bring that back to continue it, or start another with --study NAME"
                )
        jobs.fill(study, first, count)


def _difference(there: dict[str, Any], here: dict[str, Any], key: str) -> str:
    old, new = there.get(key), here.get(key)
    if isinstance(old, dict) and isinstance(new, dict):
        key = next(name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name))
        return f"{key} is {old.get(key)} there, {new.get(key)} here"
    return f"{old} there, {new} here"
