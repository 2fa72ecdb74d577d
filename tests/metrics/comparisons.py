"""Sets of features as the metrics' tests write them, and a comparison of them."""

from typing import Any

import numpy as np

from pipeline.metrics.types import Comparison, FeatureSet

Features = FeatureSet | np.ndarray | tuple[np.ndarray, np.ndarray | None]  # or features with labels


def feature_set(given: Features) -> FeatureSet:
    if isinstance(given, FeatureSet):
        return given
    return FeatureSet(*given) if isinstance(given, tuple) else FeatureSet(given)


def comparison(real: Features, generated: Features, held_out: Features | None = None, **changes: Any) -> Comparison:
    """A comparison whose distance is called `fid`, without class weights, resamples or a limit, unless changed."""
    values = {"metric": "fid", "head": None, "bootstrap": 0, "infinity": False} | changes
    held = None if held_out is None else feature_set(held_out)
    return Comparison(feature_set(real), feature_set(generated), held, **values)
