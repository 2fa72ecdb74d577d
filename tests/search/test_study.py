"""Making a study: what two commands must agree on, what may change meanwhile, and the samplers."""

import json
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import QMCSampler

from pipeline.core.errors import PipelineError
from pipeline.search.study.results import load_results
from pipeline.search.study.storage import StudyRef
from pipeline.search.study.study import make_finals, make_sampler, make_study
from tests.studies import in_memory, study_params


def make(ref: StudyRef, trials: int = 3, **changes: Any) -> None:
    make_study(ref, study_params(**changes), "dcgan", "0" * 64, trials)


def forget(ref: StudyRef, key: str, *fields: str) -> None:
    """Make the record of a study one from before these fields existed."""
    settings = json.loads(ref.load().user_attrs["settings"])
    for field in fields:
        del settings[key][field]
    ref.load().set_user_attr("settings", json.dumps(settings))


def test_a_winner_that_was_written_to_params_changes_nothing_about_its_study() -> None:
    """What `--apply` changes are varied fields; the baseline stays the recipe that the study was made with."""
    ref = in_memory()
    make(ref)
    applied = {"models.dcgan.lr_g": 9e-3, "models.dcgan.n_critic": 3, "models.dcgan.beta1": 0.5}
    make(ref, 5, **applied)
    trials = ref.trials()
    assert len(trials) == 5
    assert trials[0].system_attrs["fixed_params"] == {
        "lr_g": 2e-3, "lr_d": 2e-3, "beta1": 0.0, "beta2": 0.9, "n_critic": 1,
    }  # fmt: skip
    trial = ref.load().ask(fixed_distributions={"lr_g": FloatDistribution(1e-4, 1e-2, log=True)})
    ref.load().tell(trial, 5.0)
    found = load_results(ref, make_finals(ref, study_params(**applied)), "dcgan")
    assert found.baseline.values == {"lr_g": 2e-3} and found.settings["recipe"]["n_critic"] == 1


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"models.dcgan.width_g": 32}, "recipe: width_g is 64 there, 32 here"),
        ({"models.dcgan.flip": True}, "recipe: flip is None there, True here"),
        ({"search.steps": 600}, "steps: 540 there, 600 here"),
        ({"train.precision": "bf16"}, "train: precision is fp32 there, bf16 here"),
        ({"train.rollbacks": 3}, "train: rollbacks is 0 there, 3 here"),
        ({"search.space": {"lr_g": {"low": 1e-4, "high": 1e-2, "log": True}}},
         "space: lr_d is {'low': 0.0001, 'high': 0.01, 'log': True} there, None here"),
    ],
)  # fmt: skip
def test_another_recipe_space_or_budget_is_another_study(change: dict[str, Any], difference: str) -> None:
    ref = in_memory()
    make(ref)
    with pytest.raises(PipelineError) as caught:
        make(ref, 4, **change)
    assert str(caught.value) == (
        f"memory:// holds a study 's' with another {difference}; change that back to continue it, or start another "
        "with --study NAME"
    )
    assert len(ref.trials()) == 3


def test_a_field_that_a_later_version_adds_does_not_end_a_study_while_it_is_off() -> None:
    ref = in_memory()
    make(ref)
    forget(ref, "recipe", "flip", "augment", "clip", "augment_strength")
    make(ref, 4)
    assert len(ref.trials()) == 4
    with pytest.raises(PipelineError, match="another recipe: flip is None there, True here"):
        make(ref, 5, **{"models.dcgan.flip": True})


def test_what_does_not_shape_a_trial_and_what_was_not_noted_end_no_study() -> None:
    ref = in_memory()
    make(ref)
    make(ref, 4, **{"train.steps": 99, "train.rollback_lr": 0.1, "generate.weights": "raw"})
    settings = json.loads(ref.load().user_attrs["settings"])
    ref.load().set_user_attr("settings", json.dumps({key: settings[key] for key in settings if key != "train"}))
    make(ref, 5, **{"train.precision": "bf16"})
    assert len(ref.trials()) == 5


def test_other_finals_need_no_other_study() -> None:
    ref = in_memory()
    make(ref, 1)
    ref.load().tell(ref.load().ask(), 5.0)
    finals = make_finals(ref, study_params())
    assert make_finals(ref, study_params()) == finals and len(finals.trials()) == 3
    make(ref, 2)
    assert make_finals(ref, study_params()) == finals, "a trial that waits is no finalist"
    longer = make_finals(ref, study_params(**{"train.steps": 99}))
    fewer = make_finals(ref, study_params(**{"search.final_seeds": [101]}))
    raw = make_finals(ref, study_params(**{"generate.weights": "raw"}))
    assert len({finals.name, longer.name, fewer.name, raw.name}) == 4
    assert [len(each.trials()) for each in (finals, longer, fewer, raw)] == [3, 3, 1, 3]
    assert load_results(ref, longer, "dcgan").budget["train"]["steps"] == 99


def test_each_trial_takes_its_own_point_of_the_sobol_sequence() -> None:
    """By a private method of Optuna's, which it must go on calling: else every trial would get the same point."""
    assert callable(QMCSampler._find_sample_id)
    search = study_params(**{"search.sampler": "qmc"}).search
    space = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}
    study = optuna.create_study()
    study.enqueue_trial({"x": 0.5, "y": 0.5})
    study.tell(study.ask(space), 1.0)

    def point(number: int) -> tuple[float, ...]:
        sampler = make_sampler(search, number)
        return tuple(sampler.sample_relative(study, study.trials[0], space).values())

    points = [point(number) for number in range(8)]
    assert points == [point(number) for number in range(8)]
    for axis in zip(*points, strict=True):
        assert sorted(int(8 * value) for value in axis) == list(range(8)), "a Sobol sequence: one in each eighth"
