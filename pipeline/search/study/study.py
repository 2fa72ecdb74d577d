"""A study: its budget and its sampler; and the finals, in which its best trials are trained again.

The trials of a study are measured cheaply, on one training seed. The best of many such values is also the luckiest. So
the `finalists` are trained again with fresh seeds at the full budget, beside the baseline: the recipe before tuning.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from pipeline.core.errors import PipelineError
from pipeline.core.randomness import stable_hash
from pipeline.params import Params, Recipe, SearchParams, TrainParams
from pipeline.search.study import jobs
from pipeline.search.study.space import current, space_of
from pipeline.search.study.storage import StudyRef, create, locked, redacted
from pipeline.search.study.trial_stats import distance_of, pareto_front, select_evenly

SHARED = "gp:relative_params:0"  # Optuna's private name of the attribute in which GPSampler shares a trial's values
POPULATION = 8  # of NSGA-II: the usual 24 trials are three generations; of Optuna's own, 50, they would all be random


class NothingCompleted(PipelineError):
    """No trial of a study has a value, so there is nothing to choose finalists from."""


def make_study(ref: StudyRef, params: Params, model: str, data_sha256: str, trials: int) -> None:
    """Make the study with `trials` trials, or bring an existing one to this number. The first trial is the baseline.

    The baseline is the recipe at the time when the study is made.

    Raises:
        PipelineError: a study of this name has another space, budget, recipe or data. Fields of the recipe that are
            varied do not count: `--apply` changes them.
    """
    objectives = 1 if params.search.against is None else 2
    _make(ref, _settings(params, model, data_sha256), [current(params, model)], trials, objectives)


def make_finals(ref: StudyRef, params: Params) -> StudyRef:
    """Make the finals of a study that is over: its best trials and the baseline, each with every final seed.

    The finals have one objective, the distance, also where the study has two. With other finalists, seeds, samples or
    another training or generator (ema or raw) they are other finals, kept beside the first.
    """
    finalists = choose_finalists(ref.load(), params.search.finalists)
    settings = {
        "finalists": [_finalist(trial) for trial in finalists],
        "final_seeds": list(params.search.final_seeds),
        "train": params.train.effective(),
        "samples": params.generate.samples,
        **({} if params.generate.weights == "ema" else {"generator": params.generate.weights}),
    }
    finals = ref.finals(hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8])
    pairs = [{"finalist": i, "seed": s} for s in params.search.final_seeds for i in range(len(finalists))]
    _make(finals, settings, pairs, len(pairs))
    return finals


def _finalist(trial: FrozenTrial) -> dict[str, Any]:
    return {"trial": trial.number, "values": trial.params, "proxy": distance_of(trial)}


def choose_finalists(study: optuna.Study, count: int) -> list[FrozenTrial]:
    """The first trial, which is the baseline, and the best `count` others, the best first.

    With two objectives, `count` others evenly along the Pareto front, with both its ends, the cheapest first.

    Raises:
        NothingCompleted: no trial has a value.
    """
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not done:
        faults = [trial.user_attrs["fault"] for trial in trials if "fault" in trial.user_attrs]
        reason = f"{len(faults)} failed, the first with: {faults[0]}" if faults else "all were pruned"
        raise NothingCompleted(
            f"study {study.study_name}: none of its {len(trials)} trials was completed ({reason}): "
            "narrow search.space, and start another with --study NAME"
        )
    single = len(study.directions) == 1
    chosen = [trials[0]]
    for trial in sorted(done, key=lambda trial: (distance_of(trial), trial.number)) if single else pareto_front(done):
        if all(trial.params != other.params for other in chosen):
            chosen.append(trial)
    return chosen[: count + 1] if single else [chosen[0], *select_evenly(chosen[1:], count)]


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
            return _Nsga2(population_size=POPULATION, seed=seed)
        case "qmc":
            return _Sobol(search.seed % 2**31, number)
        case "random":
            return RandomSampler(seed=seed)


class _Nsga2(NSGAIISampler):
    """NSGA-II that has the parents of a generation in the same order each time.

    Optuna has them in another order when it chooses them than when it reads them from the storage. So where a worker
    was killed right after it chose them, the next one would draw other values.
    """

    def select_parent(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        return sorted(super().select_parent(study, generation), key=lambda trial: trial.number)


class _Sobol(QMCSampler):
    """One Sobol sequence for the whole study, whose trials take the point of their number.

    Optuna counts in the storage instead: two workers get the same point, and a killed trial's point is lost. No public
    name lets one choose the point, so a private method is replaced; a test fails if Optuna no longer calls it.
    """

    def __init__(self, seed: int, number: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            super().__init__(scramble=True, seed=seed, warn_asynchronous_seeding=False, warn_independent_sampling=False)
        self.number = number

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, Any]) -> int:
        return self.number


def hide_shared_values(ref: StudyRef, trial_id: int) -> None:
    """Empty the values that GPSampler shared with other workers, of a trial whose values are not all stored.

    They are there if the trial's worker was killed meanwhile. The sampler would count them as another running trial,
    and keep away from them. Nothing public removes them; a test fails if Optuna renames the attribute.
    """
    if SHARED in ref.storage.get_trial(trial_id).system_attrs:
        ref.storage.set_trial_system_attr(trial_id, SHARED, "")


def _settings(params: Params, model: str, data_sha256: str) -> dict[str, Any]:
    """What a study is made with, and what two commands must agree on to work at it, see `_difference`."""
    search = params.search
    space = {name: dim.model_dump(exclude_none=True) for name, dim in space_of(params, model).items()}
    chosen = search.model_dump(include={"sampler", "pruner", "against", "seed", "steps", "score_every", "samples"})
    measured = {"extractor": params.metrics.extractor, "weights": params.metrics.weights}
    recipe = params.models[model].model_dump(mode="json")
    same = {"model": model, "recipe": recipe, "train": _training(params.train), "data_sha256": data_sha256}
    return {"space": space, **same, **chosen, **measured}


def _training(train: TrainParams) -> dict[str, Any]:
    """What `train:` says of how a trial is trained; how long it is, `search:` says."""
    names = {"precision", "accumulate", "rollbacks"} | ({"rollback_lr"} if train.rollbacks else set())
    return train.model_dump(include=names)


def _make(
    ref: StudyRef, settings: dict[str, Any], first: list[dict[str, Any]], count: int, objectives: int = 1
) -> None:
    with locked(ref.url):
        create(ref.storage, ref.name, [StudyDirection.MINIMIZE] * objectives)
        study = ref.load()
        if "settings" not in study.user_attrs:  # new, or its maker was killed at this very point
            if study.get_trials(deepcopy=False) or len(study.directions) != objectives:
                raise PipelineError(
                    f"{redacted(ref.url)} holds a study {ref.name!r} that pipeline.search did not make: "
                    "start another with --study NAME"
                )
            study.set_user_attr("settings", json.dumps(settings))
        difference = _difference(json.loads(study.user_attrs["settings"]), json.loads(json.dumps(settings)))
        if difference:
            raise PipelineError(
                f"{redacted(ref.url)} holds a study {ref.name!r} with another {difference}; "
                "change that back to continue it, or start another with --study NAME"
            )
        jobs.enqueue(study, first, count)


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Where the settings of a study that is there differ from those asked for, in words; "" if they agree.

    Of the recipe the varied fields do not count, which `--apply` changes. Nor do fields at their neutral value, which
    a later version of the code may have added; nor `train`, where an earlier version did not note it.
    """
    if "train" not in old:
        new = {key: value for key, value in new.items() if key != "train"}
    old, new = _fixed_part(old, new), _fixed_part(new, old)
    for key in sorted(old.keys() | new.keys()):
        before, now = old.get(key), new.get(key)
        if before == now:
            continue
        if isinstance(before, dict) and isinstance(now, dict):
            name = next(name for name in [*now, *before] if before.get(name) != now.get(name))
            return f"{key}: {name} is {before.get(name)} there, {now.get(name)} here"
        return f"{key}: {before} there, {now} here"
    return ""


def _fixed_part(settings: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` whose recipe lacks the fields that do nothing, and those that it or `other` varies."""
    varied = settings.get("space", {}).keys() | other.get("space", {}).keys()
    neutral = json.loads(json.dumps(Recipe.neutral_values()))  # tuples as lists, as in `settings`
    recipe = {
        name: value
        for name, value in settings.get("recipe", {}).items()
        if name not in varied and neutral.get(name, ...) != value
    }
    return {**settings, "recipe": recipe}
