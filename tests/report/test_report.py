"""The report: every number in it is compared with one worked out by hand from the files it was read from."""

import json
import re
import shutil
import statistics
import subprocess
from html import unescape
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from pipeline.core import provenance as provenance_module
from pipeline.core.errors import PipelineError
from pipeline.core.provenance import commit
from pipeline.metrics import METRICS
from pipeline.params import Params, load
from pipeline.report import leaderboard, read_results, render, write_report
from pipeline.report.charts import Line, line_chart, linear_ticks, log_ticks, short_numbers, spread_out
from pipeline.report.conclusions import ONE_SEED, cautions
from pipeline.report.formatting import decimals, digits, listed, mean_and_std, number
from pipeline.report.metric_info import METRIC_INFO, in_order, metric_info
from pipeline.report.metrics_table import Cell, class_table, metrics_table, nearest
from pipeline.report.uncertainty import mean_error, mean_interval, sampling_noise, typical_error, welch_interval

PARAMS = load(Path(__file__).resolve().parents[2] / "params.yaml")
METRIC = "fd_efficientnet_lite0"
PROTOCOL = {"extractor": "efficientnet_lite0", "quantisation": "uint8", "real_images": 1437, "generated_images": 1437}
SHA = "d" * 64
SCORE: dict[str, Any] = {METRIC: 3.0, "floor": 1, "ratio_to_floor": 1, "protocol": {}, "sampling_error": {},
                         "not_available": {}, "collapsed": [], "best": {"step": 1, METRIC: 2.0}}  # fmt: skip
NAN = float("nan")


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def save_images(folder: Path, frames: int = 2) -> None:
    """Grids of a run or of samples: noise, a different one each."""
    folder.mkdir(parents=True, exist_ok=True)
    for frame in range(frames):
        pixels = np.random.default_rng(frame).integers(0, 255, (34, 34), np.uint8)
        Image.fromarray(pixels).save(folder / f"{frame:08d}.png")


def make_data(classes: list[str] | None = None, images: np.ndarray | None = None, metric: str = METRIC) -> None:
    """data/ in the current folder: 120 grey images of 16 x 16, or `images`."""
    if images is None:
        images = np.random.default_rng(0).integers(0, 255, (120, 1, 16, 16), np.uint8)
    dataset = {"name": "digits", "train": len(images), "test": 30, "image_shape": list(images.shape[1:]),
               "skipped": {}, "classes": list("0123456789") if classes is None else classes, "sha256": SHA}  # fmt: skip
    write(Path("data/prepared/dataset.json"), dataset)
    np.save("data/prepared/train.npy", images)
    floor = {"metric": metric, "value": 50.0, "train_images": 1437, "test_images": 360, "data_sha256": SHA,
             "extractor": {"extractor": "efficientnet_lite0"}, "metrics": {metric: 50.0, "precision": 0.9},
             "sampling_error": {metric: 2.5, "precision": 0.02},
             "self_check": {"identity": 1e-10, "known_value": "as published"}}  # fmt: skip
    write(Path("data/reference/floor.json"), floor)
    np.save("data/reference/train_features.npy", np.zeros((4, 1280), np.float32))


def make_experiment(
    model: str, seed: int, value: float, metric: str = METRIC, scores: dict[str, Any] | None = None, **protocol: Any
) -> None:
    """runs/, samples/ and scores/ of one experiment whose distance falls from 1000 to twice `value`.

    Its sampling error is 5, and its best checkpoint is of step 50 and 10 better. `scores` go into metrics.json.
    """
    name = f"{model}-{seed}"
    run, samples = Path("runs") / name, Path("samples") / name
    recipe = {"network": f"{model}_net", "loss": "hinge", "width_g": 32, "lr_g": 2e-4, "ema_decay": None}
    info = {"model": model, "seed": seed, "recipe": recipe, "train": {}, "image_shape": [1, 16, 16], "n_classes": 10,
            "steps": 100, "images_seen": 6400, "parameters_g": 12345, "parameters_d": 6789,
            "curve": {"metric": metric, "samples": 500}, "rollbacks": [], "fingerprint": f"f{seed}",
            "data_sha256": SHA}  # fmt: skip
    write(run / "generator.json", info)
    (run / "history.csv").write_text(
        f"step,images,loss/d,loss/g,distance\n0,0,,,1000\n50,3200,1.2,0.9,\n100,6400,1.1,1.0,{2 * value}\n"
    )
    (run / "timing.csv").write_text("step,images,seconds,images_per_second\n50,3200,4,800\n100,6400,8,800\n")
    save_images(run / "grids")
    save_images(samples / "final", 10)
    frames = [Image.open(path) for path in sorted((run / "grids").glob("*.png"))]
    frames[0].save(samples / "grid.png")
    frames[0].save(samples / "progress.gif", save_all=True, append_images=frames[1:])
    best = {"step": 50, "selected_by": {"distance": 2 * value, "samples": 500}, metric: value - 10}
    score = {"model": model, "seed": seed, metric: value, "floor": 50.0, "ratio_to_floor": value / 50,
             "sampling_error": {metric: 5.0}, "not_available": {}, "collapsed": [], "best": best,
             "protocol": PROTOCOL | protocol}  # fmt: skip
    write(Path("scores") / name / "metrics.json", score | (scores or {}))
    frames[0].save(Path("scores") / name / "closest.png")


def compare(models: list[str], seeds: list[int]) -> Params:
    return PARAMS.override({"compare.models": models, "compare.seeds": seeds})


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def three() -> Params:
    """dcgan 400, sagan 200, resnet 300, one seed; a stale folder of another model lies beside them."""
    make_data()
    for model, value in [("dcgan", 400.0), ("sagan", 200.0), ("resnet", 300.0), ("stale", 1.0)]:
        make_experiment(model, 0, value)
    return compare(["dcgan", "sagan", "resnet"], [0])


@pytest.fixture
def seeds() -> Params:
    """dcgan 100 and 140, mean 120, deviation 28.28; sagan 110 and 120, mean 115, deviation 7.07."""
    make_data()
    for model, seed, value in [("dcgan", 0, 100.0), ("dcgan", 1, 140.0), ("sagan", 0, 120.0), ("sagan", 1, 110.0)]:
        make_experiment(model, seed, value)
    return compare(["dcgan", "sagan"], [0, 1])


def page(params: Params) -> str:
    return render(read_results(params))


def words(html: str) -> str:
    """The text of a page, blanks joined."""
    html = re.sub(r"<(style|svg).*?</\1>", "", html, flags=re.S).replace("<wbr>", "")
    return unescape(" ".join(re.sub(r"<[^>]+>", " ", html).split()))


def test_leaderboard_ranks_by_value_and_ignores_stale_folders(three: Params) -> None:
    write_report(three, Path("reports"))
    table = pd.read_csv("reports/leaderboard.csv")
    assert list(table.columns) == [
        "rank", "model", "seed", "metric", "value", "sampling_error", "floor", "ratio_to_floor", "seeds", "mean", "std",
        "ci95_low", "ci95_high", "collapsed", "best_value", "best_step", "network", "loss", "steps", "images_seen",
        "parameters_g", "parameters_d", "protocol",
    ]  # fmt: skip
    assert table["sampling_error"].tolist() == [5, 5, 5] and table["seeds"].tolist() == [1, 1, 1]
    assert table["mean"].tolist() == [200, 300, 400]
    assert table[["std", "ci95_low", "ci95_high"]].isna().all(axis=None)
    assert table["best_value"].tolist() == [190, 290, 390] and table["best_step"].tolist() == [50, 50, 50]
    assert table["model"].tolist() == ["sagan", "resnet", "dcgan"]
    assert table["rank"].tolist() == [1, 2, 3]
    assert table["value"].tolist() == [200, 300, 400]
    assert table["ratio_to_floor"].tolist() == [4, 6, 8]
    assert table["floor"].tolist() == [50, 50, 50]
    assert table["network"].tolist() == ["sagan_net", "resnet_net", "dcgan_net"]
    assert table["images_seen"].tolist() == [6400] * 3 and table["parameters_g"].tolist() == [12345] * 3
    assert table["protocol"].nunique() == 1 and len(table["protocol"][0]) == 12


def test_models_are_ranked_by_their_mean_and_not_by_their_best_seed(seeds: Params) -> None:
    table = leaderboard(read_results(seeds))
    assert table[["rank", "model", "seed", "value"]].values.tolist() == [
        [1, "sagan", 1, 110], [1, "sagan", 0, 120], [2, "dcgan", 0, 100], [2, "dcgan", 1, 140],
    ]  # fmt: skip
    text = words(page(seeds))
    assert f"sagan has the lowest mean {METRIC} (115.0 ± 7.1 over 2 training seeds, 2.3 times the floor)" in text
    # 12.706 deviations of the mean, 28.28 / sqrt(2) = 20, reach 254.1 to either side
    row = "2 dcgan 120.0 ± 28.3 −134.1 to 374.1 5.0 2.40 ± 0.57 110.0 ± 28.3 50 dcgan_net hinge 1,000 → 240 (4.2×)"
    assert row in text
    # A seed's network and cost stand in its model's row.
    assert "seed 1 140.0 2.80 130.0 1,000 → 280 (3.6×) real test images 50.0 2.5 1.00" in text
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
    assert f"a and b share the lowest {METRIC} (70.00, 1.4 times the floor) of 3 models." in words(page(params))


def test_leaderboard_has_the_same_bytes_again_whatever_the_time_measured(three: Params) -> None:
    write_report(three, Path("reports"))
    before = Path("reports/leaderboard.csv").read_bytes()
    Path("runs/sagan-0/timing.csv").write_text("step,images,seconds,images_per_second\n100,6400,99,65\n")
    write_report(three, Path("reports"))
    assert Path("reports/leaderboard.csv").read_bytes() == before
    assert sorted(path.name for path in Path("reports").iterdir()) == ["leaderboard.csv", "report.html"]


def test_page_states_what_the_files_hold(three: Params) -> None:
    text = words(page(three))
    assert f"sagan has the lowest {METRIC} (200.0, 4.0 times the floor) of 3 models." in text
    assert "One training seed per model: nothing can be concluded about training variance." in text
    assert "This is not FID." in text
    row = "1 sagan 200.0 5.0 4.00 190.0 50 sagan_net hinge 1,000 → 400 (2.5×) 12,345 6,789 100 6,400 8.00 800"
    assert row in text and "95% interval" not in text
    assert "Checks before any score: identity, 1e-10; known_value, as published." in text
    assert "Models are ranked by their final checkpoint." in text and "chosen by other latents" in text
    assert "real test images 50.0 2.5 1.00" in text
    assert "1,280 dimensions" in text and "biased upwards" in text
    assert "dvc repro" in text and SHA in text and "stale" not in text


def test_fid_is_called_fid_and_enough_images_bring_no_warning() -> None:
    make_data(metric="fid")
    make_experiment("sagan", 0, 20.0, metric="fid", real_images=50000, generated_images=50000)
    floor = json.loads(Path("data/reference/floor.json").read_text())
    write(Path("data/reference/floor.json"), floor | {"train_images": 50000, "test_images": 10000})
    text = words(page(compare(["sagan"], [0])))
    assert "not FID" not in text and "rank-deficient" not in text
    assert "sagan reaches a fid of 20.00, 0.4 times the floor; no other model was measured this way." in text


def test_protocols_are_never_ranked_together(three: Params) -> None:
    make_experiment("sagan", 0, 200.0, generated_images=999)
    table = leaderboard(read_results(three))
    assert table[["rank", "model"]].values.tolist() == [[1, "resnet"], [2, "dcgan"], [1, "sagan"]]
    assert table["protocol"].nunique() == 2
    html = page(three)
    assert "measured by 2 protocols, which differ in generated_images" in words(html)
    assert html.count('aria-label="Ranking"') == 2
    assert html.count("real test images</th>") == 2
    row = r'<tr class="differs"><th[^>]*>generated_images</th><td><code>1437</code></td><td><code>999</code></td>'
    assert re.search(row, html)


def test_hostile_names_are_only_text() -> None:
    hostile = "<script>alert(1)</script>"
    make_data(classes=[hostile, '"><img src=x onerror=alert(1)>'])
    make_experiment("sagan", 0, 200.0, resize=hostile)
    html = page(compare(["sagan"], [0]))
    assert "<script" not in html
    assert "<img src=x" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 2


def test_page_fetches_nothing(seeds: Params) -> None:
    html = page(seeds)
    targets = re.findall(r'(?:src|srcset|href|action|poster)="([^"]*)"', html)
    assert targets and all(target.startswith(("data:", "#")) for target in targets)
    assert "http://" not in html and "https://" not in html
    assert "url(" not in html and "@import" not in html and "<script" not in html
    assert "default-src 'none'" in html
    anchors = {target[1:] for target in targets if target.startswith("#")}
    assert anchors <= set(re.findall(r'id="([^"]+)"', html))
    assert all('alt="' in image for image in re.findall(r"<img[^>]*>", html))


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
        "scores/sagan-0/metrics.json",
        "scores/sagan-0/closest.png",
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
        ("scores/sagan-0/metrics.json", '{"fid": 3}',
         f"lacks {METRIC}, floor, ratio_to_floor, protocol, sampling_error, not_available, collapsed, best"),
        ("scores/sagan-0/metrics.json", json.dumps(SCORE | {METRIC: NAN}), "finite"),
        ("scores/sagan-0/metrics.json", json.dumps(SCORE | {METRIC: None}), "finite"),
        ("scores/sagan-0/metrics.json", json.dumps(SCORE | {"precision": NAN}), "finite"),
        ("scores/sagan-0/metrics.json", json.dumps(SCORE | {"sampling_error": {METRIC: NAN}}), "finite"),
        ("scores/sagan-0/metrics.json", json.dumps(SCORE | {"best": {"step": 1, METRIC: NAN}}), "finite"),
        ("scores/sagan-0/metrics.json", json.dumps(SCORE | {"best": {METRIC: 1}}), "finite"),
        ("scores/sagan-0/metrics.json", json.dumps(SCORE | {"best": None}), "finite"),
        ("data/reference/floor.json", '{"metric": "fid"}',
         "lacks value, train_images, test_images, metrics, sampling_error"),
        ("scores/sagan-0/metrics.json", "[]", "lacks"),
        ("runs/sagan-0/history.csv", "step,images\n1,2\n", "lacks columns"),
        ("runs/sagan-0/history.csv", "", "lacks columns"),
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
    assert "1 sagan 200.0 5.0 4.00 190.0 50 sagan_net hinge – 12,345 6,789 100 6,400 – –" in words(page(three))


# Uncertainty.


def test_interval_of_a_mean_by_hand() -> None:
    # n = 3: mean 2, s = 1, t = 4.302653, so 2 ± 4.302653 / sqrt(3)
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-6)
    # n = 2: mean 5, s / sqrt(2) = 1, t = 12.706205
    assert mean_interval([4.0, 6.0]) == pytest.approx((5 - 12.706205, 5 + 12.706205), abs=1e-6)
    assert mean_interval([7.0, 7.0, 7.0]) == (7, 7)
    assert mean_interval([7.0]) is None


def test_welch_interval_by_hand() -> None:
    # Both variances 1: se = sqrt(2 / 3), (2/3)² / (2 (1/3)² / 2) = 4 degrees of freedom, t = 2.776445
    assert welch_interval([1, 2, 3], [5, 4, 6]) == pytest.approx((3 - 2.266958, 3 + 2.266958), abs=1e-6)
    # One side does not vary: se = 1 / sqrt(3), 2 degrees of freedom, t = 4.302653
    assert welch_interval([1, 2, 3], [5, 5]) == pytest.approx((3 - 2.484138, 3 + 2.484138), abs=1e-6)
    assert welch_interval([5, 5], [1, 2, 3]) == pytest.approx((-3 - 2.484138, -3 + 2.484138), abs=1e-6)
    assert welch_interval([2, 2], [9, 9]) == (7, 7)


def test_welch_interval_equals_scipys() -> None:
    source = np.random.default_rng(0)
    for n, m in [(2, 2), (2, 7), (5, 3)]:
        a, b = source.normal(3, 1, n).tolist(), source.normal(5, 4, m).tolist()
        theirs = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
        assert welch_interval(a, b) == pytest.approx((theirs.low, theirs.high), rel=1e-9)


def test_sampling_errors_by_hand() -> None:
    assert mean_error([3.0, 4.0]) == 2.5  # sqrt(9 + 16) / 2
    assert typical_error([3.0, 4.0]) == pytest.approx(12.5**0.5, rel=1e-12)
    assert typical_error([6.0]) == mean_error([6.0]) == 6
    assert mean_error([3.0, None]) is mean_error([]) is typical_error([None]) is None
    assert sampling_noise([3.0], [4.0]) == pytest.approx(9.8, rel=1e-12)  # 1.96 * 5
    assert sampling_noise([3.0, 4.0], [6.0]) == pytest.approx(1.96 * 6.5, rel=1e-12)  # sqrt(2.5² + 6²) = 6.5
    assert sampling_noise([3.0], [None]) is sampling_noise([None], [4.0]) is None


# The verdict.


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
    assert "2 resnet 300.0 – 6.00" in text and ONE_SEED in text


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
    assert "b reaches a fd_efficientnet_lite0 of 160.0, 3.2 times the floor; no other model" in text


# More metrics.

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
    make_experiment("resnet", 0, 300.0, scores={"precision": 0.5, "not_available": {"inception_score": "no head"}})
    rows = rows_of(three)
    assert list(rows) == [
        "kd_efficientnet_lite0", "inception_score", "precision", "nearest_ratio", "copies", f"{METRIC}_class_mean",
        "zeta",
    ]  # fmt: skip
    precision = rows["precision"]  # models in the order of the ranking: sagan, resnet, dcgan
    assert precision.cells == (Cell("0.750", "±0.030"), Cell("0.500"), Cell("n/a", "not measured"))
    assert (precision.title, precision.better, precision.floor) == ("precision", "↑ higher", Cell("0.900", "±0.020"))
    assert rows["kd_efficientnet_lite0"].better == "↓ lower" and rows["kd_efficientnet_lite0"].floor == Cell("–")
    assert rows["kd_efficientnet_lite0"].cells[0] == Cell("2.50")
    assert (rows["zeta"].title, rows["zeta"].better, rows["zeta"].cells[0].text) == ("zeta", "", "5.00")
    score = rows["inception_score"]
    reasons = ["needs Inception's class weights", "no head", "not measured"]
    assert [cell.small for cell in score.cells] == reasons and score.reason == ""
    text = words(page(three))
    assert "precision ↑ higher 0.750 ±0.030 0.500 n/a not measured 0.900 ±0.020" in text
    assert "High where recall is low: few, safe images." in text and "Above that of real images" not in text


def test_a_reason_of_all_models_is_said_once() -> None:
    make_data()
    for model in ("a", "b"):
        lacking = {"prdc": "too few", "new": "not yet"}
        scores = {"not_available": lacking, "copies": 0.01, "sampling_error": {"copies": 0.003}}
        make_experiment(model, 0, 70.0, scores=scores)
    params = compare(["a", "b"], [0])
    rows = rows_of(params)
    copies = rows.pop("copies")  # what both have, and with the same error, is no reason
    assert copies.reason == "" and copies.cells == (Cell("0.010", "±0.003"),) * 2
    assert list(rows) == ["precision", "recall", "density", "coverage", "precision_k3", "recall_k3", "new"]
    assert [row.reason for row in rows.values()] == ["too few"] * 6 + ["not yet"]
    html = page(params)
    assert html.count('colspan="2">n/a: too few<') == 6 and html.count('colspan="2">n/a: not yet<') == 1


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
    assert [row.title for row in rows] == ["digit 0", "digit 2", "10"]  # there are five names: label 10 has none
    assert [row.cells[0].text for row in rows] == ["210.0", "220.0", "230.0"]
    assert [row.floor for row in rows] == [Cell("–"), Cell("88.0"), Cell("–")]
    text = words(render(results))
    assert "Distance of single classes" in text and "digit 2 220.0 n/a not measured n/a not measured 88.0" in text


def test_real_test_images_are_shown_only_beside_their_own_floor(three: Params) -> None:
    for model, value in [("dcgan", 400.0), ("sagan", 200.0), ("resnet", 300.0)]:
        make_experiment(model, 0, value, scores={"precision": 0.5, "floor": 51.0})
    assert rows_of(three)["precision"].floor == Cell("–")
    assert "real test images 51.0 – 1.00" in words(page(three))


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
    assert "sagan ratio 0.50, copies 0.013" in words(html)


def test_the_best_steps_of_several_seeds_are_a_range(seeds: Params) -> None:
    make_experiment("sagan", 0, 120.0, scores={"best": {"step": 1250, METRIC: 100.0}})
    text = words(page(seeds))
    assert "100.0 ± 0.0 50–1,250 sagan_net" in text and "seed 0 120.0 2.40 100.0 1,250 1,000" in text
    assert leaderboard(read_results(seeds))["best_step"].tolist() == [50, 1250, 50, 50]


def test_every_meaning_says_what_is_better_and_who_measures_it() -> None:
    assert {meaning.measured_by for meaning in METRIC_INFO.values()} <= set(METRICS)
    assert {meaning.better for meaning in METRIC_INFO.values()} <= {"higher", "lower", "about 1", "about 0.01", ""}
    assert {"kid", "fid_infinity", "fid_class_mean"} <= set(metric_info("fid"))
    assert {"kd_x", "fd_x_infinity", "fd_x_class_mean"} <= set(metric_info("fd_x"))
    assert in_order(["b", "recall", "a", "kid", "fid_class/1", "precision"], "fid") == [
        "kid", "precision", "recall", "a", "b",
    ]  # fmt: skip


def test_numbers_as_text() -> None:
    assert [decimals([value, 500]) for value in (100, 99.9, 1, 0.99, 0.01, 0.0099)] == [1, 2, 2, 4, 4, 6]
    assert decimals([0.0, 250.0]) == 1 and decimals([]) == 2 and decimals([-0.5]) == 4
    assert (number(-1234.56, 1), number(-0.04, 1), number(0.0, 2)) == ("−1,234.6", "0.0", "0.00")
    assert [digits(value) for value in (1234.5, 99.94, 9.996)] == ["1,234", "99.9", "10.00"]
    assert mean_and_std([2.0, 4.0, 6.0], 1) == f"4.0\xa0±\xa0{statistics.stdev([2, 4, 6]):.1f}"
    assert [listed(list(names)) for names in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]


def test_commit_is_graceful_without_a_repository(monkeypatch: pytest.MonkeyPatch, workplace: Path) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(workplace.parent))
    assert commit().startswith("none")
    answers = {"rev-parse": "abc", "status": ""}
    monkeypatch.setattr(provenance_module, "_git", lambda *words: answers[words[0]])
    assert commit() == "abc"
    answers["status"] = " M params.yaml"
    assert commit() == "abc, with uncommitted changes in pipeline, params.yaml, dvc.yaml"


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


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not on the PATH: no browser opens the page")
def test_a_browser_opens_the_page_without_a_complaint(three: Params, workplace: Path) -> None:
    make_data(classes=["<script>document.title='taken'</script>"])
    write_report(three, Path("reports"))
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={workplace / 'profile'}",
        "--enable-logging=stderr", "--virtual-time-budget=3000", "--dump-dom",
        Path("reports/report.html").resolve().as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    assert "<title>digits, 16 × 16, grey: comparison of GANs</title>" in done.stdout
    assert done.stdout.count("<svg") == 5


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
        "includes that.",
        "sagan diverged and went back to an earlier step with lower learning rates: seed 1 (2 times).",
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
