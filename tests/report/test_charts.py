"""Scales, ticks and labels of charts."""

from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.params import Params
from pipeline.report import read_results, render
from pipeline.report.charts import Line, line_chart, linear_ticks, log_ticks, short_numbers, spread_out
from pipeline.report.page import loss_chart


def test_ticks_are_round_numbers() -> None:
    assert linear_ticks(0, 96000, 5) == [0, 20000, 40000, 60000, 80000]
    assert log_ticks(40, 3000, 5) == [50, 100, 200, 500, 1000, 2000]
    assert log_ticks(0.5, 2e6, 5) == [1, 10, 100, 1000, 1e4, 1e5, 1e6]
    assert short_numbers([0, 20000, 40000]) == ["0", "20k", "40k"]
    assert short_numbers([-500, 5000]) == ["−500", "5,000"]


def test_names_at_line_ends_keep_apart_and_inside() -> None:
    assert spread_out([10, 11, 40], 5, 0, 50) == [8, 13, 40]
    assert spread_out([0, 0, 0], 5, 0, 50) == [0, 5, 10]
    assert spread_out([50, 50], 5, 0, 50) == [45, 50]
    lines = [Line([(0, 10), (1, 5 + k / 100)], f"m{k}", f"model{k}", f"model{k}") for k in range(8)]
    heights = [label.y for label in line_chart("t", "d", lines, "x", "y", log=True).labels]
    assert all(b - a >= 14.9 for a, b in pairwise(heights))


def test_a_chart_of_nothing_and_of_one_point_can_be_drawn() -> None:
    for points in ([], [(0.0, 5.0)], [(0.0, float("nan"))], [(1.0, 0.0), (2.0, -1.0)]):
        chart = line_chart("t", "d", [Line(points, "m0", "a", "a")], "x", "y", log=True)
        assert all(0 <= tick.position <= chart.height for tick in chart.y_ticks)


def test_chart_places_its_points_on_its_scales() -> None:
    chart = line_chart("t", "d", [Line([(0, 1), (10, 100)], "m0", "a")], "x", "y", log=True)
    (x0, y0), (x1, y1) = (tuple(map(float, pair.split(","))) for pair in chart.paths[0].d[1:].split())
    assert (x0, x1) == (chart.left, chart.right)
    middle = next(tick.position for tick in chart.y_ticks if tick.text == "10")
    assert middle == pytest.approx((y0 + y1) / 2, abs=0.2)


def test_penalties_are_drawn_beside_the_losses_and_need_not_be_there(three: Params) -> None:
    path = Path("runs/sagan-0/history.csv")
    path.write_text(
        "step,images,loss/d,loss/g,penalty/gradient,penalty/path,distance\n"
        "0,0,,,,,1000\n50,3200,1.0,0.5,4.0,,\n100,6400,1.0,0.5,2.0,,400\n"
    )
    results = read_results(three)
    chart = loss_chart(results.models["sagan"])
    assert [line.name for line in chart.paths] == [
        "sagan-0, G", "sagan-0, D", "sagan-0, gradient", "sagan-0, path",
    ]  # fmt: skip
    (x0, y0), (x1, y1) = (tuple(map(float, pair.split(","))) for pair in chart.paths[2].d[1:].split())
    assert x1 == chart.right and x0 < x1 and y0 < y1  # it falls from 4 to 2: y points down
    assert chart.paths[2].css == "m1 penalty" and "gradient" in [label.text for label in chart.labels]
    assert [line.name for line in loss_chart(results.models["dcgan"]).paths] == ["dcgan-0, G", "dcgan-0, D"]
    assert "penalty" in render(results)
