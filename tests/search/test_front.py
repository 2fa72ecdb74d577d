"""Studies of two objectives, distance and cost: the front, the finalists along it, each sampler, what is refused."""

import json
import re
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from ruamel.yaml import YAML

from pipeline.core.errors import PipelineError
from pipeline.params import Params, load
from pipeline.search import __main__ as command
from pipeline.search.__main__ import _apply, main
from pipeline.search.pages.charts import importances, study_charts
from pipeline.search.pages.outputs import as_json, curves_table, finals_table, trials_table
from pipeline.search.pages.page import render_study
from pipeline.search.study.mlflow_run import track_progress
from pipeline.search.study.results import load_results
from pipeline.search.study.space import problems
from pipeline.search.study.storage import StudyRef
from pipeline.search.study.study import NothingCompleted, choose_finalists, make_finals, make_study
from pipeline.search.study.trial_stats import cost_of, curve_of, distance_of, pareto_front, select_evenly
from pipeline.search.workers import worker
from pipeline.search.workers.trial import TrialResult
from tests.studies import ABOUT, DESCRIPTION, ROOT, in_memory, study, study_params, trial, weighed

PARAMS: Params = study_params(**{"search.against": "images", "search.pruner": "none"})


# The front.


def points(*values: tuple[float, float]) -> list[FrozenTrial]:
    """Trials of these distances and costs, with values of their own."""
    return [trial(i, d, cost=c, lr_g=1e-3 + 1e-5 * i) for i, (d, c) in enumerate(values)]


def numbers(trials: list[FrozenTrial]) -> list[int]:
    return [trial.number for trial in trials]


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ([], []),
        ([(5, 1)], [0]),
        ([(5, 1), (3, 2), (4, 2), (3, 3)], [0, 1]),  # ties: at the same cost, at the same distance
        ([(3, 3), (4, 2), (3, 2), (5, 1)], [3, 2]),  # in whichever order they came
        ([(1, 1), (2, 2), (3, 3)], [0]),
        ([(3, 1), (2, 2), (1, 3)], [0, 1, 2]),
        ([(2, 2), (2, 2), (3, 2), (2, 3)], [0, 1]),  # neither of two equal ones beats the other
        ([(2, 5), (9, 1), (5, 1), (2, 4), (3, 4), (4, 2)], [2, 5, 3]),
    ],
)
def test_the_front_of_points(values: list[tuple[float, float]], best: list[int]) -> None:
    trials = points(*values)
    assert numbers(pareto_front(trials)) == best
    found = optuna.create_study(directions=["minimize"] * 2)
    found.add_trials(trials)
    assert sorted(best) == [t.number for t in found.best_trials], "Optuna's own front"


def test_trials_without_both_values_are_on_no_front() -> None:
    diverged = trial(1, None, 20, cost=0.0, fault="nan")
    assert numbers(pareto_front([trial(0, 5.0), diverged, *points((7, 1))])) == [0]
    assert (distance_of(diverged), cost_of(diverged), cost_of(trial(0, 5.0))) == (None, None, None)
    assert distance_of(trial(0, None, 20)) is None
    (both,) = points((7, 1))
    assert (distance_of(both), cost_of(both)) == (7, 1)


@pytest.mark.parametrize(
    ("length", "count", "chosen"),
    [(7, 3, [0, 3, 6]), (7, 2, [0, 6]), (7, 1, [6]), (7, 4, [0, 2, 4, 6]), (3, 3, [0, 1, 2]), (2, 5, [0, 1]),
     (6, 3, [0, 2, 5]), (1, 1, [0]), (0, 3, [])],
)  # fmt: skip
def test_select_evenly(length: int, count: int, chosen: list[int]) -> None:
    assert numbers(select_evenly(points(*[(10 - i, i) for i in range(length)]), count)) == chosen


def test_whatever_is_chosen_along_a_front_is_in_order_and_has_both_ends() -> None:
    for length in range(2, 30):
        trials = points(*[(100 - i, i) for i in range(length)])
        for count in range(2, length + 1):
            chosen = numbers(select_evenly(trials, count))
            gaps = [b - a for a, b in pairwise(chosen)]
            assert len(chosen) == count and chosen[0] == 0 and chosen[-1] == length - 1
            assert min(gaps) >= 1 and max(gaps) - min(gaps) <= 1


# The finalists.


def stored(trials: list[FrozenTrial]) -> optuna.Study:
    made = optuna.create_study(directions=["minimize"] * 2)
    made.add_trials(trials)
    return made


def test_the_finalists_are_the_recipe_as_it_was_and_trials_of_the_front() -> None:
    trials = points((9, 9), (8, 1), (7, 2), (6, 3), (5, 4), (4, 5), (6, 6), (4.5, 7))
    for count, chosen in [(1, [0, 5]), (2, [0, 1, 5]), (3, [0, 1, 3, 5]), (9, [0, 1, 2, 3, 4, 5])]:
        assert numbers(choose_finalists(stored(trials), count)) == chosen


def test_a_recipe_that_is_on_the_front_is_a_finalist_once() -> None:
    trials = points((5, 1), (4, 2), (3, 3), (2, 4))
    trials[3].params = trials[0].params  # as the recipe was, tried again
    assert numbers(choose_finalists(stored(trials), 2)) == [0, 1, 2]


def test_the_finalists_of_one_objective_are_the_best() -> None:
    made = optuna.create_study()
    made.add_trials([trial(i, v, lr_g=1e-3 + i * 1e-5) for i, v in enumerate([5.0, 3.0, 9.0, 4.0])])
    assert [numbers(choose_finalists(made, n)) for n in (1, 2, 9)] == [[0, 1], [0, 1, 3], [0, 1, 3, 2]]


# Studies.


def distance(recipe: Any) -> float:
    """A stand-in: the more images, the better."""
    return 10 + abs(recipe.lr_g - 1e-3) * 1e3 + 5 / recipe.n_critic


def a_study(trials: int, ref: StudyRef | None = None, **changes: Any) -> tuple[StudyRef, Any]:
    params, ref = PARAMS.override(changes), ref or in_memory()
    make_study(ref, params, "dcgan", "0" * 64, trials)
    return ref, SimpleNamespace(params=params, description=DESCRIPTION, device="cpu")


def pretend(*args: Any, **named: Any) -> TrialResult:
    """Trains in no time; some values diverge, and the seconds are a hundredth of the images of a step."""
    _, params, model, seed, reported, *_ = args
    assert reported is None, "Optuna takes no reports of two objectives"
    recipe, steps = params.models[model], params.train.steps
    seconds = recipe.n_critic * recipe.batch_size / 100
    if recipe.beta1 == 0.5 and recipe.n_critic == 2:
        return TrialResult(None, 33, seconds, "diverged", "the loss of D is nan at step 33: lower lr_g")
    return TrialResult(distance(recipe) + seed / 1e6, steps, seconds, curve={steps // 2: 99.0, steps: distance(recipe)})


def run_study(ref: StudyRef, context: Any, monkeypatch: pytest.MonkeyPatch) -> list[FrozenTrial]:
    monkeypatch.setattr(worker, "run_trial", pretend)
    monkeypatch.setattr(worker, "IDLE", 0.01)
    worker.work(ref, context, "dcgan", lambda: False)
    return ref.storage.get_all_trials(ref.study_id)


@pytest.mark.parametrize(
    ("sampler", "against"),
    [("tpe", "images"), ("gp", "seconds"), ("nsga2", "images"), ("nsga2", "seconds"), ("qmc", "seconds"),
     ("random", "images")],
)  # fmt: skip
@pytest.mark.slow
def test_each_sampler_minimises_two_things(sampler: str, against: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ref, context = a_study(14 if sampler == "gp" else 30, **{"search.sampler": sampler, "search.against": against})
    trials = run_study(ref, context, monkeypatch)
    assert ref.load().directions == [StudyDirection.MINIMIZE] * 2
    assert trials[0].params == {name: getattr(PARAMS.models["dcgan"], name) for name in trials[0].params}
    kinds = {t.state for t in trials}
    assert kinds <= {TrialState.COMPLETE, TrialState.PRUNED} and TrialState.COMPLETE in kinds
    for t in trials:
        if t.state == TrialState.PRUNED:
            assert t.user_attrs["fault"].startswith("the loss of D is nan") and t.values is None
            continue
        recipe = PARAMS.models["dcgan"].model_copy(update=t.params)
        images = 540 * recipe.n_critic * recipe.batch_size
        cost = {"images": images, "seconds": recipe.n_critic * recipe.batch_size / 100}[against]
        assert t.values == [distance(recipe) + 100 / 1e6, cost]
        assert not t.intermediate_values and curve_of(t) == {270: 99.0, 540: distance(recipe)}
    assert make_finals(ref, context.params).load().directions == [StudyDirection.MINIMIZE]


def test_a_study_and_its_finals_against_hand_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    ref, context = a_study(24, **{"search.sampler": "random"})
    run_study(ref, context, monkeypatch)
    finals = make_finals(ref, context.params)
    run_study(finals, context, monkeypatch)
    found = load_results(ref, finals, "dcgan")
    assert found.cost_objective == "images" and len(found.finalists) >= 3
    for each in found.finalists:
        n_critic = each.values["n_critic"]
        assert each.costs == (1500.0 * n_critic * 64,) * 3 and each.cost == 1500 * n_critic * 64
        recipe = PARAMS.models["dcgan"].model_copy(update=each.values)
        assert each.mean == pytest.approx(distance(recipe) + 102 / 1e6)
    on_front = {t.number for t in found.front}
    assert {each.trial for each in found.finalists[1:]} <= on_front
    assert found.front[0].number in {each.trial for each in found.finalists}
    assert found.winner.mean == min(each.mean for each in found.finalists)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_the_same_command_gives_the_same_study(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for _ in range(2):
        ref, context = a_study(20, **{"search.sampler": sampler})
        found.append([(t.params, t.values) for t in run_study(ref, context, monkeypatch)])
    assert found[0] == found[1]


def test_two_commands_must_agree_on_the_cost() -> None:
    ref, _ = a_study(3)
    with pytest.raises(PipelineError, match=r"holds a study 's' with another against: images there, seconds here; "):
        a_study(3, ref, **{"search.against": "seconds"})
    with pytest.raises(PipelineError, match=r"with another against: images there, None here; "):
        a_study(3, ref, **{"search.against": None})
    assert len(ref.storage.get_all_trials(ref.study_id)) == 3


def test_a_study_from_before_there_was_a_cost_goes_on() -> None:
    ref, _ = a_study(3, **{"search.against": None})
    old = json.loads(ref.load().user_attrs["settings"])
    assert old.pop("against") is None
    ref.load().set_user_attr("settings", json.dumps(old))
    a_study(5, ref, **{"search.against": None})
    assert len(ref.storage.get_all_trials(ref.study_id)) == 5


def test_a_study_of_another_number_of_objectives_is_not_taken_over() -> None:
    ref = in_memory()
    ref.storage.create_new_study([StudyDirection.MINIMIZE], "s")
    with pytest.raises(PipelineError, match="did not make: start another with --study NAME"):
        a_study(3, ref)


# What is refused.


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        ({}, []),
        ({"search.against": "seconds"}, []),
        ({"search.sampler": "nsga2"}, []),
        ({"search.against": None, "search.sampler": "nsga2", "search.pruner": "median"}, []),
        (
            {"search.pruner": "hyperband"},
            ["search.pruner: must be none with search.against: images, got hyperband: Optuna prunes by one objective"],
        ),
        (
            {"search.sampler": "cmaes", "search.against": "seconds"},
            ["search.sampler: must be tpe, gp, nsga2, qmc or random with search.against: seconds: cmaes minimises one"],
        ),
        (
            {"search.space": {"lr_g": {"low": 1e-4, "high": 1e-2, "log": True, "step": None, "choices": None}}},
            ["search.against: images needs n_critic or batch_size in dcgan's space, or all trials cost the same"],
        ),
        ({"search.sampler": "cmaes", "search.pruner": "median"}, ["search.pruner: must be", "search.sampler: must be"]),
    ],
)
def test_what_does_not_go_with_a_cost_is_one_sentence(changes: dict[str, Any], sentences: list[str]) -> None:
    found = list(problems(PARAMS.override(changes), "dcgan"))
    assert len(found) == len(sentences), found
    for fault, sentence in zip(found, sentences, strict=True):
        assert fault.startswith(sentence) and "\n" not in fault


def test_seconds_need_no_parameter_that_changes_the_images() -> None:
    space = {"lr_g": {"low": 1e-4, "high": 1e-2, "log": True, "step": None, "choices": None}}
    assert list(problems(PARAMS.override({"search.against": "seconds", "search.space": space}), "dcgan")) == []
    sizes = {"batch_size": {"low": None, "high": None, "log": None, "step": None, "choices": [16, 64]}}
    assert list(problems(PARAMS.override({"search.space": sizes}), "dcgan")) == []


# Another finalist than the winner.


def test_any_finalist_can_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text())
    comments = re.findall("#.*", path.read_text())
    found = weighed()
    assert found.winner.trial == 2
    for number, n_critic, rate in ((None, 2, 0.0018), (1, 1, 0.0019), (4, 3, 0.0016), (0, 1, 0.002)):
        _apply(found, number)
        written = load(path).models["dcgan"]
        assert written.n_critic == n_critic and written.lr_g == pytest.approx(rate)
        assert f"models.dcgan.n_critic={n_critic}" in capsys.readouterr().out
        own = YAML(typ="safe", pure=True).load(path)["models"]["dcgan"]
        assert own == load(path).differences("dcgan") and ("n_critic" in own) == (n_critic != 1), "only differences"
        assert re.findall("#.*", path.read_text()) == comments
    before = path.read_text()
    with pytest.raises(PipelineError) as caught:
        _apply(found, 7)
    assert str(caught.value) == "--apply-trial 7: not a finalist of study dcgan; choices: 0, 1, 2, 4"
    assert path.read_text() == before


def test_without_a_winner_nothing_is_written(tmp_path: Path) -> None:
    found = weighed()
    lost = tuple(replace(one, finals=(), failed=one.seeds, seeds=()) for one in found.finalists)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    with pytest.raises(PipelineError) as caught:
        _apply(replace(found, finalists=lost), None)
    assert str(caught.value) == (
        "study dcgan: every finalist failed with every final seed: there is no winner; params.yaml stays as it was"
    )
    assert (tmp_path / "params.yaml").read_text() == (ROOT / "params.yaml").read_text()


def test_a_study_in_which_nothing_was_completed_stops_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def tune(model: str, *_: object) -> str:
        if model == "gan":
            raise NothingCompleted("study gan: none of its 2 trials was completed")
        return model

    for name in ("_validate", "_prepare", "_validate_data", "stop_by_exception"):
        monkeypatch.setattr(command, name, lambda *_: None)
    monkeypatch.setattr(command, "load", lambda: PARAMS)
    monkeypatch.setattr(command, "stop_signals", list)
    monkeypatch.setattr(command, "_tune", tune)
    monkeypatch.setattr(command, "publish_comparison", " and ".join)
    with pytest.raises(SystemExit) as caught:
        main(["--models", "gan,dcgan,sagan", "--trials", "2"])
    said = capsys.readouterr()
    assert caught.value.code == 2 and said.out == "the models compared: see dcgan and sagan\n"
    assert said.err == "error: study gan: none of its 2 trials was completed\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--apply-trial", "x"], "argument --apply-trial: must be a trial's number, got x"),
        (["--apply-trial", "-1"], "argument --apply-trial: must be a trial's number, got -1"),
        (["--apply", "--apply-trial", "1"], "argument --apply-trial: not allowed with argument --apply"),
    ],
)
def test_wrong_numbers(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--model", "dcgan", "--trials", "2", *arguments])
    assert sentence in capsys.readouterr().err


# What is left of it.


def test_tables(tmp_path: Path) -> None:
    found = weighed()
    table = trials_table(found)
    assert table["pareto"].tolist() == [False, True, True, False, True, False, False, False, False]
    assert table["images"].tolist() == [600, 600, 1200, 1200, 1800, 1800, 600, 1200, 200]
    assert table["value"].tolist()[:8] == [300, 200, 150, 180, 120, 150, 260, 200.5] and pd.isna(table["value"][8])
    assert curves_table(found).groupby("number").size().tolist() == [3] * 8 + [1]
    finals = finals_table(found)
    assert finals.groupby("trial")["mean_images"].first().to_dict() == {0: 1000, 1: 1000, 2: 2000, 4: 3000}
    saved = as_json(found)
    assert saved["against"] == "images"
    assert [(p["trial"], p["distance"], p["cost"]) for p in saved["front"]] == [
        (1, 200, 600), (2, 150, 1200), (4, 120, 1800),
    ]  # fmt: skip
    assert [f["mean_cost"] for f in saved["finalists"]] == [2000, 3000, 1000, 1000]
    json.dumps(saved)
    alone = study([trial(0, 5.0)], [])
    assert "pareto" not in trials_table(alone) and alone.front == [] and alone.cost_objective is None


def test_the_summary_prints_the_front() -> None:
    lines = weighed().summary().splitlines()
    assert [line.split() for line in lines[1:5]] == [
        ["front", "distance", "images"], ["1", "200.00", "600"], ["2", "150.00", "1,200"], ["4", "120.00", "1,800"],
    ]  # fmt: skip
    assert lines[5].endswith("mean images  values")
    assert re.match(r" +2 +150\.00 +147\.00 +131\.49 to 162\.51 +2,000  lr_g=", lines[6]), lines[6]
    assert "front" not in study([trial(0, 5.0)], weighed().finalists).summary()


def test_the_front_is_drawn() -> None:
    drawn = study_charts(weighed(), "fd")["trials"]["Distance and cost"]
    others, best = drawn.data
    assert list(zip(best.x, best.y, strict=True)) == [(200, 600), (150, 1200), (120, 1800)]
    assert sorted(others.x) == [150, 180, 200.5, 260, 300]
    assert (drawn.layout.xaxis.title.text, drawn.layout.yaxis.title.text) == ("fd", "images")
    assert "Distance and cost" not in study_charts(study([trial(0, 5.0)], weighed().finalists), "fd")["trials"]


def test_the_finalists_are_drawn_against_their_cost() -> None:
    (drawn,) = study_charts(weighed(), "fd")["finals"]["Finals: distance and cost"].data
    places = dict(zip(drawn.text, zip(drawn.x, drawn.y, strict=True), strict=True))
    assert places.keys() == {"baseline", "trial 1", "trial 2", "trial 4"}
    assert places["trial 2"] == (2000, 147) and places["baseline"] == (1000, 252)
    below = drawn.error_y.arrayminus[list(drawn.text).index("trial 2")]
    assert 147 - below == pytest.approx(131.49, abs=0.01)  # the 95% interval of 131.49 to 162.51


def test_the_page_has_a_section_of_cost() -> None:
    def page(results: Any) -> str:
        return " ".join(re.sub(r"<[^>]+>", " ", render_study(results, ABOUT)).split())

    images, seconds, alone = (
        page(weighed()),
        page(weighed("seconds")),
        page(study([trial(0, 5.0)], weighed().finalists)),
    )
    assert all("The study minimised two things" in text for text in (images, seconds))
    assert "The study minimised two things" not in alone
    assert "The Pareto front has 3 trials" in images and "mean images" in images and "so repeatable" in images
    assert "differ from machine to machine" in seconds and "differ from machine to machine" not in images
    assert "No importances" not in images, "by the distance alone"


def test_importances_are_of_the_distance() -> None:
    trials = [
        trial(i, 100.0 + (i % 7), cost=1.0 - i / 50, lr_g=1e-4 + 1e-3 * (i % 7), n_critic=1 + i % 3) for i in range(42)
    ]
    shares = importances(study(trials, [], against="images"))
    assert shares is not None and max(shares, key=lambda name: shares[name]) == "lr_g"


def test_the_progress_of_two_objectives() -> None:
    logged: dict[tuple[str, int], float] = {}
    tracker: Any = SimpleNamespace(
        metrics=lambda step, values: logged.update({(k, step): v for k, v in values.items()})
    )
    track_progress(tracker, weighed().trials)
    assert [logged["best", step] for step in range(1, 10)] == [300, 200, 150, 150, 120, 120, 120, 120, 120]
    assert logged["cost/seconds", 9] == 45 and logged["trials/failed", 9] == 1 and logged["cost/steps", 9] == 500
