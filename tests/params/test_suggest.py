"""Settings by published rules: every value by hand, and what the command says."""

from pathlib import Path

import pytest

from pipeline.params import PRESETS, Schedule, load
from pipeline.params.__main__ import main
from pipeline.params.suggest import FEW_IMAGES, few_images, r3gan, stylegan2


def told(suggestions: object) -> dict[str, str]:
    return {one.field: one.value for one in suggestions}  # type: ignore[attr-defined]


def test_stylegan2_by_hand() -> None:
    assert told(stylegan2(32, 50_000, 64)) == {
        "batch_size": "64",
        "penalty_weight": "0.0032",  # 0.0002 * 1024 / 64
        "minibatch_std": "4",
        "lr_g": "0.0025",
        "ema_half_life": "20000",  # 64 * 10 / 32 thousand
        "ema_ramp_up": "0.05",
        "train.steps": "390625",
    }
    large = told(stylegan2(1024, 70_000))
    assert (large["batch_size"], large["penalty_weight"], large["lr_g"]) == ("4", "52.43", "0.002")
    assert (large["ema_half_life"], large["train.steps"]) == ("1250", "6250000")
    assert told(stylegan2(128, 1000))["batch_size"] == "32" and told(stylegan2(256, 1000))["batch_size"] == "16"
    assert [told(stylegan2(16, 1, batch))["minibatch_std"] for batch in (1, 6, 7, 9, 20)] == ["1", "3", "1", "3", "4"]


@pytest.mark.parametrize(
    ("size", "images", "gamma", "batch"),
    [
        (32, 50_000, "0.05", "512"),
        (28, 60_000, "0.05", "512"),
        (16, 1438, "0.05", "512"),
        (32, 1_000_000, "0.5", "4096"),
        (45, 50_000, "0.05", "512"),  # below the geometric mean of 32 and 64, which is 45.25
        (46, 50_000, "2", "256"),
        (1024, 50_000, "2", "256"),
    ],
)
def test_r3gan_takes_the_nearest(size: int, images: int, gamma: str, batch: str) -> None:
    found = told(r3gan(size, images))
    assert (found["penalty_weight"], found["batch_size"]) == (gamma, batch)


def test_presets_have_what_is_suggested() -> None:
    def end(value: object) -> float:
        assert isinstance(value, Schedule)
        return value.end

    for preset, images in (("cifar10", 50_000), ("folder", 70_000)):
        values = load(PRESETS / f"{preset}.yaml")
        recipe, found = values.models["r3gan"], told(r3gan(values.data.image_size, images))
        assert isinstance(recipe.penalty_weight, Schedule)
        assert (
            recipe.penalty_weight.start
            == float(found["penalty_weight"])
            == pytest.approx(10 * end(recipe.penalty_weight))
        )
        assert recipe.batch_size == int(found["batch_size"]) and end(recipe.ema_half_life) == float(
            found["ema_half_life"]
        )
        assert end(recipe.augment_strength) == float(found["augment_strength"])
    for preset in ("mnist", "folder"):
        values = load(PRESETS / f"{preset}.yaml")
        recipe, found = values.models["stylegan2"], told(stylegan2(values.data.image_size, 1, 64))
        assert recipe.batch_size == 64 and recipe.minibatch_std == int(found["minibatch_std"])
        assert recipe.penalty_weight == float(found["penalty_weight"])
        assert recipe.ema_half_life == float(found["ema_half_life"]) and recipe.lr_g == float(found["lr_g"])


def test_few_images() -> None:
    assert set(told(few_images(FEW_IMAGES))) == {"augment", "regularisers"}
    assert told(few_images(FEW_IMAGES + 1)) == {}


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = 0
    try:
        main(["suggest", *arguments])
    except SystemExit as error:
        code = int(error.code or 0)
    out, error = capsys.readouterr()
    return code, out, error


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_bytes((PRESETS / "cifar10.yaml").read_bytes())
    code, out, _ = run(capsys, "--images", "5000", "--batch", "64")
    assert code == 0 and out.startswith("# 32 x 32 pixels, 5000 images\n")
    assert "\npenalty_weight: 0.0032                     # gamma of r1: 0.0002 * size^2 / batch\n" in out
    assert "# 25 million images, here each 5000 times\n" in out and "\nregularisers: {lecam: 0.3} " in out
    assert "few images" not in run(capsys, "--images", "60000")[1]
    code, _, error = run(capsys)
    assert code == 2
    assert error == "error: the number of images is not known: give --images N, or run `dvc repro prepare`\n"
    assert run(capsys, "--images", "0")[2] == "error: --images must be at least 1, got 0\n"
    for batch in ("-1", "1", "65537"):
        code, _, error = run(capsys, "--images", "5", "--batch", batch)
        assert (code, error) == (2, f"error: --batch must be from 2 to 65536, as batch_size is, got {batch}\n")
