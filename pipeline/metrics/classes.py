"""Is each class good by itself? The Fréchet distances within single classes."""

import numpy as np

from pipeline.metrics.frechet import Gaussian, frechet_distance
from pipeline.metrics.types import Comparison, Estimate, FeatureSet, NotAvailable


def classes(comparison: Comparison) -> dict[str, Estimate]:
    """The Fréchet distances within single classes; F is the distance's name.

    F_class/<label>: for each class that has at least 2 images on both sides; with so few images it is far above that
        of all images, so compare it only with the same class of another model.
    F_class_mean: the mean of these.

    They have no errors.

    Raises:
        NotAvailable: one side has no labels, or the training images have only one class.
    """
    require_classes(comparison.real)
    if comparison.generated.labels is None and len(comparison.generated.features):  # statistics have neither
        raise NotAvailable("the generated images have no labels")
    return class_distances(comparison.real, comparison.generated, comparison.metric)


def class_distances(real: FeatureSet, generated: FeatureSet, metric: str) -> dict[str, Estimate]:
    """`<metric>_class/<label>` of each class with at least 2 images on both sides, and `<metric>_class_mean`."""
    assert real.labels is not None and generated.labels is not None
    distances = {}
    for label in np.unique(real.labels):
        rows = [np.flatnonzero(side.labels == label) for side in (real, generated)]
        if min(map(len, rows)) >= 2:
            first, second = (
                Gaussian.from_features(real.features[rows[0]]),
                Gaussian.from_features(generated.features[rows[1]]),
            )
            distances[f"{metric}_class/{label}"] = frechet_distance(first, second)
    if not distances:
        return {}
    distances[f"{metric}_class_mean"] = float(np.mean(list(distances.values())))
    return {name: Estimate(value) for name, value in distances.items()}


def require_classes(real: FeatureSet) -> np.ndarray:
    """The labels of real images, int64 (N,).

    Raises:
        NotAvailable: they have none, or only one class.
    """
    if real.labels is None or len(np.unique(real.labels)) < 2:
        raise NotAvailable("the real images have no classes")
    return real.labels
