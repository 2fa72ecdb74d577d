"""The tables of further metrics."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.metrics import METRICS
from pipeline.params import Params
from pipeline.report import leaderboard, read_results, render
from pipeline.report.metric_info import METRIC_INFO, in_order, metric_info
from pipeline.report.metrics_table import Cell, class_table, metrics_table, missing, nearest
from tests.report.files import (
    METRIC,
    NAN,
    compare,
    make_data,
    make_experiment,
    page,
    words,
    write,
)

EXTRA = {
    "zeta": 5.0, "flag": True, "copies": 0.0125, "precision": 0.75, "kd_efficientnet_lite0": 2.5,
    f"{METRIC}_class/0": 210.0, f"{METRIC}_class/10": 230.0, f"{METRIC}_class/2": 220.0, f"{METRIC}_class_mean": 220.0,
    "nearest_ratio": 0.5, "sampling_error": {METRIC: 5.0, "precision": 0.03},
    "not_available": {"inception_score": "needs Inception's class weights"},
}  # fmt: skip


def rows_of(params: Params) -> dict[str, Any]:
    results = read_results(params)
    return {row.key: row for row in metrics_table(results, results.groups[0])}


def test_further_metrics_are_shown_with_direction_error_floor_and_reason(three: Params) -> None:
    make_experiment("sagan", 0, 200.0, scores=EXTRA)
    lacking = {"inception_score": "no head", "prdc": "too few"}
    make_experiment("resnet", 0, 300.0, scores={"precision": 0.5, "not_available": lacking})
    make_experiment("dcgan", 0, 400.0, scores={"not_available": {"prdc": "too few"}})
    rows = rows_of(three)
    assert list(rows) == [
        "kd_efficientnet_lite0", "precision", "nearest_ratio", "copies", f"{METRIC}_class_mean", "zeta",
    ]  # fmt: skip
    precision = rows["precision"]  # models in the order of the ranking: sagan, resnet, dcgan
    assert precision.cells == (Cell("0.750", "±0.030"), Cell("0.500"), Cell("n/a", "too few"))
    assert (precision.title, precision.better, precision.floor) == ("precision", "↑ higher", Cell("0.900", "±0.020"))
    assert rows["kd_efficientnet_lite0"].better == "↓ lower" and rows["kd_efficientnet_lite0"].floor == Cell("–")
    assert rows["kd_efficientnet_lite0"].cells[0] == Cell("2.50")
    assert (rows["zeta"].title, rows["zeta"].better, rows["zeta"].cells[0].text) == ("zeta", "", "5.00")
    results = read_results(three)
    prdc = ["recall", "density", "coverage", "precision, k = 3", "recall, k = 3"]
    score = "needs Inception's class weights (sagan-0); no head (resnet-0); not measured (dcgan-0)"
    assert missing(results, results.groups[0]) == {
        score: ["inception score"], "not measured (sagan-0); too few (resnet-0 and dcgan-0)": prdc,
    }  # fmt: skip
    text = words(page(three))
    assert "precision ↑ higher 0.750 ±0.030 0.500 n/a too few 0.900 ±0.020" in text
    assert f"Not measured, and why inception score : {score} recall; density; coverage" in text
    assert (
        "High with low recall: little variety, or images so plain" in text and "Above that of real images" not in text
    )


def test_a_reason_of_all_models_is_said_once() -> None:
    make_data()
    for model in ("a", "b"):
        lacking = {"prdc": "too few", "new": "not yet"}
        scores = {"not_available": lacking, "copies": 0.01, "sampling_error": {"copies": 0.003}}
        make_experiment(model, 0, 70.0, scores=scores)
    params = compare(["a", "b"], [0])
    rows, results = rows_of(params), read_results(params)
    assert list(rows) == ["copies"] and rows["copies"].cells == (Cell("0.010", "±0.003"),) * 2
    prdc = ["precision", "recall", "density", "coverage", "precision, k = 3", "recall, k = 3"]
    assert missing(results, results.groups[0]) == {"too few": prdc, "not yet": ["new"]}
    told = "precision; recall; density; coverage; precision, k = 3; recall, k = 3 : too few new : not yet"
    assert words(page(params)).count(f"Not measured, and why {told}") == 1


def test_metrics_of_several_seeds_are_a_mean_and_a_deviation(seeds: Params) -> None:
    errors = {"sampling_error": {"precision": 0.03}}
    make_experiment("sagan", 0, 120.0, scores={"precision": 0.5, "recall": 0.25, **errors})
    make_experiment("sagan", 1, 110.0, scores={"precision": 0.7, "sampling_error": {"precision": 0.04}})
    rows = rows_of(seeds)
    # mean 0.6, deviation 0.2 / sqrt(2); errors' root mean square sqrt((9 + 16) / 2) / 100
    assert rows["precision"].cells[0] == Cell("0.600\xa0±\xa00.141", "±0.035")
    assert rows["recall"].cells[0] == Cell("0.250", "1 of 2 seeds")


def test_leaderboard_has_further_metrics_in_the_order_of_the_report(three: Params) -> None:
    make_experiment("sagan", 0, 200.0, scores=EXTRA)
    table = leaderboard(read_results(three))
    at = list(table.columns).index("protocol")
    assert list(table.columns)[at + 1 :] == [
        "kd_efficientnet_lite0", "precision", "nearest_ratio", "copies", f"{METRIC}_class_mean", "zeta",
    ]  # fmt: skip
    assert table["precision"].tolist() == pytest.approx([0.75, NAN, NAN], nan_ok=True)


def test_classes_are_named_and_in_order(three: Params) -> None:
    make_data(classes=[f"digit {number}" for number in range(5)])
    floor = json.loads(Path("data/reference/floor.json").read_text())
    floor["metrics"][f"{METRIC}_class/2"] = 88.0
    write(Path("data/reference/floor.json"), floor)
    make_experiment("sagan", 0, 200.0, scores=EXTRA)
    results = read_results(three)
    rows = class_table(results, results.groups[0])
    assert [row.title for row in rows] == ["0: digit 0", "2: digit 2", "10"]  # there are five names: label 10 has none
    assert [row.cells[0].text for row in rows] == ["210.0", "220.0", "230.0"]
    assert [row.floor for row in rows] == [Cell("–"), Cell("88.0"), Cell("–")]
    text = words(render(results))
    assert "Distance of single classes" in text and "2: digit 2 220.0 n/a not measured n/a not measured 88.0" in text


def test_all_real_test_images_are_not_shown_beside_samples_of_one_class(three: Params) -> None:
    for real_split, cell in [("train", Cell("0.900", "±0.020")), ("train, class 3", Cell("–"))]:
        for model, value in [("dcgan", 400.0), ("sagan", 200.0), ("resnet", 300.0)]:
            make_experiment(model, 0, value, scores={"precision": 0.5, "floor": 51.0}, real_split=real_split)
        assert rows_of(three)["precision"].floor == cell
        assert "real test images 51.0 1.00" in words(page(three))


def test_without_further_metrics_there_is_no_such_section(three: Params) -> None:
    html = page(three)
    assert 'id="metrics"' not in html and "#metrics" not in html


def test_each_protocol_has_its_own_metrics(three: Params) -> None:
    make_experiment("dcgan", 0, 400.0, scores={"precision": 0.25})
    make_experiment("sagan", 0, 200.0, scores={"precision": 0.5, f"{METRIC}_class/0": 70.0}, generated_images=999)
    results = read_results(three)
    html = render(results)
    assert html.count('aria-label="More metrics"') == 2 and html.count('aria-label="Distance of single classes"') == 1
    text, keys = words(html), [group.key for group in results.groups]
    assert f"Protocol {keys[0]} metric resnet dcgan real test images" in text
    assert f"Protocol {keys[1]} metric sagan real test images" in text
    assert f"Distance of single classes, protocol {keys[1]}" in text and "class sagan real test images 0 70.0" in text
    assert "precision ↑ higher n/a not measured 0.250 0.900" in text and "precision ↑ higher 0.500 0.900" in text


def test_nearest_training_images_are_shown_with_what_was_measured(three: Params) -> None:
    make_experiment("sagan", 0, 200.0, scores=EXTRA)
    make_experiment("dcgan", 0, 400.0, scores={"not_available": {"memorisation": "no held-out images"}})
    results = read_results(three)
    assert [nearest(runs[0]) for runs in results.models.values()] == [
        "n/a: no held-out images", "ratio 0.50, copies 0.013", "not measured",
    ]  # fmt: skip
    html = render(results)
    assert html.count("nearest to training images, above those") == 3
    assert "sagan 200.0 nearest training images ratio 0.50, copies 0.013" in words(html)


def test_every_meaning_says_what_is_better_and_who_measures_it() -> None:
    assert {meaning.measured_by for meaning in METRIC_INFO.values()} <= set(METRICS)
    directions = {"higher", "lower", "about 1", "about 0.01", "as real images", ""}
    assert {meaning.better for meaning in METRIC_INFO.values()} <= directions
    assert {"mind", "kid", "fid_infinity", "fid_class_mean"} <= set(metric_info("fid"))
    assert {"kd_x", "md_x", "fd_x_infinity", "fd_x_class_mean"} <= set(metric_info("fd_x"))
    assert in_order(["b", "recall", "a", "kid", "fid_class/1", "precision"], "fid") == [
        "kid", "precision", "recall", "a", "b",
    ]  # fmt: skip


def test_further_extractors_have_rows_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_data()
    scores = {
        "fd_net": 7.25, "kd_net": 0.5, "net/precision": 0.75, "net/floor": 3.0, "net/ratio_to_floor": 2.5,
        "fd_net_at_floor": 7.5, "precision": 0.5, "not_available": {"fd_absent": "the weights do not exist"},
        "further": {"net": {"metric": "fd_net"}},
    }  # fmt: skip
    make_experiment("dcgan", 0, 100, scores=scores)
    results = read_results(compare(["dcgan"], [0]))
    rows = {row.key: row for row in metrics_table(results, results.groups[0])}
    assert list(rows) == [
        "precision", "fd_net", "net/ratio_to_floor", "kd_net", "net/precision"
    ]  # fmt: skip
    assert (rows["fd_net"].title, rows["net/precision"].title) == ("distance, net", "precision, net")
    assert rows["net/precision"].cells[0].text == "0.750" and rows["net/ratio_to_floor"].cells[0].text == "2.50"
    assert missing(results, results.groups[0]) == {"the weights do not exist": ["fd_absent"]}
    assert results.groups[0].ranking[0].runs[0].value == 100
