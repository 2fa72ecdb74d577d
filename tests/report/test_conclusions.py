"""Which differences are called noise, and which results need caution."""

import json
from pathlib import Path

import pytest
from scipy import stats

from pipeline.params import Params
from pipeline.report import leaderboard, read_results
from pipeline.report.conclusions import ONE_SEED, best_run, cautions, conclusions
from pipeline.stages import report as stage
from tests.report.files import (
    METRIC,
    compare,
    make_data,
    make_experiment,
    page,
    words,
    write,
)


def test_one_seed_is_compared_with_sampling_noise() -> None:
    make_data()  # errors of 5 on both sides: noise up to 1.96 * sqrt(50) = 13.859
    for model, value in [("a", 200.0), ("b", 213.8), ("c", 214.0), ("d", 201.0)]:
        make_experiment(model, 0, value)
    text = words(page(compare(["a", "b", "c", "d"], [0])))
    close = "d (1.0, sampling noise up to 13.9) and b (13.8, sampling noise up to 13.9)"
    assert f"a's differences to {close} are within sampling noise." in text
    assert "a's difference to c (14.0, sampling noise up to 13.9) is beyond sampling noise." in text
    assert ONE_SEED in text


def test_an_unknown_sampling_error_is_said(three: Params) -> None:
    make_experiment("resnet", 0, 300.0, scores={"sampling_error": {}})
    text = words(page(three))
    reason = "is not compared with sampling noise, because the sampling error was not estimated"
    assert f"sagan's difference to resnet (100.0) {reason}." in text
    assert "sagan's difference to dcgan (200.0, sampling noise up to 13.9) is beyond sampling noise." in text
    assert "2 resnet 300.0 – 325.0 6.50" in text and ONE_SEED in text


def test_several_seeds_are_compared_with_their_own_noise(seeds: Params) -> None:
    for seed, value in [(0, 400.0), (1, 402.0)]:
        make_experiment("resnet", seed, value)
    text = words(page(seeds.override({"compare.models": ["dcgan", "sagan", "resnet"]})))
    low, high = stats.ttest_ind([100, 140], [120, 110], equal_var=False).confidence_interval(0.95)
    assert low < -100 and high > 100
    detail = f"(5.0, 95% interval −{-low:.1f} to {high:.1f})"
    assert f"sagan's difference to dcgan {detail} is within the noise of training seeds." in text
    low, high = stats.ttest_ind([400, 402], [120, 110], equal_var=False).confidence_interval(0.95)
    detail = f"(286.0, 95% interval {low:.1f} to {high:.1f})"
    assert f"sagan's difference to resnet {detail} is beyond the noise of training seeds." in text
    assert "sampling noise" not in text and ONE_SEED not in text


def test_a_single_seed_against_several_is_compared_by_sampling() -> None:
    make_data()
    for model, seed, value in [("a", 0, 100.0), ("a", 1, 120.0), ("b", 0, 150.0), ("b", 1, 160.0)]:
        make_experiment(model, seed, value, generated_images=999 if (model, seed) == ("b", 1) else 1437)
    text = words(page(compare(["a", "b"], [0, 1])))
    # The mean of two has an error of 5 / sqrt(2): 1.96 * sqrt(12.5 + 25) = 12.0025
    assert "a's difference to b (40.0, sampling noise up to 12.0) is beyond sampling noise." in text
    assert (
        "b reaches a fd_efficientnet_lite0 of 160.0; 3.7 times the floor at equal numbers of images; no other" in text
    )


def test_a_collapsed_model_and_a_diverged_training_are_not_averaged_in_silence() -> None:
    make_data()
    fallen = {"collapsed": ["precision 0.010", "coverage 0.002"]}
    for model, seed, scores in [("dcgan", 0, fallen), ("dcgan", 1, None), ("sagan", 0, None), ("sagan", 1, None)]:
        make_experiment(model, seed, 100.0 + seed, scores=scores)
    info = json.loads(Path("runs/sagan-1/generator.json").read_text())
    write(Path("runs/sagan-1/generator.json"), info | {"rollbacks": [{"fault": "x", "step": 5, "to": 3}] * 2})
    params = compare(["dcgan", "sagan"], [0, 1])
    said = [
        "dcgan has collapsed or learnt next to nothing: seed 0 (precision 0.010, coverage 0.002); its mean over seeds "
        "includes this.",
        "sagan diverged and was rolled back to an earlier step with lower learning rates: seed 1 (2 times).",
    ]
    assert cautions(read_results(params)) == said
    assert all(f"Caution. {sentence}" in words(page(params)) for sentence in said)
    told = leaderboard(read_results(params)).set_index(["model", "seed"])["collapsed"].to_dict()
    assert told == {
        ("dcgan", 0): "precision 0.010, coverage 0.002",
        ("dcgan", 1): "",
        ("sagan", 0): "",
        ("sagan", 1): "",
    }


def test_one_seed_says_so_in_fewer_words() -> None:
    make_data()
    make_experiment("dcgan", 0, 100.0, scores={"collapsed": ["pixel_std_ratio 0.001"]})
    make_experiment("sagan", 0, 100.0)
    found = cautions(read_results(compare(["dcgan", "sagan"], [0])))
    assert found == ["dcgan has collapsed or learnt next to nothing: pixel_std_ratio 0.001."]


NOTHING = {"collapsed": ["recall 0.000", "class_rarest 0.000"]}


def test_no_winner_is_named_among_models_that_have_learnt_nothing() -> None:
    make_data()
    for model, value in [("a", 100.0), ("b", 300.0), ("c", 400.0)]:
        make_experiment(model, 0, value, scores=NOTHING if model == "a" else None)
    params = compare(["a", "b", "c"], [0])
    text = words(page(params))
    value = "(300.0; 6.5 times the floor at equal numbers of images)"
    lowest = f"with the lowest {METRIC} {value}; a has collapsed or learnt next to nothing."
    assert f"b is the best of the 2 models that have learnt, {lowest}" in text
    assert "b's difference to c (100.0, sampling noise up to 13.9) is beyond sampling noise." in text
    assert "a's difference" not in text and "difference to a" not in text
    assert leaderboard(read_results(params))["model"].tolist() == ["a", "b", "c"]  # the ranking is by value alone
    make_experiment("c", 0, 400.0, scores=NOTHING)
    assert conclusions(read_results(params))[0] == (
        f"a and c have collapsed or learnt next to nothing; the only other model, b, reaches a {METRIC} of 300.0; "
        "6.5 times the floor at equal numbers of images."
    )
    make_experiment("b", 0, 300.0, scores=NOTHING)
    assert conclusions(read_results(params)) == [
        "No model is named the best: a, b and c have collapsed or learnt next to nothing.", ONE_SEED
    ]  # fmt: skip


def test_a_model_is_no_winner_if_half_of_its_seeds_have_learnt_nothing() -> None:
    make_data()
    for seed in (0, 1, 2):
        make_experiment("a", seed, 100.0 + seed, scores=NOTHING if seed == 0 else None)
        make_experiment("b", seed, 200.0 + seed)
    assert conclusions(read_results(compare(["a", "b"], [0, 1, 2])))[0].startswith("a is the best of 2 models, with")
    assert conclusions(read_results(compare(["a", "b"], [0, 1])))[0].startswith("a has collapsed or learnt next to")


def test_the_best_run_is_of_the_model_that_is_named_the_best() -> None:
    make_data()
    for seed in (0, 1, 2):
        make_experiment("a", seed, 100.0 + seed, scores=NOTHING if seed < 2 else None)
        make_experiment("b", seed, 200.0 + seed, scores=NOTHING if seed == 0 else None)

    def name(seeds: list[int]) -> str | None:
        run = best_run(read_results(compare(["a", "b"], seeds)))
        return run and run.name

    assert name([0, 1, 2]) == "b-1"  # most of a's seeds have learnt nothing, and b's first one
    assert name([1, 2]) == "b-1" and name([2]) == "a-2" and name([0]) is None


def test_each_ranking_has_a_view_in_mlflow_and_the_best_model_the_alias(
    three: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dcgan is measured by another protocol, so that it has a ranking of its own."""
    make_experiment("dcgan", 0, 400.0, generated_images=999)
    told: list[tuple[str, str]] = []

    class Heard:
        def __init__(self, folder: Path, experiment: str, name: str) -> None:
            assert (folder, experiment) == (Path(name), "")
            self.name = name

        def __enter__(self) -> "Heard":
            return self

        def __exit__(self, *_: object) -> None: ...

        def ranked_by(self, metric: str) -> None:
            told.append((self.name, metric))

        def best(self) -> None:
            told.append((self.name, "best"))

    monkeypatch.setattr(stage, "Tracker", Heard)
    monkeypatch.setattr(stage, "measured_run", lambda name, fingerprint: Path(name) if fingerprint == "f0" else None)
    results = read_results(three)
    stage._tell_mlflow(results, models=True)
    assert told == [("sagan-0", METRIC), ("sagan-0", "best"), ("dcgan-0", METRIC)]
    told.clear()
    stage._tell_mlflow(results, models=False)
    assert told == [("sagan-0", METRIC), ("dcgan-0", METRIC)]
    monkeypatch.setattr(stage, "measured_run", lambda name, fingerprint: None)
    stage._tell_mlflow(results, models=True)
    assert len(told) == 2


def test_another_order_by_the_kernel_distance_is_said() -> None:
    make_data()
    told = "By kd_efficientnet_lite0, which has no bias from the number of images, the order is different: "
    for kernels, sentences in [
        ((0.1, 0.2, 0.3), []),
        ((0.1, 0.2, 0.2), []),
        ((0.1, 0.3, 0.2), [told + "a (0.1000), c (0.2000) and b (0.3000)."]),
        ((0.3, 0.3, -0.001), [told + "c (\N{MINUS SIGN}0.001000), a (0.300000) and b (0.300000)."]),
    ]:
        for model, value, kernel in zip("abc", (100.0, 200.0, 300.0), kernels, strict=True):
            make_experiment(model, 0, value, scores={"kd_efficientnet_lite0": kernel})
        found = conclusions(read_results(compare(["a", "b", "c"], [0])))
        assert [sentence for sentence in found if sentence.startswith("By ")] == sentences
    for model in "abc":  # equal distances have no order that another could differ from
        make_experiment(model, 0, 100.0, scores={"kd_efficientnet_lite0": ord(model) * -1.0})
    assert not any("By kd" in sentence for sentence in conclusions(read_results(compare(["a", "b", "c"], [0]))))
    make_experiment("c", 0, 50.0)  # not measured, so not ordered
    assert not any("By kd" in sentence for sentence in conclusions(read_results(compare(["a", "b", "c"], [0]))))


def test_a_ranking_of_one_class_says_so() -> None:
    make_data(classes=["cat", "dog"])
    for model in "ab":
        make_experiment(model, 0, 100.0, labels="class 1", real_split="train, class 1")
    told = "All samples are of class 1: dog, and so are the real images that they are measured against."
    assert conclusions(read_results(compare(["a", "b"], [0])))[0] == told
    for model in "ab":
        make_experiment(model, 0, 100.0, labels="balanced")
    assert not any("of class" in sentence for sentence in conclusions(read_results(compare(["a", "b"], [0]))))
