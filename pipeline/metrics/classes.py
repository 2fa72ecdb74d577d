"""Where images have classes: is each class good, and are there as many of each as in the training images?

The class of an image without a label is what most of its 5 nearest training images have: a vote, which errs.
"""

import numpy as np

from pipeline.metrics.frechet import Gaussian, frechet_distance
from pipeline.metrics.types import Comparison, Estimate, FeatureSet, NotAvailable


def classes(comparison: Comparison) -> dict[str, Estimate]:
    """What can be said class by class; F is the Fréchet distance's name.

    F_class/<label>: the Fréchet distance within a class, for each that has at least 2 images on both sides; with so
        few images it is far above that of all images, so compare it only with the same class of another model.
    F_class_mean: the mean of these.
    class_balance: 1 - the total variation distance between the shares of the classes among generated images, by
        vote, and among training images, by label; 1 = the same shares.
    class_rarest: the smallest ratio of these shares, generated over real; 0 = a class is missing.
    class_vote_accuracy: share of held-out images whose vote is their label: how far to trust the vote.
    class_agreement: share of generated images whose vote is the label that they were generated for.

    The first two and the last need labels of the generated images. Shares have binomial errors, the training images
    held fixed; the others have none.

    Raises:
        NotAvailable: the training images have no labels, or only one.
    """
    real, generated, held_out = comparison.real, comparison.generated, comparison.held_out
    if real.labels is None or len(np.unique(real.labels)) < 2:
        raise NotAvailable("the real images have no classes")
    votes = _votes(generated, real, real.labels)
    estimates = {} if generated.labels is None else class_distances(real, generated, comparison.metric)
    estimates |= class_shares(real.labels, votes)
    if held_out is not None and held_out.labels is not None:
        estimates["class_vote_accuracy"] = _share(_votes(held_out, real, real.labels) == held_out.labels)
    if generated.labels is not None:
        estimates["class_agreement"] = _share(votes == generated.labels)
    return estimates


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


def class_shares(labels: np.ndarray, votes: np.ndarray) -> dict[str, Estimate]:
    """`class_balance` and `class_rarest` of votes (M,) against the real images' labels (N,), which hold every vote.

    >>> class_shares(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1]))
    {'class_balance': Estimate(value=0.75, error=None), 'class_rarest': Estimate(value=0.5, error=None)}
    """
    names, counts = np.unique(labels, return_counts=True)
    real = counts / len(labels)
    generated = (votes[:, None] == names).mean(axis=0)
    balance = 1 - np.abs(generated - real).sum() / 2
    return {"class_balance": Estimate(float(balance)), "class_rarest": Estimate(float((generated / real).min()))}


def vote(labels: np.ndarray) -> np.ndarray:
    """(N,): the most frequent of each row of neighbours' labels (N, k), nearest first.

    Of classes that are equally frequent, the one whose nearest member is the nearest.

    >>> vote(np.array([[7, 2, 2], [7, 2, 3]])).tolist()
    [2, 7]
    """
    counts = (labels[:, :, None] == labels[:, None, :]).sum(axis=2)  # (N, k): how often each neighbour's label comes
    return np.take_along_axis(labels, counts.argmax(axis=1)[:, None], axis=1)[:, 0]


def _votes(queries: FeatureSet, real: FeatureSet, labels: np.ndarray) -> np.ndarray:
    return vote(labels[queries.neighbours_in(real)[1]])


def _share(hits: np.ndarray) -> Estimate:
    share = float(np.mean(hits))
    return Estimate(share, float(np.sqrt(share * (1 - share) / len(hits))))
