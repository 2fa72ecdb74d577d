"""A study: its budget, its sampler and its pruner; and the finals, in which its best trials are trained anew.

The trials of a study are measured cheaply, on one training seed. Whoever picks the best of many such values picks luck
too; so the `finalists` are trained again with fresh seeds at the full budget, beside the recipe as it was.
"""

import json
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from pipeline.errors import PipelineError
from pipeline.params import Params, SearchParams
from pipeline.randomness import stable_hash
from pipeline.search import jobs
from pipeline.search.space import current, space_of
from pipeline.search.storage import create, locked, open_storage, shown

FINALS = " finals"  # what the name of a study's finals ends in


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
        return Place(self.url, self.name + FINALS, self.storage)


def place(url: str, name: str) -> Place:
    """Open the storage of a study, which need not exist yet."""
    return Place(url, name, open_storage(url))


def make_study(at: Place, params: Params, model: str, data_sha256: str, trials: int) -> None:
    """Make the study with so many trials, or bring one that is there to so many; the first has the recipe's values.

    Raises:
        PipelineError: there is a study of this name with another space, budget, recipe or data.
    """
    _make(at, _settings(params, model, data_sha256), [current(params, model)], trials)


def make_finals(at: Place, params: Params) -> None:
    """Make the finals of a study that is over: its best trials and its first, each with every final seed."""
    finalists = choose_finalists(at.load(), params.search.finalists)
    settings = {
        "finalists": [{"trial": trial.number, "values": trial.params, "proxy": trial.value} for trial in finalists],
        "final_seeds": list(params.search.final_seeds),
        "train": params.train.model_dump(mode="json"),
        "samples": params.generate.samples,
    }
    pairs = [{"finalist": i, "seed": s} for s in params.search.final_seeds for i in range(len(finalists))]
    _make(at.finals(), settings, pairs, len(pairs))


def choose_finalists(study: optuna.Study, count: int) -> list[FrozenTrial]:
    """The first trial, which is the recipe as it is, and the best `count` others, the best first.

    Raises:
        PipelineError: no trial has a value.
    """
    done = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    if not done:
        raise PipelineError(f"study {study.study_name}: no trial came to its end; every one diverged, see its notes")
    start = next(trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL)
    best, seen = [start], [start.params]
    for trial in sorted(done, key=lambda trial: (trial.value, trial.number)):
        if trial.params not in seen and len(best) <= count:
            best.append(trial)
            seen.append(trial.params)
    return best


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
        case "qmc":  # one sequence for the whole study
            return QMCSampler(scramble=True, seed=search.seed % 2**31, warn_asynchronous_seeding=False,
                              warn_independent_sampling=False)  # fmt: skip
        case "random":
            return RandomSampler(seed=seed)


def make_pruner(search: SearchParams) -> BasePruner:
    """The pruner: Hyperband's least resource is one point of the curve."""
    match search.pruner:
        case "hyperband":
            return HyperbandPruner(search.score_every, search.steps, reduction_factor=3)
        case "median":
            return MedianPruner(n_startup_trials=5, n_warmup_steps=search.score_every)
        case "none":
            return NopPruner()


def _settings(params: Params, model: str, data_sha256: str) -> dict[str, Any]:
    """What two commands must agree on to work at one study."""
    search = params.search
    space = {name: dim.model_dump(exclude_none=True) for name, dim in space_of(params, model).items()}
    chosen = search.model_dump(include={"sampler", "pruner", "seed", "steps", "score_every", "samples"})
    measured = {"extractor": params.metrics.extractor, "weights": params.metrics.weights}
    recipe = params.models[model].model_dump(mode="json")
    return {"space": space, "model": model, "recipe": recipe, "data_sha256": data_sha256, **chosen, **measured}


def _make(at: Place, settings: dict[str, Any], first: list[dict[str, Any]], count: int) -> None:
    with locked(at.url):
        new = create(at.storage, at.name, [StudyDirection.MINIMIZE])
        if new:
            at.storage.set_study_user_attr(at.study_id, "settings", json.dumps(settings))
        study = at.load()
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
