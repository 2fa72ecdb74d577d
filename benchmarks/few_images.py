"""A hundred digits: which method against overfitting helps, who memorises, and who collapses?

    python -m benchmarks.few_images [--seeds 0 1 2] [--steps N]

All methods train the same recipe, `BASE` on the preset digits', on the same 100 of scikit-learn's digits, ten a class;
they differ in what `METHODS` says. The other 1,697 digits are held out. Of 500 samples: the Fréchet distance to all
held-out digits, precision and recall beside them; and AuthPct, copies and the nearest ratio beside the 100 seen ones.
Rows of real images say what these numbers are for a generator that would copy the 100, and for one that is perfect;
and one method is trained on the 1,697 instead, to tell what few images cost from what the recipe cannot do.

ADA's strength may here go from 0 to 1 within 20,000 images, not 500,000: the whole training sees so few.

It writes docs/few_images.csv, a row a training and measurement, and docs/few_images.png, and prints
docs/few_images.md's table. What is done already is not done again: delete .work/few-images to start anew.
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageDraw

from benchmarks import trainings
from benchmarks.trainings import CPU, mean_text, pixels_of
from pipeline.core.errors import exit_cleanly
from pipeline.core.files import write_bytes
from pipeline.data.batches import ImageSet
from pipeline.gan import ada
from pipeline.gan.state import TrainState
from pipeline.metrics import Comparison, Extractor, FeatureSet, load_extractor, measure
from pipeline.params import PRESETS, Recipe, load
from pipeline.sampling.pictures import save_picture

WORK, DOCS = Path(".work/few-images"), Path("docs")
PARAMS = load(PRESETS / "digits.yaml")
SEEN, SAMPLES, STEPS, SEEDS, ADA_IMAGES = 100, 500, 1000, (0, 1, 2), 20_000
POINTS = 2  # measurements of a training, evenly apart
BASE: dict[str, Any] = {
    "network": "dcgan", "norm_d": "none", "loss": "bce", "penalty": "r1", "penalty_weight": 0.5, "latent_dim": 64,
    "width_g": 32, "width_d": 32, "batch_size": 32, "lr_g": 1e-3, "lr_d": 1e-3,
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "none": {},
    "DiffAugment": {"augment": ["translation", "colour", "cutout"]},
    "ADA": {"augment": ["ada"]},
    "LeCam": {"regularisers": {"lecam": 0.3}},
    "CR": {"regularisers": {"cr": 10.0}},
}
CONTROL = "none, on the 1,697"
NUMBERS = {
    "distance": 0, "precision": 2, "recall": 2, "auth_pct": 0, "copies": 2, "nearest_ratio": 2,
}  # with so many digits  # fmt: skip


def recipe_of(method: str) -> Recipe:
    return Recipe.model_validate(PARAMS.recipe.model_dump(mode="json") | BASE | METHODS.get(method, {}))


def split() -> tuple[ImageSet, np.ndarray]:
    """The digits that are seen, ten of each class, and the held-out ones, uint8 (N, 1, S, S)."""
    data = trainings.data_of(PARAMS, WORK / "prepared")
    images = np.concatenate([pixels_of(data.train), pixels_of(data.test)])
    of_class = np.concatenate([data.train.labels.numpy(), data.test.labels.numpy()])
    order = np.random.default_rng(0).permutation(len(images))
    seen = np.sort(np.concatenate([order[of_class[order] == label][: SEEN // 10] for label in range(10)]))
    chosen = ImageSet(torch.from_numpy(images[seen]), torch.from_numpy(of_class[seen]), 10)
    return chosen, np.delete(images, seen, axis=0)


class Judge:
    """The features of the seen and the held-out digits, and what they say of other images."""

    def __init__(self, extractor: Extractor, seen: np.ndarray, held_out: np.ndarray) -> None:
        self.extractor = extractor
        self.seen, self.held_out = (FeatureSet(trainings.features(extractor, images)) for images in (seen, held_out))

    def numbers(self, images: np.ndarray) -> dict[str, float]:
        """The columns `NUMBERS` of images uint8 (N, 1, S, S)."""
        generated, metric = FeatureSet(trainings.features(self.extractor, images)), self.extractor.metric
        beside = Comparison(self.held_out, generated, None, metric, None, 0, False)
        copied = Comparison(self.seen, generated, self.held_out, metric, None, 0, False)
        found = measure(beside, ["fid", "prdc"]).values | measure(copied, ["memorisation", "authenticity"]).values
        return {name: round(found[metric if name == "distance" else name], 4) for name in NUMBERS}


def measure_method(method: str, seed: int, steps: int, images: ImageSet, judge: Judge) -> dict[str, Any]:
    """Train a method; its rows of docs/few_images.csv, and 20 of its last samples."""
    recipe = recipe_of(method)
    budget = PARAMS.train.model_copy(update={"steps": steps})
    rows: list[dict[str, Any]] = []
    last: list[np.ndarray] = []

    def look(state: TrainState, seconds: float) -> bool:
        if state.step % (steps // POINTS) == 0:
            drawn = trainings.samples(state, [1] * 10, SAMPLES, recipe.latent_dim)
            strength = {"ada": round(float(state.own["augment/ada/strength"]), 3)} if method == "ADA" else {}
            rows.append({"step": state.step, "cpu_seconds": round(seconds, 1)} | judge.numbers(drawn) | strength)
            last[:] = [drawn[:20]]
        return False

    _, *shape = pixels_of(images).shape
    diverged = trainings.trained(recipe, budget, images, tuple(shape), seed, look)[2]
    about = {"method": method, "seed": seed, "diverged": diverged}
    return {"rows": [about | row for row in rows], "images": last[0].tolist() if last else []}


def real_rows(seen: ImageSet, held_out: np.ndarray, judge: Judge) -> dict[str, Any]:
    """What copies of the 100 seen digits have; and 500 of the held-out digits, as a perfect generator's images."""
    drawn = np.random.default_rng(1).permutation(len(held_out))
    perfect = Judge(judge.extractor, pixels_of(seen), held_out[drawn[SAMPLES:]]).numbers(held_out[drawn[:SAMPLES]])
    copied = judge.numbers(np.repeat(pixels_of(seen), SAMPLES // SEEN, axis=0))
    return {"rows": [{"method": "the 100 seen"} | copied, {"method": "held-out digits"} | perfect]}


def table(rows: pd.DataFrame) -> Iterator[str]:
    """The lines of docs/few_images.md's table: means over seeds at the end of training, with 95% intervals."""
    head = ["method", "distance", "best on the way", "precision", "recall", "AuthPct", "copies", "nearest ratio"]
    lines = []
    for method in (*METHODS, CONTROL):
        chosen = rows[rows["method"] == method]
        final = chosen[chosen["step"] == chosen["step"].max()]
        best = mean_text(chosen.groupby("seed")["distance"].min().tolist(), 0)
        told = [mean_text(final[name].tolist(), digits) for name, digits in NUMBERS.items()]
        lines.append([method, told[0], best, *told[1:]])
    for row in rows[rows["step"].isna()].to_dict("records"):
        told = [f"{row[name]:.{digits}f}" for name, digits in NUMBERS.items()]
        lines.append([row["method"], told[0], "", *told[1:]])
    return trainings.markdown(head, lines)


def draw(strips: dict[str, np.ndarray], out: Path) -> None:
    """Twenty images of each row beside its name."""
    page = Image.new("L", (120 + 20 * 18, 18 * len(strips)), 255)
    for index, (name, images) in enumerate(strips.items()):
        ImageDraw.Draw(page).text((4, 18 * index + 3), name, fill=0)
        for place, image in enumerate(images):
            page.paste(Image.fromarray(image[0]), (120 + 18 * place, 18 * index + 1))
    save_picture(page.resize((2 * page.width, 2 * page.height), Image.Resampling.NEAREST), out)


@exit_cleanly
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    trainings.one_thread()
    ada.IMAGES = ADA_IMAGES
    seen, held_out = split()
    judge = Judge(load_extractor(PARAMS.metrics, CPU), pixels_of(seen), held_out)
    rows: list[dict[str, Any]] = []
    strips: dict[str, np.ndarray] = {}
    many = ImageSet(torch.from_numpy(held_out), torch.zeros(len(held_out), dtype=torch.int64), 10)
    for seed, method in itertools.product(options.seeds, (*METHODS, CONTROL)):
        path = WORK / f"{method}-{seed}-{options.steps}.json"
        images = many if method == CONTROL else seen
        known = trainings.kept(path, measure_method, method, seed, options.steps, images, judge)
        rows += known["rows"]
        strips.setdefault(method, np.array(known["images"], np.uint8))
    real = trainings.kept(WORK / "real.json", real_rows, seen, held_out, judge)["rows"]
    columns = ["method", "seed", "step", "diverged", "cpu_seconds", *NUMBERS, "ada"]
    frame = pd.DataFrame(rows + real, columns=columns)
    write_bytes(DOCS / "few_images.csv", frame.to_csv(index=False).encode())
    draw({**strips, "the 100 seen": pixels_of(seen)[::5]}, DOCS / "few_images.png")
    print("\n".join(table(frame)))


if __name__ == "__main__":
    main()
