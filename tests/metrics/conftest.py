"""What tests of several metrics, and of tests/evaluate, share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.params import MetricsParams, load

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def metrics_params() -> Callable[..., MetricsParams]:
    """params.yaml's metrics with some fields changed: ``metrics_params("inception", weights="a.pth")``."""
    values = load(ROOT / "params.yaml").metrics.model_dump(mode="json")
    cheap = {"weights": None, "unknown_weights": "refuse", "batch_size": 8, "bootstrap": 0, "infinity": False}

    def change(extractor: str = "efficientnet_lite0", **changes: Any) -> MetricsParams:
        return MetricsParams.model_validate(values | cheap | {"extractor": extractor} | changes)

    return change
