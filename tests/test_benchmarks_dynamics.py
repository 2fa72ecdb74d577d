"""benchmarks/dirac.py and benchmarks/gaussians.py: the step's matrix by theory, and pages that show the records."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import dirac, gaussians
from benchmarks.dirac import CASES, RATE, Case, measured, rightmost
from pipeline.gan.losses import LOSSES

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.mark.parametrize("case", [case for case in CASES if case.regular], ids=lambda case: case.name)
def test_the_step_near_the_equilibrium_is_the_alternating_scheme(case: Case) -> None:
    np.testing.assert_allclose(measured(case, RATE), case.scheme(RATE), rtol=0, atol=2e-5)


def test_every_loss_and_every_gradient_penalty_is_there() -> None:
    assert {case.loss for case in CASES} == set(LOSSES)
    assert {case.penalty for case in CASES} == {"none", "gradient", "dragan", "r1", "r2", "r1_r2", "lecam"}


def test_known_eigenvalues_by_hand() -> None:
    half = (0.5, 0.5)
    assert rightmost(Case("bce", half).flow()) == pytest.approx(0.5j)
    assert rightmost(Case("bce", half, "r1", 1.0, 1.0).flow()) == pytest.approx(-0.5)  # critical
    assert rightmost(Case("bce", half, "r1", 0.6, 1.0).flow()) == pytest.approx(-0.3 + 0.4j)
    assert rightmost(Case("bce", half, "r1_r2", 0.3, 2.0).flow()) == pytest.approx(-0.3 + 0.4j)
    assert rightmost(Case("wasserstein", (1.0, 1.0), "r1", 4.0, 1.0).flow()) == pytest.approx(-2 + math.sqrt(3))
    # without a penalty the alternating scheme keeps all areas: its eigenvalues are on the unit circle
    assert abs(rightmost(Case("bce", half).scheme(0.3))) == pytest.approx(1)


def test_what_converges() -> None:
    rows = pd.read_csv(DOCS / "dirac.csv").set_index("case")
    assert list(rows.index) == [case.name for case in CASES]
    told = {name: dirac.verdict(row["distance"], row["moved"]) for name, row in rows.iterrows()}
    damped = {case.name for case in CASES if case.damping}
    assert {name for name, word in told.items() if word == "converges"} == damped
    assert {name for name, word in told.items() if word == "circles"} == {"bce_saturating", "hinge", "wasserstein"}
    assert rows["error"].max() < 1e-5
    # computed apart from this pipeline, from (1, 1) by alternating steps of 0.1
    assert rows.loc["bce_saturating", "distance"] == pytest.approx(1.38, abs=0.02)
    assert rows.loc["bce", "distance"] == pytest.approx(0.12, abs=0.01)


@pytest.mark.parametrize("part", [dirac, gaussians], ids=["dirac", "gaussians"])
def test_the_page_shows_the_record(part: object) -> None:
    name = part.__name__.rpartition(".")[2]  # type: ignore[attr-defined]
    lines = part.table(pd.read_csv(DOCS / f"{name}.csv"))  # type: ignore[attr-defined]
    assert "\n".join(lines) in (DOCS / f"{name}.md").read_text(encoding="utf-8")


# Two dimensions.


@pytest.mark.parametrize(("target", "count", "apart"), [("ring", 8, 2 * math.sin(math.pi / 8)), ("grid", 25, 0.5)])
def test_the_targets(target: str, count: int, apart: float) -> None:
    centres, spread = gaussians.TARGETS[target]
    distances = np.linalg.norm(centres[:, None] - centres, axis=2)
    assert len(centres) == count and distances[distances > 1e-9].min() == pytest.approx(apart)
    drawn = gaussians.points(target, 0).flatten(1).numpy() / 127.5 - 1
    found = gaussians.quality(drawn[:20_000], target)
    assert found["modes"] == count and found["kl"] == pytest.approx(0, abs=0.002)
    assert found["good"] == pytest.approx(1 - math.exp(-4.5), abs=0.003)  # within three deviations in two dimensions
    nearest = np.linalg.norm(drawn[:, None] - centres, axis=2).min(axis=1)
    assert math.sqrt((nearest**2).mean() / 2) == pytest.approx(spread, rel=0.01)


def test_quality_by_hand() -> None:
    ring = gaussians.RING
    samples = np.concatenate([ring[[0, 0, 0, 1]], ring[[2, 3]] + 0.05])  # three good ones at 0, one at 1, two bad
    found = gaussians.quality(samples, "ring")
    assert (found["modes"], found["good"]) == (2, pytest.approx(4 / 6))
    assert found["kl"] == pytest.approx(0.75 * math.log(6) + 0.25 * math.log(2))
    nothing = gaussians.quality(np.zeros((4, 2)), "ring")
    assert (nothing["modes"], nothing["good"]) == (0, 0) and math.isnan(nothing["kl"])


@pytest.mark.parametrize("method", gaussians.METHODS)
def test_a_method_trains(method: str) -> None:
    row, samples = gaussians.measure("ring", method, 0, 3)
    assert samples.shape == (gaussians.SAMPLES, 2) and np.isfinite(samples).all()
    assert (row["method"], row["steps"]) == (method, 3)
