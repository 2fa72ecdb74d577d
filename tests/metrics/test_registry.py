"""What holds for every metric in METRICS, also for one that is added."""

import math

import numpy as np
import pytest

from pipeline.metrics import METRICS, Comparison, Estimate, FeatureSet, NotAvailable, measure, modes
from pipeline.metrics.modes import StackedDigits
from tests.metrics.test_modes import patterns

LABELS = np.arange(90) % 3


def comparison(shift: float = 0.5, order: np.ndarray | None = None, **changes: object) -> Comparison:
    """Three sets of 90 features of 6 dimensions in three clusters, with labels; enough for every metric."""
    source = np.random.default_rng(0)
    values = {
        name: (source.standard_normal((90, 6)) + 4 * np.eye(6)[LABELS]).astype(np.float32)
        for name in ("real", "generated", "held_out")
    }
    order = np.arange(90) if order is None else order
    sets = {name: FeatureSet(features, LABELS) for name, features in values.items()}
    sets["generated"] = FeatureSet(values["generated"][order] + np.float32(shift), LABELS[order])
    head = source.standard_normal((4, 6)).astype(np.float32)
    pixels = StackedDigits(patterns(LABELS)), StackedDigits(patterns(LABELS[order] * (shift < 1)))
    given = {
        **sets,
        "metric": "fd_clip_vitl14_336",
        "head": head,
        "bootstrap": 5,
        "infinity": True,
        "pixels": pixels,
    } | changes
    return Comparison(**given)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modes, "STEPS", 120)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_gives_named_finite_estimates_the_same_every_time(name: str) -> None:
    found = METRICS[name](comparison())
    assert found and all(isinstance(estimate, Estimate) for estimate in found.values())
    assert all(math.isfinite(e.value) and (e.error is None or e.error >= 0) for e in found.values())
    assert METRICS[name](comparison()) == found
    assert METRICS[name](comparison(shift=2.0)) != found


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_of_statistics_alone_says_so_or_needs_no_more(name: str) -> None:
    gaussian = comparison().generated.gaussian
    try:
        found = METRICS[name](comparison(generated=FeatureSet(None, gaussian=gaussian)))
    except NotAvailable as reason:
        assert str(reason) == "one side is statistics without features"
    else:
        assert found == {key: Estimate(value) for key, (value, _) in METRICS[name](comparison()).items()}


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"inception_score"}))  # its splits are by place
def test_the_order_of_the_generated_images_is_no_matter(name: str) -> None:
    order = np.random.default_rng(1).permutation(90)
    found, permuted = METRICS[name](comparison()), METRICS[name](comparison(order=order))
    for key, estimate in found.items():
        if "infinity" not in key:  # random subsets by place
            assert permuted[key].value == pytest.approx(estimate.value, rel=1e-6, abs=1e-9), key


def test_no_two_metrics_give_the_same_name() -> None:
    names = [key for metric in METRICS.values() for key in metric(comparison())]
    assert len(names) == len(set(names)) > 12
    assert measure(comparison()).values.keys() == set(names)
