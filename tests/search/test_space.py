"""The space of a study: what is wrong with one is one sentence; what is right becomes Optuna's distributions."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from pipeline import check
from pipeline.core.errors import PipelineError
from pipeline.params import Params, load, save
from pipeline.search.__main__ import main
from pipeline.search.study.space import (
    current,
    data_problems,
    distributions,
    problems,
    space_of,
    suggest_values,
    with_values,
)
from pipeline.search.study.study import make_study
from tests.studies import ROOT, in_memory, study_params

SCHEDULE = {"start": 2e-3, "end": 1e-4, "shape": "cosine", "until": 0.5}


def params(space: dict[str, Any], **recipe: Any) -> Params:
    return study_params(**{"search.space": space, **{f"models.dcgan.{name}": own for name, own in recipe.items()}})


@pytest.mark.parametrize(
    ("name", "dimension", "sentence"),
    [
        ("lr", {"low": 1e-4, "high": 1e-2}, "lr: unknown field of a recipe; did you mean 'lr_g'? Choices: "),
        ("models.dcgan.lr", {"low": 1, "high": 2}, "lr: unknown field of a recipe; did you mean 'lr_g'? Choices: "),
        ("models.dcgam.lr_g", {"low": 1e-4, "high": 1e-2}, "models.dcgam.lr_g: write a field of a recipe, or models."),
        ("train.steps", {"low": 1, "high": 2}, "train.steps: write a field of a recipe, or models.<recipe>.<field>"),
        ("models.dcgan", {"low": 1, "high": 2}, "models.dcgan: write a field of a recipe, or models.<recipe>.<field>"),
        ("lr_g", {"low": 0.0, "high": 1e-2, "log": True}, "lr_g: low must be above 0 with log: true, got 0.0"),
        ("lr_g", {"low": -1.0, "high": 1e-2, "log": True}, "lr_g: low must be above 0 with log: true, got -1.0"),
        ("lr_g", {"low": 1e-2, "high": 1e-2}, "lr_g: low must be below high, got low 0.01, high 0.01"),
        ("lr_g", {"low": 1e-2, "high": 1e-4}, "lr_g: low must be below high, got low 0.01, high 0.0001"),
        ("lr_g", {"low": 1e-2}, "lr_g: needs low and high, or choices"),
        ("lr_g", {"high": 1e-2, "log": True}, "lr_g: needs low and high, or choices"),
        ("lr_g", {}, "lr_g: needs low and high, or choices"),
        ("lr_g", {"low": 1e-3, "high": 1e-2, "log": True, "step": 1e-3}, "lr_g: takes log or step, not both"),
        ("lr_g", {"low": 1e-3, "high": 3e-3, "step": 0.0}, "lr_g: step must be above 0 and at most high - low, got 0."),
        ("lr_g", {"low": 1e-3, "high": 3e-3, "step": -1e-3}, "lr_g: step must be above 0 and at most high - low"),
        ("lr_g", {"low": 1e-3, "high": 3e-3, "step": 3e-3}, "lr_g: step must be above 0 and at most high - low"),
        ("lr_g", {"low": 1e-3, "high": 4e-3, "step": 2e-3}, "lr_g: high must be low plus a whole number of steps, got"),
        (
            "lr_g",
            {"low": 1.5e-3, "high": 3.5e-3, "step": 1e-3},
            "lr_g: must include 0.002, the value in dcgan: the first",
        ),
        ("lr_g", {"low": 3e-3, "high": 1e-2}, "lr_g: must include 0.002, the value in dcgan: the first trial"),
        ("lr_g", {"choices": [1e-3, 4e-3]}, "lr_g: must include 0.002, the value in dcgan: the first trial"),
        ("lr_g", {"low": 1e-3, "high": 11.0}, "lr_g: must be <= 10.0, got 11.0"),
        ("lr_g", {"low": 0.0, "high": 1e-2}, "lr_g: must be > 0.0, got 0.0"),
        ("lr_g", {"choices": [2e-3, "fast"]}, "lr_g: must be a number, got 'fast'"),
        ("beta1", {"low": 0.0, "high": 1.0}, "beta1: must be < 1.0, got 1.0"),
        ("n_critic", {"low": 1.0, "high": 3}, "n_critic: takes whole numbers, got low 1.0, high 3, step None"),
        ("n_critic", {"low": 1, "high": 3.5}, "n_critic: takes whole numbers, got low 1, high 3.5, step None"),
        ("n_critic", {"low": 1, "high": 3, "step": 1.0}, "n_critic: takes whole numbers, got low 1, high 3, step 1.0"),
        ("n_critic", {"low": 0, "high": 3}, "n_critic: must be >= 1, got 0"),
        ("n_critic", {"low": 1, "high": 10**300}, "n_critic: must be <= 100, got "),
        ("n_critic", {"low": 1, "high": 4, "step": 2}, "n_critic: high must be low plus a whole number of steps, got"),
        ("n_critic", {"choices": [1, False]}, "n_critic: must be a whole number, got False"),
        ("lr_g", {"choices": [2e-3, 3e-3], "low": 1e-3}, "lr_g: has choices, so it takes no low, high, log or step"),
        ("lr_g", {"choices": [2e-3, 3e-3], "log": False}, "lr_g: has choices, so it takes no low, high, log or step"),
        ("lr_g", {"choices": [2e-3]}, "lr_g: must have at least two choices, none of them twice"),
        ("lr_g", {"choices": []}, "lr_g: must have at least two choices, none of them twice"),
        ("lr_g", {"choices": [2e-3, 2e-3, 3e-3]}, "lr_g: must have at least two choices, none of them twice"),
        ("beta1", {"choices": [0, 0.0]}, "beta1: must have at least two choices, none of them twice"),
        ("flip", {"low": 0, "high": 1}, "flip: is not a number, so it needs choices (its value is False)"),
        ("clip", {"low": 0.01, "high": 0.1}, "clip: is not a number, so it needs choices (its value is None)"),
        ("loss", {"low": 1, "high": 2}, "loss: is not a number, so it needs choices (its value is hinge)"),
        ("norm_d", {"choices": ["spectral", "layer"]}, "norm_d: unknown value 'layer'; Choices: batch, none, spectral"),
        ("loss", {"choices": ["hinge", "hinqe"]}, "loss: unknown name 'hinqe'; did you mean 'hinge'? Choices: "),
        ("optimiser", {"choices": ["adam", "sgd"]}, "optimiser: unknown name 'sgd'; Choices: adam, rmsprop"),
        ("ema_decay", {"choices": [0.99, None]}, "ema_decay: null leaves nothing to sample with generate.weights: ema"),
        ("augment", {"choices": ["a", "b"]}, "augment: cannot be varied: write another recipe with it"),
        ("network", {"choices": ["dcgan", "sagan"]}, "network: cannot be varied: write another recipe with it"),
        ("init_from", {"choices": [None, "a"]}, "init_from: cannot be varied: write another recipe with it"),
    ],
)
def test_what_is_wrong_with_a_dimension_is_one_sentence(name: str, dimension: Any, sentence: str) -> None:
    found = list(problems(params({name: dimension}), "dcgan"))
    assert len(found) == 1, found
    assert found[0].startswith(f"search.space.{sentence}"), found
    assert "\n" not in found[0]


def test_a_batch_needs_as_many_images() -> None:
    for dimension in ({"choices": [256, 64]}, {"low": 32, "high": 256}):
        given = params({"batch_size": dimension})
        assert list(data_problems(given, "dcgan", 256)) == []
        assert list(data_problems(given, "dcgan", 255)) == [
            "search.space.batch_size: must be at most the number of training images, 255, got 256"
        ]
    assert list(data_problems(params({"lr_g": {"low": 1e-4, "high": 1e-2}}), "dcgan", 1)) == []


def test_every_dimension_that_is_wrong_is_told() -> None:
    space = {"lr": {"low": 1, "high": 2}, "lr_g": {}, "beta1": {"choices": [0.0, 0.5]}, "lr_d": {"low": 2, "high": 1}}
    assert [fault.split(":")[0] for fault in problems(params(space), "dcgan")] == [
        "search.space.lr", "search.space.lr_g", "search.space.lr_d"]  # fmt: skip


def test_an_unknown_model_is_one_sentence() -> None:
    (fault,) = problems(params({"lr_g": {"low": 1e-3, "high": 1e-2}}), "dcgam")
    assert fault.startswith("--model dcgam: no such recipe; did you mean 'dcgan'? Choices: biggan, dcgan, ")


SOUND: dict[str, Any] = {
    "lr_g": {"low": 1e-4, "high": 1e-2, "log": True},
    "beta1": {"choices": [0, 0.5]},
    "beta2": {"low": 0.0, "high": 0.9, "step": 0.1},
    "n_critic": {"low": 1, "high": 3},
    "width_g": {"low": 16, "high": 64, "step": 16},
    "latent_dim": {"low": 1, "high": 128, "log": True},
    "clip": {"choices": [None, 0.1]},
    "flip": {"choices": [True, False]},
    "loss": {"choices": ["hinge", "wasserstein"]},
}


def test_distributions() -> None:
    given = params(SOUND, beta2=0.9)
    assert list(problems(given, "dcgan")) == []
    assert distributions(given, "dcgan") == {
        "lr_g": FloatDistribution(1e-4, 1e-2, log=True),
        "beta1": CategoricalDistribution((0, 0.5)),
        "beta2": FloatDistribution(0.0, 0.9, step=0.1),
        "n_critic": IntDistribution(1, 3),
        "width_g": IntDistribution(16, 64, step=16),
        "latent_dim": IntDistribution(1, 128, log=True),
        "clip": CategoricalDistribution((None, 0.1)),
        "flip": CategoricalDistribution((True, False)),
        "loss": CategoricalDistribution(("hinge", "wasserstein")),
    }


def test_values_that_are_drawn_make_recipes_and_the_first_trial_is_the_recipe() -> None:
    given = params(SOUND, beta2=0.9)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(current(given, "dcgan"))
    first = suggest_values(study.ask(), distributions(given, "dcgan"))
    assert with_values(given, "dcgan", first) == given
    seen = set()
    for _ in range(30):
        values = suggest_values(study.ask(), distributions(given, "dcgan"))
        recipe = with_values(given, "dcgan", values).models["dcgan"]
        assert {name: getattr(recipe, name) for name in SOUND} == values
        assert 1e-4 <= recipe.lr_g <= 1e-2 and recipe.n_critic in (1, 2, 3) and recipe.width_g % 16 == 0
        seen.add((recipe.loss, recipe.flip, recipe.clip))
    assert len(seen) > 4


def test_a_field_of_one_recipe_counts_for_that_recipe_only() -> None:
    space = {"lr_g": {"low": 1e-4, "high": 1e-2}, "models.sagan.lr_g": {"low": 2e-4, "high": 4e-4},
             "models.resnet.n_critic": {"low": 1, "high": 5}}  # fmt: skip
    given = params(space)
    assert {model: set(space_of(given, model)) for model in ("dcgan", "sagan", "resnet")} == {
        "dcgan": {"lr_g"}, "sagan": {"lr_g"}, "resnet": {"lr_g", "n_critic"}}  # fmt: skip
    assert distributions(given, "dcgan")["lr_g"] == FloatDistribution(1e-4, 1e-2)
    assert distributions(given, "sagan")["lr_g"] == FloatDistribution(2e-4, 4e-4)


@pytest.mark.parametrize(
    "path", [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))], ids=lambda p: p.stem
)
def test_the_space_of_params_yaml_and_of_the_presets_is_sound_for_what_they_compare(path: Path) -> None:
    given = load(path)
    assert [fault for model in given.compare.models for fault in problems(given, model)] == []


def test_a_schedule_is_no_value_that_a_study_can_try() -> None:
    sentence = (
        "search.space.lr_g: is a schedule in dcgan, but a study tries numbers only: give models.dcgan.lr_g a number, "
        "or leave it out of search.space"
    )
    for dimension in ({"low": 1e-4, "high": 1e-2}, {"choices": [1e-3, 2e-3]}):
        given = params({"lr_g": dimension, "lr_d": {"low": 1e-4, "high": 1e-2}}, lr_g=SCHEDULE)
        assert list(problems(given, "dcgan")) == [sentence]
        with pytest.raises(PipelineError) as caught:
            current(given, "dcgan")
        assert str(caught.value) == sentence and caught.value.field == "models.dcgan.lr_g"
    beside = params({"lr_d": {"low": 1e-4, "high": 1e-2}}, lr_g=SCHEDULE)
    assert list(problems(beside, "dcgan")) == [] and current(beside, "dcgan") == {"lr_d": 2e-3}
    make_study(in_memory(), beside, "dcgan", "0" * 64, 2)  # its record of the recipe holds the schedule
    tuned = with_values(given, "dcgan", {"lr_g": 1e-3}).models["dcgan"]
    assert tuned.lr_g == 1e-3, "a number in its place is a recipe like any other"


def test_values_of_a_study_are_sparse_like_all_others() -> None:
    given = params({"lr_g": {"low": 1e-4, "high": 1e-2}})
    shared = given.recipe.lr_g
    changed = with_values(given, "dcgan", {"lr_g": shared, "n_critic": 3})
    assert changed.differences("dcgan") == {
        name: value for name, value in given.differences("dcgan").items() if name != "lr_g"
    } | {"n_critic": 3}


def test_the_command_says_it_without_a_traceback(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace / "params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"))
    save({"search.space.lr_g.low": 0.0}, workplace / "params.yaml")
    for model, sentence in (
        ("dcgan", "search.space.lr_g: low must be above 0 with log: true, got 0.0\n"),
        ("dcgam", "--model dcgam: no such recipe; did you mean 'dcgan'? Choices: biggan, dcgan, "),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["--trials", "2", "--model", model])
        printed = capsys.readouterr().err
        assert caught.value.code == 2 and printed.count("\n") == 1
        assert printed.startswith(f"error: params.yaml: {sentence}")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "dcgan", "--trials", "0"], "argument --trials: must be a whole number above 0, got 0"),
        (["--model", "dcgan", "--trials", "x"], "argument --trials: must be a whole number above 0, got x"),
        (["--model", "dcgan", "--trials", "2", "--workers", "-1"], "argument --workers: must be a whole number above"),
        (["--model", "dcgan", "--trials", "2", "--study", "../x"], "--study: must be letters, digits, _ . and -, got"),
        (["--model", "dcgan", "--trials", "2", "--study", "a finals"], "--study: must be letters, digits, _ . and -"),
        (
            ["--models", "dcgan,sagan", "--trials", "2", "--study", "a"],
            "--study names one study: give one --model with",
        ),
        (["--models", "gan,sagan,gan", "--trials", "2"], "--models: must not name anything twice, got gan,sagan,gan"),
        (["--trials", "2"], "the following arguments are required: --model"),
    ],
)
def test_wrong_arguments(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"search.seed": 7, "compare.seeds": [3, 7]},
            "search.seed: must not be one of compare.seeds, which judge the winner",
        ),
        ({"search.seed": 101}, "search.seed: must not be one of search.final_seeds, which must be fresh, got 101"),
        ({"search.final_seeds": [1, 2, 1]}, "search.final_seeds: must not name anything twice, got [1, 2, 1]"),
        ({"search.score_every": 541}, "search.score_every: must be at most search.steps, 540, got 541"),
    ],
)
def test_seeds_and_steps_across_sections(changes: dict[str, Any], sentence: str) -> None:
    given = study_params()
    assert list(check.problems(given)) == []
    assert [fault[: len(sentence)] for fault in check.problems(given.override(changes))] == [sentence]
    with pytest.raises(PipelineError):
        check.validate(given.override(changes))
