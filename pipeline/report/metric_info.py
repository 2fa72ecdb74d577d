"""METRIC_INFO: what each further metric is called, what it says, which direction is better, and what is suspicious.

A metric that stands not here is shown all the same, under its own name.
"""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class MetricInfo:
    """What a reader needs to know of a metric.

    better: `higher`, `lower`, or the value that is wanted; empty where the metric judges no generator.
    measured_by: its name in pipeline.metrics.METRICS, under which it says why it is lacking.
    places: decimals; None = as many as its smallest value needs.
    """

    title: str
    better: str
    text: str
    suspicious: str
    measured_by: str
    places: int | None = 3


# {metric} stands for the distance (fid, fd_<extractor>), {kernel} for its kernel distance (kid, kd_<extractor>).
METRIC_INFO: dict[str, MetricInfo] = {
    "{metric}_infinity": MetricInfo(
        "distance at infinite N",
        "lower",
        "The distance extrapolated to infinitely many generated images; the real side keeps its own bias.",
        "Far below the ranked value: more samples are needed before models are compared by it.",
        "fid_infinity",
        None,
    ),
    "{kernel}": MetricInfo(
        "kernel distance",
        "lower",
        "Another distance between the two sets of features, unbiased at any number of images.",
        "It orders the models differently from the ranking: then the ranking's bias may decide.",
        "kid",
        None,
    ),
    "inception_score": MetricInfo(
        "inception score",
        "higher",
        "Whether single images look like one ImageNet class and all together like many; no real image is looked at.",
        "Above that of real images: it can be driven up by what is no good image.",
        "inception_score",
        2,
    ),
    "precision": MetricInfo(
        "precision",
        "higher",
        "The share of generated images that lie among the real ones: how good single images are.",
        "High where recall is low: few, safe images.",
        "prdc",
    ),
    "recall": MetricInfo(
        "recall",
        "higher",
        "The share of real images that lie among the generated ones: how much of the variety is there.",
        "High where precision is low: single images far off widen what counts as among them.",
        "prdc",
    ),
    "density": MetricInfo(
        "density",
        "higher",
        "Precision that counts how many real images are near; single odd real images change it less.",
        "Well above 1: the samples crowd where real images are densest.",
        "prdc",
    ),
    "coverage": MetricInfo(
        "coverage",
        "higher",
        "The share of real images that have a generated one near: variety that odd samples do not raise.",
        "Far below that of real test images: part of the data is missing.",
        "prdc",
    ),
    "precision_k3": MetricInfo(
        "precision, k = 3",
        "higher",
        "Precision by 3 neighbours instead of 5, as first published.",
        "As for precision.",
        "prdc",
    ),
    "recall_k3": MetricInfo(
        "recall, k = 3",
        "higher",
        "Recall by 3 neighbours instead of 5, as first published.",
        "As for recall.",
        "prdc",
    ),
    "nearest_ratio": MetricInfo(
        "nearest ratio",
        "about 1",
        "The median distance to the nearest training image, as a multiple of that of held-out test images.",
        "Well below 1: samples are nearer to training images than new real images are, as copies would be. "
        "Well above 1: they are far from all real images.",
        "memorisation",
    ),
    "copies": MetricInfo(
        "copies",
        "about 0.01",
        "The share of samples that are nearer to a training image than 99% of held-out test images are.",
        "Far above 0.01: training images are reproduced. A model whose samples are far from everything has few too.",
        "memorisation",
    ),
    "class_balance": MetricInfo(
        "class balance",
        "higher",
        "1 where classes are as frequent among samples as among training images, by a vote of neighbours; 0 at worst.",
        "Low: some classes are made too often, others too rarely.",
        "classes",
    ),
    "class_rarest": MetricInfo(
        "rarest class",
        "about 1",
        "The class that is made most rarely, compared with its share of the training images.",
        "Near 0: a class is missing.",
        "classes",
    ),
    "class_agreement": MetricInfo(
        "class agreement",
        "higher",
        "The share of samples whose class by the vote is the one that they were asked to be.",
        "Not above what chance gives: the network ignores the class.",
        "classes",
    ),
    "class_vote_accuracy": MetricInfo(
        "accuracy of the vote",
        "",
        "How often the vote is right about test images: how far the rows about classes can be trusted.",
        "Low: do not trust them.",
        "classes",
    ),
    "{metric}_class_mean": MetricInfo(
        "mean distance of classes",
        "lower",
        "The mean of the distances of single classes, each from few images and so biased upwards.",
        "Much worse than another model's where the ranked values are alike: classes are mixed up.",
        "classes",
        None,
    ),
}  # fmt: skip


def metric_info(metric: str) -> dict[str, MetricInfo]:
    """METRIC_INFO by the names that metrics have where the distance is called `metric`.

    >>> list(metric_info("fid"))[:2], list(metric_info("fd_net"))[:2]
    (['fid_infinity', 'kid'], ['fd_net_infinity', 'kd_net'])
    """
    kernel = "kid" if metric == "fid" else "kd_" + metric.removeprefix("fd_")
    return {key.format(metric=metric, kernel=kernel): meaning for key, meaning in METRIC_INFO.items()}


def class_prefix(metric: str) -> str:
    """With what the names of single classes' distances begin; the class's label follows."""
    return f"{metric}_class/"


def in_order(keys: Collection[str], metric: str) -> list[str]:
    """Those of METRIC_INFO first, in its order, then unknown ones by name; single classes are left out."""
    known = [key for key in metric_info(metric) if key in keys]
    return known + sorted(key for key in keys if key not in known and not key.startswith(class_prefix(metric)))
