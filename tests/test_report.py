"""The report: every number in it is compared with one worked out by hand from the files it was read from."""

import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import provenance as provenance_module
from pipeline.charts import Line, draw, linear_ticks, log_ticks, short_numbers, spread_out
from pipeline.errors import PipelineError
from pipeline.params import Params, load
from pipeline.provenance import commit
from pipeline.report import leaderboard, read_results, render, write_report

PARAMS = load(Path(__file__).resolve().parents[1] / "params.yaml")
METRIC = "fd_efficientnet_lite0"
PROTOCOL = {"extractor": "efficientnet_lite0", "quantisation": "uint8", "real_images": 1437, "generated_images": 1437}
SHA = "d" * 64
NOT_FINITE = json.dumps({METRIC: float("nan"), "floor": 1, "ratio_to_floor": 1, "protocol": {}})


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
             "extractor": {"extractor": "efficientnet_lite0"}}  # fmt: skip
    write(Path("data/reference/floor.json"), floor)
    np.save("data/reference/features.npy", np.zeros((4, 1280), np.float32))


def make_experiment(model: str, seed: int, value: float, metric: str = METRIC, **protocol: Any) -> None:
    """runs/, samples/ and scores/ of one experiment whose distance falls from 1000 to twice `value`."""
    name = f"{model}-{seed}"
    run, samples = Path("runs") / name, Path("samples") / name
    recipe = {"network": f"{model}_net", "loss": "hinge", "width_g": 32, "lr_g": 2e-4, "ema_decay": None}
    info = {"model": model, "seed": seed, "recipe": recipe, "train": {}, "image_shape": [1, 16, 16], "n_classes": 10,
            "steps": 100, "images_seen": 6400, "parameters_g": 12345, "parameters_d": 6789,
            "curve": {"metric": metric, "samples": 500}, "fingerprint": f"f{seed}", "data_sha256": SHA}  # fmt: skip
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
    score = {"model": model, "seed": seed, metric: value, "floor": 50.0, "ratio_to_floor": value / 50,
             "protocol": PROTOCOL | protocol}  # fmt: skip
    write(Path("scores") / name / "metrics.json", score)


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
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_leaderboard_ranks_by_value_and_ignores_stale_folders(three: Params) -> None:
    write_report(three, Path("reports"))
    table = pd.read_csv("reports/leaderboard.csv")
    assert list(table.columns) == [
        "rank", "model", "seed", "metric", "value", "floor", "ratio_to_floor", "network", "loss", "steps",
        "images_seen", "parameters_g", "parameters_d", "protocol",
    ]  # fmt: skip
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
    assert "Single seeds of dcgan reach into its range: the order is not settled." in text
    assert "2 dcgan 120.0 ± 28.3 2.40 ± 0.57 dcgan_net hinge 1,000 → 240 (4.2×)" in text
    assert (
        "seed 1 140.0 2.80 1,000 → 280 (3.6×) real test images" in text
    )  # its network and cost stand in its model's row
    assert "One training seed" not in text


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
    assert "1 sagan 200.0 4.00 sagan_net hinge 1,000 → 400 (2.5×) 12,345 6,789 100 6,400 8.00 800" in text
    assert "real test images 50.0 1.00" in text
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
    assert html.count("real test images") == 2
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
        ("scores/sagan-0/metrics.json", '{"fid": 3}', f"lacks {METRIC}, floor, ratio_to_floor, protocol"),
        ("scores/sagan-0/metrics.json", NOT_FINITE, "finite"),
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
    assert "1 sagan 200.0 4.00 sagan_net hinge – 12,345 6,789 100 6,400 – –" in words(page(three))


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
    heights = [label.y for label in draw("t", "d", lines, "x", "y", log=True).labels]
    assert all(b - a >= 14.9 for a, b in pairwise(heights))


def test_a_chart_of_nothing_and_of_one_point_can_be_drawn() -> None:
    for points in ([], [(0.0, 5.0)], [(0.0, float("nan"))], [(1.0, 0.0), (2.0, -1.0)]):
        chart = draw("t", "d", [Line(points, "m0", "a", "a")], "x", "y", log=True)
        assert all(0 <= tick.position <= chart.height for tick in chart.y_ticks)


def test_chart_places_its_points_on_its_scales() -> None:
    chart = draw("t", "d", [Line([(0, 1), (10, 100)], "m0", "a")], "x", "y", log=True)
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
