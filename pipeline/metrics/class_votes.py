"""Where images have classes: do generated ones show those that were asked for, and as many of each as real ones?

What class a generated image shows is the vote of its 5 nearest training images. Votes err, and more so on generated
images than on real ones: one that a person reads without doubt can have features that no real image has. So votes are
only counted where the neighbours of the generated images themselves agree, in features or else in pixels.
"""

import numpy as np
import torch
from torch.nn import functional as F

from pipeline.metrics.classes import require_classes
from pipeline.metrics.sampling_error import share_error, strata
from pipeline.metrics.types import Comparison, Estimate, FeatureSet, NotAvailable

TRUSTED = 0.9  # of pairs of neighbours that have the same class; below it votes are not counted
SIDE, BLOCK = 16, 1024  # pixels of a side to which images are averaged; images that are averaged at once


def class_votes(comparison: Comparison) -> dict[str, Estimate]:
    """What the votes of the nearest training images say of the generated images' classes.

    class_trust: how often two of a generated image's 5 neighbours have the same class. Two classifiers that know one
        half of the training images each, and only the nearest, agree about as often; and they agree about as often as
        each is right (Jiang et al. 2022, arXiv:2106.13799). The vote of 5 is right more often than that.
    class_balance: 1 - the total variation distance between the shares of the classes among generated images, by
        vote, and among training images, by label; 1 = the same shares.
    class_rarest: the smallest ratio of these shares, generated over real; 0 = a class is missing.
    class_agreement: share of generated images whose vote is the label that they were generated for, if they have one.

    Neighbours are those in the extractor's features; where these do not agree, those in coarse pixels, if given.
    Only the last has an error.

    Raises:
        NotAvailable: the training images have no labels, or only one; or the neighbours do not agree.
    """
    labels, generated = require_classes(comparison.real), comparison.generated
    sides = [(comparison.real, generated)] + ([comparison.pixels] if comparison.pixels else [])
    trusts = []
    for bank, queries in sides:
        neighbours = labels[queries.neighbours_in(bank)[1]]
        trusts.append(agreeing_pairs(neighbours))
        if trusts[-1] >= TRUSTED:
            break
    else:
        raise NotAvailable(
            f"a sample's nearest training images have the same class in only {max(trusts):.0%} of pairs, not "
            f"{TRUSTED:.0%}: what it shows cannot be told"
        )
    votes = vote(neighbours)
    estimates = {"class_trust": Estimate(trusts[-1]), **class_shares(labels, votes)}
    if generated.labels is not None:
        right = votes == generated.labels
        error = share_error(right, strata(generated.labels, len(right)))
        estimates["class_agreement"] = Estimate(float(right.mean()), error)
    return estimates


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


def agreeing_pairs(labels: np.ndarray) -> float:
    """The share of pairs of different neighbours that have the same label, over all rows of labels (N, k); k >= 2.

    >>> agreeing_pairs(np.array([[7, 2, 2], [7, 7, 7]]))       # 1 of 3 pairs, and 3 of 3
    0.6666666666666666
    """
    count, k = labels.shape
    same = int((labels[:, :, None] == labels[:, None, :]).sum()) - count * k
    return float(same / (count * k * (k - 1)))


def coarse_pixels(images: np.ndarray) -> FeatureSet:
    """Images uint8 (N, C, H, W) whose features are their pixels, averaged to at most 16 x 16: (N, C * 256)."""
    size = tuple(min(SIDE, length) for length in images.shape[2:])
    blocks = (torch.from_numpy(np.array(images[start : start + BLOCK])) for start in range(0, len(images), BLOCK))
    return FeatureSet(
        np.concatenate([F.adaptive_avg_pool2d(block.float(), size).flatten(1).numpy() for block in blocks])
    )
