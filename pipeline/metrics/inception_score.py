"""The Inception Score: are generated images recognisable, and of many classes? (Salimans et al. 2016, arXiv:1606.03498)

    IS = exp(mean over images of KL(p(y | x) || p(y))),   p(y) = mean over images of p(y | x)

1 at worst; the number of classes at best. It never looks at the real images. As in the TensorFlow original, the logits
of the 1,008 classes are the pool3 features times the class weights, without the bias.
"""

import numpy as np

from pipeline.core.randomness import stable_hash
from pipeline.metrics.types import Comparison, Estimate, NotAvailable

SPLITS = 10
BLOCK = 4096  # images whose logits are in memory at once


def inception_score(comparison: Comparison) -> dict[str, Estimate]:
    """The mean score of 10 splits of the generated images, and its standard error: their deviation / √10.

    Publications print the deviation itself, divided by 10 where this one is divided by 9. A split of fewer images
    scores lower, so only scores of as many images compare.
    """
    if comparison.head is None:
        raise NotAvailable("needs Inception's class weights")
    features = comparison.generated.features
    if len(features) < SPLITS:
        raise NotAvailable(f"needs at least {SPLITS} generated images")
    splits = assign_splits(len(features), SPLITS, stable_hash("inception_score"))
    scores = split_scores(features, comparison.head, splits)
    return {"inception_score": Estimate(float(scores.mean()), float(scores.std(ddof=1) / np.sqrt(SPLITS)))}


def assign_splits(count: int, splits: int, seed: int) -> np.ndarray:
    """A split for each image, int64 (count,) in 0..splits - 1, at random; their sizes differ by at most 1.

    At random, because images come in an order: sorted by class, neighbours would make splits of one class each, and
    taken from the classes in turn, every tenth image would.
    """
    return np.random.default_rng(seed).permutation(np.arange(count) % splits)


def split_scores(features: np.ndarray, head: np.ndarray, splits: np.ndarray) -> np.ndarray:
    """The score of each split, (S,), of features (N, D) under class weights (K, D); `splits` (N,) holds 0..S - 1."""
    weights = head.astype(np.float64).T
    count = int(splits.max()) + 1
    sizes = np.bincount(splits, minlength=count)
    sharpness = np.zeros(count)  # of each split, the sum over images of the sum over classes of p log p
    totals = np.zeros((count, weights.shape[1]))  # and the sum over images of p
    for start in range(0, len(features), BLOCK):
        logits = features[start : start + BLOCK].astype(np.float64) @ weights  # (B, D) (D, K) -> (B, K)
        logits -= logits.max(axis=1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        p = np.exp(log_p)
        members = (splits[start : start + BLOCK] == np.arange(count)[:, None]).astype(np.float64)  # (S, B)
        sharpness += members @ (p * log_p).sum(axis=1)
        totals += members @ p
    marginals = totals / sizes[:, None]
    logs = np.log(np.maximum(marginals, np.finfo(np.float64).tiny))  # a class that never occurs counts 0 log 0 = 0
    scores: np.ndarray = np.exp(sharpness / sizes - (marginals * logs).sum(axis=1))
    return scores
