"""A comparison's files as the stages write them, with chosen numbers."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.params import Params, load
from pipeline.report import read_results, render
from pipeline.report.figures import scripts

PARAMS = load(Path(__file__).resolve().parents[2] / "params.yaml")


METRIC = "fd_efficientnet_lite0"


PROTOCOL = {"extractor": "efficientnet_lite0", "quantisation": "uint8", "real_split": "train", "real_images": 1437,
            "generated_images": 1437, "floor_images": 360}  # fmt: skip


SHA = "d" * 64


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
    """runs/, samples/, scores/ and closest/ of one experiment whose distance falls from 1000 to twice `value`.

    Its sampling error is 5, at the floor's number of images its value is 25 more, and its best checkpoint is of step 50
    and 10 better. `scores` go into record.json.
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
    score = {"model": model, "seed": seed, metric: value, "floor": 50.0, f"{metric}_at_floor": value + 25,
             "ratio_to_floor": (value + 25) / 50,
             "sampling_error": {metric: 5.0}, "not_available": {}, "collapsed": [], "best": best,
             "protocol": PROTOCOL | protocol}  # fmt: skip
    write(Path("scores") / name / "record.json", score | (scores or {}))
    Path("closest").mkdir(exist_ok=True)
    frames[0].save(Path("closest") / f"{name}.png")


def compare(models: list[str], seeds: list[int]) -> Params:
    return PARAMS.override({"compare.models": models, "compare.seeds": seeds})


def page(params: Params) -> str:
    """The page without plotly's 4.8 MB."""
    return render(read_results(params)).replace(scripts()[0], "")


def figures(html: str) -> dict[str, Any]:
    """Plotly's figures in a page, by their titles."""
    found = re.findall(r'<div class="plot"[^>]* aria-label="([^"]*)"[^>]*><script[^>]*>(.*?)</script>', html)
    return {title: json.loads(text) for title, text in found}


def words(html: str) -> str:
    """The text of a page, blanks joined."""
    html = re.sub(r"<(style|script).*?</\1>", "", html, flags=re.S).replace("<wbr>", "")
    return unescape(" ".join(re.sub(r"<[^>]+>", " ", html).split()))
