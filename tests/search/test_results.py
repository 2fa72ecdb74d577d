"""What a study found, against arithmetic by hand."""

import json
import math
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState

from pipeline.params import Recipe
from pipeline.search.pages.comparison import comparison_verdict, rank_studies, unequal
from pipeline.search.pages.outputs import comparison_table, finals_table, trials_table, write_tables
from pipeline.search.study.mlflow_run import slug
from pipeline.search.study.results import StudyResults, gain_text, load_results
from pipeline.search.study.storage import StudyRef
from pipeline.search.study.trial_stats import state_of
from tests.studies import DISTRIBUTIONS, RECIPE, SPACE, START, finalist, in_memory, lively, study, trial

TRIALS = [trial(0, 100.0), trial(1, 50.0), trial(2, 80.0)]


def finals_of(*finalists: Any) -> StudyResults:
    return study(TRIALS, finalists)


# The winner.


def test_the_winner_has_the_lowest_mean_of_the_finals_not_of_the_study() -> None:
    found = finals_of(finalist(0, 100.0, (90, 94)), finalist(1, 50.0, (70, 80)), finalist(2, 80.0, (60, 88)))
    assert [f.trial for f in found.ranked] == [2, 1, 0]  # means 74, 75, 92
    assert found.winner.trial == 2 and found.winner.mean == 74 and found.best is TRIALS[1]


def test_a_finalist_that_diverged_with_a_seed_is_behind_one_that_did_not() -> None:
    found = finals_of(finalist(0, 100.0, (90, 94)), finalist(1, 50.0, (10,), (102,)))
    assert found.winner.trial == 0 and found.gain is None
    assert "the baseline is the winner" in gain_text(found)


def test_equal_means_leave_the_recipe_as_it_was() -> None:
    assert finals_of(finalist(0, 100.0, (90, 94)), finalist(1, 50.0, (94, 90))).winner.trial == 0


# Tuned against the baseline: variances 8 and 8, of the means 4 and 4; 64 / (16 + 16) = 2 degrees of freedom,
# whose quantile is 4.302653; the reach is that times the root of 8, 12.1697.


def test_better_with_its_interval() -> None:
    found = finals_of(finalist(0, 100.0, (70, 74)), finalist(1, 50.0, (40, 44)))
    gain = found.gain
    assert gain is not None and gain.gap == 30 and gain.ratio == pytest.approx(42 / 72) and gain.certain
    assert gain.interval == pytest.approx((17.8303, 42.1697), abs=1e-4)
    assert gain_text(found) == "trial 1 against the baseline: better by 17.83 to 42.17 (95% interval)"


def test_within_noise() -> None:
    found = finals_of(finalist(0, 100.0, (50, 54)), finalist(1, 50.0, (40, 44)))
    assert found.gain is not None and found.gain.gap == 10 and not found.gain.certain
    assert gain_text(found) == "trial 1 against the baseline: within noise (-2.17 to 22.17, 95% interval)"


def test_one_final_seed_has_no_interval() -> None:
    found = finals_of(finalist(0, 100.0, (70,)), finalist(1, 50.0, (40,)))
    assert found.gain is not None and found.gain.interval is None and not found.gain.certain
    assert gain_text(found).endswith("better by 30.00; one final seed says nothing about noise")
    assert found.winner.interval is None and "one seed" in found.summary()


def test_only_the_start_is_a_finalist() -> None:
    found = study([trial(0, 100.0)], [finalist(0, 100.0, (90, 94))])
    assert found.winner is found.baseline and found.gain is None
    bias = found.selection_bias
    assert bias is not None and (bias.count, bias.final_rank, bias.spearman) == (1, 1, None)
    assert bias.ratio_in_study is None and bias.retained_gain is None


def test_every_final_of_one_finalist_diverged() -> None:
    found = finals_of(finalist(0, 100.0, (90, 94)), finalist(1, 50.0, (), (101, 102)), finalist(2, 80.0, (60, 70)))
    assert [f.trial for f in found.ranked] == [2, 0, 1] and found.finalists[1].mean == math.inf
    bias = found.selection_bias  # 50 80 100 in the study; in the finals the first is last: places 3 1 2
    assert (
        bias is not None
        and bias.best.trial == 1
        and bias.final_rank == 3
        and bias.ratio_in_finals is None
        and bias.retained_gain is None
    )
    assert bias.spearman == pytest.approx(1 - 6 * (4 + 1 + 1) / 24)
    assert "failed" in found.summary() and "inf" not in found.summary()
    rows = finals_table(found)
    assert rows["value"].isna().sum() == 2 and rows["mean"].isna().sum() == 2


def test_every_final_of_all_diverged() -> None:
    found = finals_of(finalist(0, 100.0, (), (101,)), finalist(1, 50.0, (), (101,)), finalist(2, 80.0, (), (101,)))
    assert gain_text(found) == "every finalist failed with every final seed: there is no winner"
    assert found.gain is None and found.selection_bias is not None and found.selection_bias.spearman is None
    assert "inf" not in found.summary()


def test_the_start_diverged_with_every_seed() -> None:
    found = finals_of(finalist(0, 100.0, (), (101, 102)), finalist(1, 50.0, (40, 44)))
    assert found.gain is None and "the baseline failed with every final seed" in gain_text(found)


def test_a_winner_that_is_worse_than_a_start_that_diverged_once_says_so() -> None:
    found = finals_of(finalist(0, 100.0, (40, 44), (103,)), finalist(1, 50.0, (70, 74, 72)))
    assert found.winner.trial == 1 and found.gain is not None and found.gain.gap == -30
    low, high = found.gain.interval or (0, 0)
    assert f"worse by {-high:.2f} to {-low:.2f}" in gain_text(found) and low < high < 0


# Selection bias.


def test_selection_bias_by_hand() -> None:
    """In the study 50 80 100, in the finals 90 60 100: one of three pairs changed, two ranks by one."""
    found = finals_of(finalist(0, 100.0, (99, 101)), finalist(1, 50.0, (89, 91)), finalist(2, 80.0, (59, 61)))
    bias = found.selection_bias
    assert bias is not None and bias.count == 3 and bias.best.trial == 1 and bias.final_rank == 2
    assert bias.spearman == pytest.approx(1 - 6 * 2 / (3 * 8)) and bias.kendall == pytest.approx(1 / 3)
    assert (bias.ratio_in_study, bias.ratio_in_finals) == (0.5, 0.9)
    assert bias.retained_gain == pytest.approx(0.2)  # half of the start's value was a tenth less in the finals


def test_an_advantage_that_became_a_disadvantage() -> None:
    bias = finals_of(finalist(0, 100.0, (99, 101)), finalist(1, 50.0, (119, 121))).selection_bias
    assert bias is not None and bias.retained_gain == pytest.approx(-0.4) and bias.final_rank == 2


def test_two_finalists_have_no_correlation() -> None:
    bias = finals_of(finalist(0, 100.0, (99, 101)), finalist(1, 50.0, (89, 91))).selection_bias
    assert (
        bias is not None and bias.spearman is None and bias.kendall is None and bias.retained_gain == pytest.approx(0.2)
    )


def test_a_start_without_a_value_has_no_ratio() -> None:
    bias = finals_of(finalist(0, None, (99, 101)), finalist(1, 50.0, (89, 91))).selection_bias
    assert bias is not None and bias.count == 1 and bias.ratio_in_study is None and bias.retained_gain is None
    assert finals_of(finalist(0, None, (99, 101))).selection_bias is None


def test_equal_values_in_the_study_have_no_order() -> None:
    same = [finalist(i, 50.0, (value, value + 2)) for i, value in enumerate((99, 89, 59))]
    bias = finals_of(*same).selection_bias
    assert bias is not None and bias.spearman is None


# Cost.


def test_cost_and_states() -> None:
    trials = [trial(0, 100.0), trial(1, None, 20), trial(2, None, 10, fault="nan"), trial(3, 90.0)]
    found = study(trials, [finalist(0, 100.0, (90,))])
    assert [state_of(t) for t in trials] == ["complete", "pruned", "diverged", "complete"]
    assert (len(found.complete), len(found.pruned), len(found.failed)) == (2, 1, 1)
    assert found.cost == (60 + 20 + 10 + 60) / 240 and "62% of the steps" in found.summary()


# From the storage.


def stored() -> tuple[StudyRef, StudyRef]:
    """A study of four trials, the first pruned and the last diverged, one marked as failed, and finals of two."""
    ref = in_memory("a study")
    main = optuna.create_study(storage=ref.storage, study_name=ref.name)
    settings = {"space": SPACE, "recipe": RECIPE, "steps": 60}
    main.set_user_attr("settings", json.dumps(settings))
    gone = trial(0, None, 20)
    gone.state = TrialState.FAIL
    main.add_trials([trial(0, None, 20), gone, trial(1, 50.0), trial(2, 80.0), trial(3, None, fault="nan")])
    finals = optuna.create_study(storage=ref.storage, study_name=ref.finals("x").name)
    chosen = [{"trial": 0, "values": START, "proxy": None}, {"trial": 2, "values": START, "proxy": 50.0}]
    budget = {"finalists": chosen, "final_seeds": [102, 101], "train": {"steps": 100}, "samples": 500}
    finals.set_user_attr("settings", json.dumps(budget))
    kinds = {"finalist": optuna.distributions.IntDistribution(0, 1),
             "seed": optuna.distributions.CategoricalDistribution([102, 101])}  # fmt: skip
    for index, seed, value in [(0, 102, 92.0), (1, 102, 42.0), (0, 101, 90.0), (1, 101, None)]:
        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        attrs = {"steps": 100, **({"fault": "nan"} if value is None else {})}
        values = {"finalist": index, "seed": seed}
        finals.add_trial(
            optuna.trial.create_trial(state=state, value=value, params=values, distributions=kinds, user_attrs=attrs)
        )
    return ref, ref.finals("x")


def test_results_from_the_storage() -> None:
    found = load_results(*stored(), "dcgan")
    states = [state_of(trial) for trial in found.trials]
    assert states == ["pruned", "complete", "complete", "diverged"]
    start, other = found.finalists
    assert start.proxy is None
    assert (start.finals, start.seeds, start.failed) == ((90.0, 92.0), (101, 102), ())
    assert (other.proxy, other.finals, other.seeds, other.failed) == (50.0, (42.0,), (102,), (101,))
    assert found.winner is start and len(found.finals) == 4 and found.steps == 60


# Tables.


def test_written_tables(tmp_path: Path) -> None:
    found = lively()
    paths = write_tables(found, tmp_path / "out")
    assert sorted(p.name for p in paths) == sorted(p.name for p in (tmp_path / "out").iterdir())  # no leftovers
    trials = pd.read_csv(tmp_path / "out/trials.csv")
    assert list(trials.columns) == ["number", "state", "value", "steps", "images", "seconds", "wall_seconds", "fault",
                                    "lr_g", "beta1", "n_critic"]  # fmt: skip
    assert trials["number"].tolist() == list(range(30)) and trials["value"].notna().sum() == len(found.complete)
    assert (trials["images"] == trials["steps"] * trials["n_critic"] * 10).all()
    assert (trials["wall_seconds"] == 8).all() and (trials["fault"].notna() == (trials["state"] == "diverged")).all()
    curves = pd.read_csv(tmp_path / "out/curves.csv")
    assert len(curves) == sum(len(t.intermediate_values) for t in found.trials)
    finals = pd.read_csv(tmp_path / "out/finals.csv")
    assert len(finals) == 12 and finals["rank"].tolist() == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    saved = json.loads((tmp_path / "out/result.json").read_text())
    assert saved["winner"]["trial"] == found.winner.trial and saved["cost"]["share_of_unpruned"] == found.cost
    assert saved["cost"]["seconds"] == 150 and saved["cost"]["seconds_per_trial"] == 5
    assert saved["cost"]["final_steps"] == 11 * 100 and saved["verdict"] == gain_text(found)


def test_tables_of_the_emptiest_study(tmp_path: Path) -> None:
    found = study([trial(0, None, 20)], [finalist(0, None, (), (101,))])
    write_tables(found, tmp_path)
    saved = json.loads((tmp_path / "result.json").read_text())
    assert saved["selection_bias"] is None and saved["gain"] is None and saved["finalists"][0]["mean"] is None
    assert trials_table(found)["value"].isna().all()


def test_no_field_of_a_recipe_is_a_column_of_its_own() -> None:
    own = {*trials_table(study(TRIALS, [])).columns, *finals_table(finals_of(finalist(0, 1.0, (1,)))).columns}
    assert own & set(Recipe.model_fields) == set(DISTRIBUTIONS)


@pytest.mark.parametrize("name", ["../up", "a/b", "a b", "", ".", "..", "ä", "x" * 300, "a.csv", "-", "a\x00b"])
def test_names_are_safe_for_file_systems(name: str) -> None:
    made = slug(name)
    assert made and made != name and "/" not in made and made[0] not in ".-" and len(made) < 120 and made.isascii()
    assert slug("sagan_2") == "sagan_2" and len({slug("a/b"), slug("a b"), slug("a-b")}) == 3


# Several models.


def test_comparison_ranks_untuned_and_tuned() -> None:
    """dcgan leads untuned (100 before 120), sagan tuned (60 before 90)."""
    first = study(TRIALS, [finalist(0, 1.0, (99, 101)), finalist(1, 1.0, (89, 91))], "dcgan", model="dcgan")
    second = study(TRIALS, [finalist(0, 1.0, (119, 121)), finalist(1, 1.0, (59, 61))], "sagan", model="sagan")
    entries = rank_studies([first, second])
    assert [(e.results.study, e.index, e.rank_untuned, e.rank_tuned) for e in entries] == [
        ("sagan", 1, 2, 1), ("dcgan", 0, 1, 2),
    ]  # fmt: skip
    assert unequal([first, second]) == []
    table = comparison_table(entries)
    assert table["tuned_mean"].tolist() == [60, 90] and table["untuned_mean"].tolist() == [120, 100]
    assert table["gain"].tolist() == [60, 10] and table["tuned_rank"].tolist() == [1, 2]
    assert table["steps"].tolist() == [180, 180]


def test_comparison_says_what_is_not_equal() -> None:
    first = study(TRIALS, [finalist(0, 1.0, (99, 101))])
    other = study(TRIALS[:2], [finalist(0, 1.0, (99, 101, 100))], sampler="gp")
    assert unequal([first, other]) == ["the number of trials", "the sampler", "the final seeds"]


def test_comparison_with_a_model_that_never_ends() -> None:
    first = study(TRIALS, [finalist(0, 1.0, (99, 101))], model="dcgan")
    broken = study(TRIALS, [finalist(0, 1.0, (), (101, 102))], model="sagan")
    entries = rank_studies([broken, first])
    assert [(e.results.settings["model"], e.rank_tuned) for e in entries] == [("dcgan", 1), ("sagan", None)]
    assert comparison_verdict(entries) == ["Fewer than two models have a winner, so there is nothing to compare."]
    assert comparison_table(entries)["tuned_mean"].isna().tolist() == [False, True]


def test_models_that_share_the_lowest_mean() -> None:
    both = [study(TRIALS, [finalist(0, 1.0, (99, 101))], name, model=name) for name in ("dcgan", "sagan")]
    assert comparison_verdict(rank_studies(both)) == [
        "Tuned, dcgan and sagan share the lowest mean (100.00 over 2 fresh seeds) of 2 models.",
        "Tuning changed no rank.",
    ]
