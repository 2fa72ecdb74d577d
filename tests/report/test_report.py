"""The report: every number in it is compared with one worked out by hand from the files it was read from."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.core.errors import PipelineError
from pipeline.params import Params
from pipeline.report import leaderboard, read_results, write_report
from pipeline.report.figures import scripts
from pipeline.report.ranking import ranking_table
from pipeline.tracking.addresses import group_name
from tests.report.files import (
    METRIC,
    NAN,
    SHA,
    compare,
    make_data,
    make_experiment,
    page,
    words,
    write,
)

ROOT = Path(__file__).resolve().parents[2]
SCORE: dict[str, Any] = {METRIC: 3.0, "protocol": {"floor_images": 2, "real_split": "train"}, "sampling_error": {},
                         "not_available": {}, "collapsed": [], "best": {"step": 1, METRIC: 2.0}}  # fmt: skip


def test_leaderboard_ranks_by_value_and_ignores_stale_folders(three: Params) -> None:
    write_report(three, Path("reports"))
    table = pd.read_csv("reports/leaderboard.csv")
    assert list(table.columns) == [
        "rank", "model", "seed", "metric", "value", "sampling_error", "floor", "value_at_floor", "ratio_to_floor",
        "seeds", "mean", "std", "ci95_low", "ci95_high", "collapsed", "best_value", "best_step", "network", "loss",
        "steps", "images_seen", "parameters_g", "parameters_d", "network_evaluations",
        "protocol",
    ]  # fmt: skip
    assert table["sampling_error"].tolist() == [5, 5, 5] and table["seeds"].tolist() == [1, 1, 1]
    assert table["mean"].tolist() == [200, 300, 400]
    assert table[["std", "ci95_low", "ci95_high"]].isna().all(axis=None)
    assert table["best_value"].tolist() == [190, 290, 390] and table["best_step"].tolist() == [50, 50, 50]
    assert table["model"].tolist() == ["sagan", "resnet", "dcgan"]
    assert table["rank"].tolist() == [1, 2, 3]
    assert table["value"].tolist() == [200, 300, 400]
    assert table["value_at_floor"].tolist() == [225, 325, 425]
    assert table["ratio_to_floor"].tolist() == [4.5, 6.5, 8.5]
    assert table["floor"].tolist() == [50, 50, 50]
    assert table["network"].tolist() == ["sagan_net", "resnet_net", "dcgan_net"]
    assert table["images_seen"].tolist() == [6400] * 3 and table["parameters_g"].tolist() == [12345] * 3
    assert table["protocol"].nunique() == 1 and len(table["protocol"][0]) == 12


def test_a_flow_is_ranked_with_gans_and_its_evaluations_are_told() -> None:
    make_data()
    make_experiment("dcgan", 0, 300.0)
    make_experiment("resnet", 0, 100.0, sampler="midpoint, 10 steps", network_evaluations=20, training_precision="bf16")
    make_experiment("sagan", 0, 200.0, sampler="euler, 100 steps", network_evaluations=100)
    history = Path("runs/resnet-0/history.csv")  # without D there is no loss of it
    history.write_text("step,images,loss/g,distance\n0,0,,1000\n50,3200,0.9,\n100,6400,1.0,200\n")
    results = read_results(compare(["dcgan", "resnet", "sagan"], [0]))
    table = leaderboard(results)
    assert table[["rank", "model", "network_evaluations"]].values.tolist() == [
        [1, "resnet", 20], [2, "sagan", 100], [3, "dcgan", 1],
    ]  # fmt: skip
    assert table["protocol"].nunique() == 1 and "loss/d" not in results.models["resnet"][0].curve
    shown = ranking_table(results, results.groups[0])
    place = shown["columns"].index("evaluations an image")
    assert [row["cells"][place] for row in shown["rows"]] == ["20", "100", "1"]
    text = words(page(compare(["dcgan", "resnet", "sagan"], [0])))
    assert "evaluations an image" in text and "protocols, which differ" not in text


def test_models_are_ranked_by_their_mean_and_not_by_their_best_seed(seeds: Params) -> None:
    table = leaderboard(read_results(seeds))
    assert table[["rank", "model", "seed", "value"]].values.tolist() == [
        [1, "sagan", 1, 110], [1, "sagan", 0, 120], [2, "dcgan", 0, 100], [2, "dcgan", 1, 140],
    ]  # fmt: skip
    text = words(page(seeds))
    lowest = f"with the lowest mean {METRIC} (115.0 ± 7.1 over 2 training seeds; 2.8 times the floor at "
    assert f"sagan is the best of 2 models, {lowest}" in text
    # 12.706 deviations of the mean, 28.28 / sqrt(2) = 20, reach 254.1 to either side
    row = "2 dcgan 120.0 ± 28.3 −134.1 to 374.1 5.0 145.0 ± 28.3 2.90 ± 0.57 110.0 ± 28.3 50 dcgan_net hinge"
    assert f"{row} 1,000 → 240 (4.2×)" in text
    # A seed's network and cost stand in its model's row.
    assert "seed 1 140.0 165.0 3.30 130.0 1,000 → 280 (3.6×) real test images 50.0 1.00" in text
    assert "One training seed" not in text


def test_leaderboard_holds_the_interval_of_each_model(seeds: Params) -> None:
    table = leaderboard(read_results(seeds))
    assert table["seeds"].tolist() == [2] * 4
    assert table["mean"].tolist() == [115, 115, 120, 120]
    assert table["std"].tolist() == pytest.approx([7.0710678] * 2 + [28.2842712] * 2, rel=1e-8)
    assert table["ci95_low"].tolist() == pytest.approx([115 - 63.531024] * 2 + [120 - 254.124095] * 2, abs=1e-5)
    assert table["ci95_high"].tolist() == pytest.approx([115 + 63.531024] * 2 + [120 + 254.124095] * 2, abs=1e-5)


def test_equal_means_share_a_rank() -> None:
    make_data()
    for model, value in [("a", 70.0), ("b", 70.0), ("c", 80.0)]:
        make_experiment(model, 0, value)
    params = compare(["a", "b", "c"], [0])
    assert leaderboard(read_results(params))["rank"].tolist() == [1, 1, 3]
    lowest = f"with the lowest {METRIC} (70.00; 1.9 times the floor at equal numbers of images)."
    assert f"a and b are the best of 3 models, {lowest}" in words(page(params))


def test_leaderboard_has_the_same_bytes_again_whatever_the_time_measured(three: Params) -> None:
    write_report(three, Path("reports"))
    before = Path("reports/leaderboard.csv").read_bytes()
    Path("runs/sagan-0/timing.csv").write_text("step,images,seconds,images_per_second\n100,6400,99,65\n")
    write_report(three, Path("reports"))
    assert Path("reports/leaderboard.csv").read_bytes() == before
    assert sorted(path.name for path in Path("reports").iterdir()) == ["leaderboard.csv", "report.html"]


def test_page_states_what_the_files_hold(three: Params) -> None:
    text = words(page(three))
    lowest = f"with the lowest {METRIC} (200.0; 4.5 times the floor at equal numbers of images)."
    assert f"sagan is the best of 3 models, {lowest}" in text
    assert "One training seed per model: nothing can be concluded about training variance." in text
    assert "This is not FID." in text
    row = "1 sagan 200.0 5.0 225.0 4.50 190.0 50 sagan_net hinge 1,000 → 400 (2.5×) 12,345 6,789 100 6,400 8.00 800"
    assert row in text and "95% interval of the mean" not in text
    assert "Checks before any score: identity: 1e-10; known value: as published." in text
    assert "Models are ranked by their final checkpoint." in text and "with other latents" in text
    assert "± sampling at N = 360 × floor" in text and "real test images 50.0 1.00" in text
    assert "“× floor” is the distance of 360 generated images divided by that of 360 test images" in text
    assert "1,280 dimensions" in text and "biased upwards" in text
    assert "dvc repro" in text and SHA in text and "stale" not in text


def test_fid_is_called_fid_and_enough_images_bring_no_warning() -> None:
    make_data(metric="fid")
    make_experiment("sagan", 0, 20.0, metric="fid", real_images=50000, generated_images=50000)
    floor = json.loads(Path("data/reference/floor.json").read_text())
    write(Path("data/reference/floor.json"), floor | {"train_images": 50000, "test_images": 10000})
    text = words(page(compare(["sagan"], [0])))
    assert "not FID" not in text and "rank-deficient" not in text
    assert (
        "sagan reaches a fid of 20.00; 0.9 times the floor at equal numbers of images; no other model was measured "
        "with the same protocol." in text
    )


def test_protocols_are_never_ranked_together(three: Params) -> None:
    make_experiment("sagan", 0, 200.0, generated_images=999)
    table = leaderboard(read_results(three))
    assert table[["rank", "model"]].values.tolist() == [[1, "resnet"], [2, "dcgan"], [1, "sagan"]]
    assert table["protocol"].nunique() == 2
    html = page(three)
    assert "measured with 2 protocols, which differ in generated_images" in words(html)
    assert html.count('aria-label="Ranking"') == 2
    assert html.count("real test images</th>") == 2
    row = r'<tr class="differs"><th[^>]*>generated_images</th><td><code>1437</code></td><td><code>999</code></td>'
    assert re.search(row, html)


def test_hostile_names_are_only_text() -> None:
    hostile = "<script>alert(1)</script>"
    make_data(classes=[hostile, '"><img src=x onerror=alert(1)>'])
    make_experiment("sagan", 0, 200.0, resize=hostile)
    html = page(compare(["sagan"], [0]))
    assert "<script>alert" not in html and "<img src=x" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 2


def test_page_fetches_nothing(seeds: Params) -> None:
    html = page(seeds)
    targets = re.findall(r'(?:src|srcset|href|action|poster)="([^"]*)"', html)
    assert targets and all(target.startswith(("data:", "#")) for target in targets)
    assert "http://" not in html and "https://" not in html
    assert "url(" not in html and "@import" not in html
    assert "default-src 'none'" in html and "connect-src" not in html and "script-src 'sha256-" in html
    anchors = {target[1:] for target in targets if target.startswith("#")}
    assert anchors <= set(re.findall(r'id="([^"]+)"', html))
    assert all('alt="' in image for image in re.findall(r"<img[^>]*>", html))


def test_page_links_to_the_models_in_mlflow(three: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    recipe = json.loads(Path("runs/sagan-0/generator.json").read_text())
    write(Path("runs/sagan-0/generator.json"), recipe | {"recipe": recipe["recipe"] | {"init_from": "x@1"}})
    names = [group_name(three, given, {"name": "digits", "image_shape": [1, 16, 16], "sha256": SHA})
             for given in (None, "x@1")]  # fmt: skip

    def links(params: Params) -> list[str]:
        write_report(params, Path("reports"))
        return re.findall(r'href="(http[^"]*)"', Path("reports/report.html").read_text().replace(scripts()[0], ""))

    assert links(three) == [f"http://127.0.0.1:5000/#/models/{name}" for name in names] and names[0] != names[1]
    text = words(Path("reports/report.html").read_text())
    assert f"The models and runs in MLflow: {names[0]} (while make ui runs on this machine), {names[1]} (while" in text
    assert "links to it; that of sagan-0, the best, has the alias best ." in text
    monkeypatch.setenv("MLFLOW_TRACKING_URI", 'https://me:se/c@ret@host/at/"?<')
    assert links(three) == [f"https://host/at/&#34;/#/models/{name}" for name in names]
    assert "(while" not in words(Path("reports/report.html").read_text())
    for off in ("runtime.tracking", "runtime.log_model"):
        assert links(three.override({off: False})) == []
    for model in ("dcgan", "sagan", "resnet"):
        make_experiment(model, 0, 900.0, scores={"collapsed": ["recall 0.001"]})
    links(three)
    assert "and links to it. " in words(Path("reports/report.html").read_text()), "no model is the best"


@pytest.mark.parametrize(
    "path",
    [
        "data/prepared/dataset.json",
        "data/prepared/train.npy",
        "data/reference/floor.json",
        "runs/sagan-0/history.csv",
        "runs/sagan-0/timing.csv",
        "runs/sagan-0/generator.json",
        "runs/sagan-0/grids",
        "samples/sagan-0/grid.png",
        "samples/sagan-0/progress.gif",
        "samples/sagan-0/final",
        "scores/sagan-0/record.json",
        "closest/sagan-0.png",
    ],
)
def test_a_missing_file_is_one_sentence_and_nothing_is_written(three: Params, path: str) -> None:
    place = Path(path)
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    with pytest.raises(PipelineError, match="run `dvc repro`") as caught:
        write_report(three, Path("reports"))
    assert path in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("reports").exists()


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("scores/sagan-0/record.json", '{"fid": 3}',
         f"lacks {METRIC}, protocol, sampling_error, not_available, collapsed, best"),
        ("scores/sagan-0/record.json", json.dumps(SCORE | {METRIC: NAN}), "finite"),
        ("scores/sagan-0/record.json", json.dumps(SCORE | {METRIC: None}), "finite"),
        ("scores/sagan-0/record.json", json.dumps(SCORE | {"precision": NAN}), "finite"),
        ("scores/sagan-0/record.json", json.dumps(SCORE | {"sampling_error": {METRIC: NAN}}), "finite"),
        ("scores/sagan-0/record.json", json.dumps(SCORE | {"best": {"step": 1, METRIC: NAN}}), "finite"),
        ("scores/sagan-0/record.json", json.dumps(SCORE | {"best": {METRIC: 1}}), "finite"),
        ("scores/sagan-0/record.json", json.dumps(SCORE | {"best": None}), "finite"),
        ("scores/sagan-0/record.json", json.dumps(SCORE | {"protocol": {"floor_images": 2}}),
         r"lacks protocol\.real_split"),
        ("scores/sagan-0/record.json", json.dumps(SCORE | {"protocol": None}), r"lacks protocol\.floor_images"),
        ("data/reference/floor.json", '{"metric": "fid"}',
         "lacks value, train_images, test_images, metrics, sampling_error"),
        ("scores/sagan-0/record.json", "[]", "lacks"),
        ("runs/sagan-0/history.csv", "step,images\n1,2\n", "needs the columns"),
        ("runs/sagan-0/history.csv", "", "needs the columns"),
        ("runs/sagan-0/history.csv", "step,images,loss/d,loss/g,distance\n0,0,x,,1\n", "not valid CSV"),
        ("samples/sagan-0/grid.png", "no picture", "not a picture"),
        ("data/prepared/train.npy", "no array", "damaged"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_one_sentence(three: Params, path: str, content: str, message: str) -> None:
    Path(path).write_text(content)
    with pytest.raises(PipelineError, match=message) as caught:
        write_report(three, Path("reports"))
    assert path in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_on_other_data_is_refused(three: Params) -> None:
    info = json.loads(Path("runs/sagan-0/generator.json").read_text())
    write(Path("runs/sagan-0/generator.json"), info | {"data_sha256": "e" * 64})
    with pytest.raises(PipelineError, match="trained on other data"):
        read_results(three)


def test_a_run_too_short_to_be_timed_or_scored_has_dashes(three: Params) -> None:
    Path("runs/sagan-0/timing.csv").write_text("\n")
    Path("runs/sagan-0/history.csv").write_text("step,images,loss/d,loss/g,distance\n0,0,,,\n")
    assert "1 sagan 200.0 5.0 225.0 4.50 190.0 50 sagan_net hinge – 12,345 6,789 100 6,400 – –" in words(page(three))


def test_the_best_steps_of_several_seeds_are_a_range(seeds: Params) -> None:
    make_experiment("sagan", 0, 120.0, scores={"best": {"step": 1250, METRIC: 100.0}})
    text = words(page(seeds))
    assert "100.0 ± 0.0 50–1,250 sagan_net" in text and "seed 0 120.0 145.0 2.90 100.0 1,250 1,000" in text
    assert leaderboard(read_results(seeds))["best_step"].tolist() == [50, 1250, 50, 50]


def test_a_floor_of_equally_many_images_stands_beside_the_values(three: Params) -> None:
    for model, value in [("dcgan", 400.0), ("sagan", 200.0), ("resnet", 300.0)]:
        make_experiment(model, 0, value, generated_images=360)
    text = words(page(three))
    assert "± sampling × floor" in text and "at N =" not in text
    assert "1 sagan 200.0 5.0 4.50 190.0" in text and "real test images 50.0 2.5 1.00" in text
    # With fewer samples than test images, the floor is that of a part of these, and floor.json's error is not its.
    for model, value in [("dcgan", 400.0), ("sagan", 200.0), ("resnet", 300.0)]:
        make_experiment(model, 0, value, generated_images=100, floor_images=100)
    assert "real test images 50.0 – 1.00" in words(page(three))


def test_a_floor_of_zero_is_one_sentence_and_no_ratio(three: Params) -> None:
    reason = "the floor is 0: to this extractor the held-out images are the training images"
    for model, value in [("dcgan", 400.0), ("sagan", 200.0), ("resnet", 300.0)]:
        make_experiment(model, 0, value, scores={"not_available": {"floor": reason}})
        score = json.loads(Path(f"scores/{model}-0/record.json").read_text())
        for key in ("floor", "ratio_to_floor", f"{METRIC}_at_floor"):
            del score[key]
        write(Path(f"scores/{model}-0/record.json"), score)
    text = words(page(three))
    assert f"sagan is the best of 3 models, with the lowest {METRIC} (200.0)." in text
    assert text.count(f"No model is compared with the floor: {reason}.") == 1
    assert "1 sagan 200.0 5.0 – – 190.0" in text and "real test images – –" in text
    assert "times the floor" not in text and "floor 50" not in page(three)  # and no line in the charts
    table = leaderboard(read_results(three))
    assert table[["floor", "value_at_floor", "ratio_to_floor"]].isna().all(axis=None)


def test_the_script_is_read_as_utf_8_in_any_locale() -> None:
    """In Latin 1 it would be other letters, and in ASCII none."""
    shown = "from pipeline.report.figures import scripts; print(ascii(scripts()[1]))"
    own = {**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", shown], env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ascii(scripts()[1]) + "\n"
    assert not scripts()[1].isascii()
