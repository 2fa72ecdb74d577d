"""Studies for tests: params, places in memory, and studies made by hand with given trials and finals."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from pipeline.params import Params, load
from pipeline.search.pages.page import Subject
from pipeline.search.study.results import Finalist, StudyResults
from pipeline.search.study.storage import StudyRef

ROOT = Path(__file__).resolve().parent.parent
DESCRIPTION: dict[str, Any] = {
    "name": "digits", "image_shape": [1, 16, 16], "classes": ["0", "1"], "class_counts": [4, 4], "train": 8,
    "sha256": "0" * 64,
}  # fmt: skip
ABOUT = Subject("digits, 16 × 16, grey", "fd_efficientnet_lite0", "digits-16px-search")
RATES = {"low": 1e-4, "high": 1e-2, "log": True}
TUNED: dict[str, Any] = {  # whatever params.yaml says at the time
    "search.space": {"lr_g": RATES, "lr_d": RATES, "beta1": {"choices": [0.0, 0.5]},
                     "beta2": {"choices": [0.9, 0.99, 0.999]}, "n_critic": {"low": 1, "high": 3}},
    "search.sampler": "tpe", "search.pruner": "hyperband", "search.against": None, "search.seed": 100,
    "search.steps": 540, "search.score_every": 60, "search.samples": 500, "search.finalists": 3,
    "search.final_seeds": [101, 102, 103], "train.steps": 1500, "compare.seeds": [0],
    "models.dcgan.lr_g": 2e-3, "models.dcgan.lr_d": 2e-3, "models.dcgan.beta1": 0.0, "models.dcgan.beta2": 0.9,
    "models.dcgan.n_critic": 1, "models.dcgan.batch_size": 64, "models.dcgan.width_g": 64, "models.dcgan.clip": None,
    "runtime.tracking": False, "runtime.device": "cpu",
}  # fmt: skip

SPACE: dict[str, dict[str, Any]] = {
    "lr_g": {"low": 1e-4, "high": 1e-2, "log": True},
    "beta1": {"choices": [0.0, 0.5]},
    "n_critic": {"low": 1, "high": 3},
}
DISTRIBUTIONS: dict[str, BaseDistribution] = {
    "lr_g": FloatDistribution(1e-4, 1e-2, log=True),
    "beta1": CategoricalDistribution([0.0, 0.5]),
    "n_critic": IntDistribution(1, 3),
}
START = {"lr_g": 0.002, "beta1": 0.0, "n_critic": 1}
RECIPE = {"network": "dcgan", "batch_size": 10, "lr_d": 0.002, **START}
BEGIN = datetime(2026, 1, 1)


def study_params(**changes: Any) -> Params:
    """params.yaml with a search of its own for dcgan: ``study_params(**{"search.sampler": "random"})``."""
    return load(ROOT / "params.yaml").override(TUNED | changes)


def in_memory(name: str = "s") -> StudyRef:
    """Where a study is kept for as long as the test runs."""
    return StudyRef("memory://", name, InMemoryStorage())


def trial(number: int, value: float | None, steps: int = 60, cost: float | None = None, **attrs: Any) -> FrozenTrial:
    """A trial that took 5 seconds of training, 8 in all; value None = pruned at `steps`, or diverged with fault=...

    Its curve falls from 1000 to its value in points 20 steps apart. With `cost` it is one of two objectives, whose
    curve is an attribute.
    """
    values = {**START, **{key: attrs.pop(key) for key in START if key in attrs}}
    end = 400.0 if value is None else value
    curve = {step: end + (1000 - end) * (1 - step / steps) for step in range(20, steps + 1, 20)}
    if cost is not None:
        attrs["curve"] = [list(point) for point in curve.items()]
    made = create_trial(
        state=TrialState.PRUNED if value is None else TrialState.COMPLETE,
        values=None if value is None else [value] if cost is None else [value, cost],
        params=values,
        distributions=DISTRIBUTIONS,
        user_attrs={"steps": steps, "seconds": 5.0, **attrs},
        intermediate_values=curve if cost is None else None,
    )
    made.number = number
    made.datetime_start, made.datetime_complete = BEGIN, BEGIN + timedelta(seconds=8)
    return made


def study(
    trials: Sequence[FrozenTrial], finalists: Sequence[Finalist], name: str = "dcgan", **settings: Any
) -> StudyResults:
    """StudyResults of trials of 60 steps, and finals of 100."""
    made = {"space": SPACE, "model": "dcgan", "recipe": RECIPE, "data_sha256": "d" * 64, "sampler": "tpe",
            "pruner": "median", "seed": 100, "steps": 60, "score_every": 20, "samples": 50,
            "extractor": "efficientnet_lite0", "weights": "auto", **settings}  # fmt: skip
    seeds = sorted({seed for finalist in finalists for seed in (*finalist.seeds, *finalist.failed)})
    budget = {"final_seeds": seeds, "train": {"steps": 100}, "samples": 500, "finalists": []}
    finals = [trial(i, v, 100) for i, v in enumerate(v for finalist in finalists for v in finalist.finals)]
    return StudyResults(name, str(made["model"]), tuple(trials), tuple(finalists), 60, made, budget, tuple(finals))


def finalist(
    number: int,
    proxy: float | None,
    finals: Sequence[float],
    failed: Sequence[int] = (),
    costs: Sequence[float] = (),
    **values: Any,
) -> Finalist:
    """A finalist whose final seeds are 101, 102, .., those that failed last."""
    values = {**START, **values}
    seeds = tuple(range(101, 101 + len(finals)))
    return Finalist(number, values, proxy, tuple(finals), seeds, tuple(failed), tuple(costs))


def lively(count: int = 30, name: str = "dcgan", shift: float = 0.0) -> StudyResults:
    """A study with all that can happen: complete, pruned and diverged trials, a winner that is not the study's best."""
    draws = np.random.default_rng(3)
    trials = [trial(0, 300.0 + shift)]
    for number in range(1, count):
        values: Mapping[str, Any] = {
            "lr_g": float(10 ** draws.uniform(-4, -2)),
            "beta1": float(draws.choice([0.0, 0.5])),
            "n_critic": int(draws.integers(1, 4)),
        }
        away = abs(np.log10(values["lr_g"]) + 3) + 0.4 * (values["beta1"] > 0)
        value = float(200 + shift + 150 * away + draws.normal(0, 8))
        if number % 9 == 4:
            trials.append(trial(number, None, 20, fault="the loss of D is nan at step 37", **values))
        elif away > 0.7:
            trials.append(trial(number, None, 20 if number % 2 else 40, **values))
        else:
            trials.append(trial(number, value, **values))
    done = sorted((t for t in trials[1:] if t.value is not None), key=lambda t: t.value)
    finals = [(180.0, 186.0, 190.0), (170.0, 176.0, 175.0), (210.0, 214.0)]
    finalists = [finalist(0, 300.0 + shift, (250.0, 262.0, 244.0))] + [
        finalist(t.number, t.value, [v + shift for v in own], (103,) if len(own) < 3 else (), **t.params)
        for t, own in zip(done, finals, strict=False)
    ]
    return study(trials, finalists, name, model=name)


def weighed(against: str = "images") -> StudyResults:
    """A study of distance and cost: by hand 200 at 600, 150 at 1200 and 120 at 1800 images are its front.

    Its steps are 60 and its batch size is 10, so a trial costs 600 images for each update of D; in seconds a hundredth.
    """
    points = [(300.0, 1), (200.0, 1), (150.0, 2), (180.0, 2), (120.0, 3), (150.0, 3), (260.0, 1), (200.5, 2)]
    unit = 600.0 if against == "images" else 6.0
    trials = [trial(i, v, cost=n * unit, n_critic=n, lr_g=0.002 - 1e-4 * i) for i, (v, n) in enumerate(points)]
    trials.append(trial(8, None, 20, cost=0.0, fault="the loss of D is nan at step 20"))
    finals = {0: (250.0, 262.0, 244.0), 1: (170.0, 176.0, 175.0), 2: (140.0, 152.0, 149.0), 4: (141.0, 139.0, 170.0)}
    chosen = [finalist(n, points[n][0], own, costs=[1e3 * points[n][1]] * 3, **trials[n].params)
              for n, own in finals.items()]  # fmt: skip
    return study(trials, chosen, against=against, pruner="none", sampler="nsga2")
