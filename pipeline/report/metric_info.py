"""METRIC_INFO: for each further metric its title, explanation, better direction, and what is suspicious.

Metrics without an entry are still shown, under their own names.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from pipeline.core.metric_names import cmmd_name, further_name, kernel_name, monge_name


@dataclass(frozen=True)
class MetricInfo:
    """What a reader needs to know about a metric.

    better: `higher`, `lower`, or the desired value; empty if the metric does not judge a generator.
    measured_by: the metric's name in pipeline.metrics.METRICS, under which the reason for a missing value is given.
    places: decimals; None = as many as the smallest value needs.
    """

    title: str
    better: str
    measured_by: str
    text: str
    suspicious: str
    places: int | None = 3


# {metric} stands for the distance (fid, fd_<extractor>), {kernel} for its kernel distance (kid, kd_<extractor>),
# {cmmd} for CMMD, {monge} for its Monge distance (mind, md_<extractor>).
METRIC_INFO: dict[str, MetricInfo] = {
    "{metric}_infinity": MetricInfo(
        "distance at infinite N", "lower", "fid_infinity",
        "The distance extrapolated to infinitely many generated images; the real side keeps its own bias.",
        "Far below the ranked value: more samples are needed before models are compared by the ranked value.",
        places=None,
    ),
    "{kernel}": MetricInfo(
        "kernel distance", "lower", "kid",
        "The squared maximum mean discrepancy of the two sets of features; unbiased for any number of images.",
        "It orders models differently: the bias of the ranked distance may then decide the ranking.",
        places=None,
    ),
    "{cmmd}": MetricInfo(
        "CMMD", "lower", "cmmd",
        "The squared maximum mean discrepancy of CLIP's embeddings, times 1,000.",
        "It was validated for images of 256 pixels and more: on smaller ones it may disagree with what people see.",
        places=None,
    ),
    "{monge}": MetricInfo(
        "Monge distance (MIND)", "lower", "mind",
        "The mean squared gap between the sorted values of the two sets along random directions. Unlike the ranked "
        "distance it does not assume that the sets are Gaussian.",
        "It orders models differently: they differ in more than means and covariances.",
        places=None,
    ),
    "inception_score": MetricInfo(
        "inception score", "higher", "inception_score",
        "High if each image looks like one ImageNet class and all images together like many. It uses no real images.",
        "Above that of real images: images need not be good to raise it.",
        places=2,
    ),
    "precision": MetricInfo(
        "precision", "higher", "prdc",
        "The share of generated images that lie among the real ones: the quality of single images. Blur can raise it, "
        "and so can plain grey: read it with recall.",
        "High with low recall: little variety, or images so plain that they lie amid all real ones.",
    ),
    "recall": MetricInfo(
        "recall", "higher", "prdc",
        "The share of real images that lie among the generated ones: how much of the real variety is covered.",
        "High with low precision: a few far-off images widen the region that counts as covered.",
    ),
    "density": MetricInfo(
        "density", "higher", "prdc",
        "Precision weighted by the number of real images nearby; less sensitive to single odd ones. Blur can raise it, "
        "and so can plain grey.",
        "Well above 1: the samples crowd where the real images are densest.",
    ),
    "coverage": MetricInfo(
        "coverage", "higher", "prdc",
        "The share of real images with a generated image nearby. Unlike recall, odd samples do not raise it.",
        "Far below that of real test images: part of the data is missing.",
    ),
    "precision_k3": MetricInfo(
        "precision, k = 3", "higher", "prdc",
        "Precision with 3 neighbours instead of 5, as first published.",
        "As for precision.",
    ),
    "recall_k3": MetricInfo(
        "recall, k = 3", "higher", "prdc",
        "Recall with 3 neighbours instead of 5, as first published.",
        "As for recall.",
    ),
    "rarity": MetricInfo(
        "rarity", "as real images", "rarity",
        "How uncommon the samples are that lie among the real images: the mean radius of the smallest ball around a "
        "real image that holds them. Real images are far apart where they are rare.",
        "Far below that of real test images: only common images are generated.",
        places=None,
    ),
    "vendi": MetricInfo(
        "Vendi score", "as real images", "vendi",
        "How many different images there are in effect, from the angles between features. It uses no real images, and "
        "it rises with the number of images.",
        "Far below that of as many real images: little variety. Above it: other variety than the data's, as noise has.",
        places=2,
    ),
    "nearest_ratio": MetricInfo(
        "nearest ratio", "about 1", "memorisation",
        "The median distance to the nearest training image, divided by that of held-out test images. Blur and noise "
        "can lower it, without any copy.",
        "Well below 1: samples are closer to training images than new real images are, as copies would be. "
        "Well above 1: they are far from all real images.",
    ),
    "copies": MetricInfo(
        "copies", "about 0.01", "memorisation",
        "The share of samples that equal a training image or are closer to one than 99% of held-out test images are. "
        "It finds exact copies, but misses most that are shifted or compressed.",
        "Far above 0.01: training images are reproduced. Samples far from all real images give a low value too.",
    ),
    "auth_pct": MetricInfo(
        "authentic, %", "as real images", "authenticity",
        "The percentage of samples whose nearest training image is nearer to another training image than to them "
        "(AuthPct).",
        "Far below that of real test images: near copies. Far above it: samples far from all real images.",
        places=1,
    ),
    "held_out_duplicates": MetricInfo(
        "held-out duplicates", "", "memorisation",
        "How many held-out test images equal a training image. They are left out of the two rows above.",
        "Many: the splits overlap, so the distance of real test images is too low as well.",
        places=0,
    ),
    "class_balance": MetricInfo(
        "class balance", "higher", "class_votes",
        "1 if classes are as frequent among samples as among training images; 0 at worst. Neighbours decide the class.",
        "Low: some classes are generated too often, others too rarely.",
    ),
    "class_rarest": MetricInfo(
        "rarest class", "about 1", "class_votes",
        "The rarest class: its share of the samples divided by its share of the training images.",
        "Near 0: a class is missing.",
    ),
    "class_agreement": MetricInfo(
        "class agreement", "higher", "class_votes",
        "The share of samples whose nearest training images have the requested class.",
        "No better than chance: the network ignores the class.",
    ),
    "class_trust": MetricInfo(
        "trust in neighbours", "", "class_votes",
        "How often two of a sample's nearest training images have the same class: how far to trust the rows about "
        "classes. Below 0.9 these are left out.",
        "Near 0.9: of ten votes one may err.",
    ),
    "modes": MetricInfo(
        "modes, of 1,000", "higher", "modes",
        "How many different triples of digits a classifier reads in 26,000 samples (or all, if fewer).",
        "Well below that of as many real triples: the generator leaves modes out.",
        places=0,
    ),
    "modes_kl": MetricInfo(
        "KL of the modes", "lower", "modes",
        "How unevenly the triples are distributed: the KL divergence of their shares from equal shares.",
        "Well above that of as many real triples: some modes are far too frequent.",
        places=4,
    ),
    "modes_real": MetricInfo(
        "modes of real triples", "", "modes",
        "The number of modes among as many triples of real digits: the highest that can be expected.",
        "Below 1,000: too few images to show all modes.",
        places=0,
    ),
    "modes_kl_real": MetricInfo(
        "KL of real triples", "", "modes",
        "The same for as many triples of real digits. It is the floor: in a finite sample shares are never equal.",
        "Far above 500 / the number of images: the classifier errs, or the data are uneven.",
        places=4,
    ),
    "digit_accuracy": MetricInfo(
        "digits read right", "", "modes",
        "The share of real digits that the classifier reads right. It has learnt from them.",
        "Below 0.98: the modes are counted roughly.",
        places=4,
    ),
    "{metric}_class_mean": MetricInfo(
        "mean distance of classes", "lower", "classes",
        "The mean of the distances within single classes. Each has few images and is biased upwards.",
        "Much worse than another model's at a similar ranked value: classes are mixed up.",
        places=None,
    ),
}  # fmt: skip


DISTANCE = MetricInfo(
    "distance",
    "lower",
    "",
    "The Fréchet distance between features of another network than the one used for the ranking.",
    "It orders models differently: what the ranking network sees may not be all that matters.",
    places=None,
)


RATIO = MetricInfo(
    "times the floor",
    "lower",
    "",
    "This distance divided by that of equally many real test images: about 1 is as good as real images.",
    "Far from the ranked ratio: the two networks look at different things.",
    places=2,
)


def metric_info(metric: str, further: Mapping[str, str] = {}) -> dict[str, MetricInfo]:
    """METRIC_INFO by the names of the metrics if the distance is called `metric`.

    further: names of further extractors, and what the distance under each is called; their metrics follow.

    >>> list(metric_info("fid"))[:2], list(metric_info("fd_net"))[:2]
    (['fid_infinity', 'kid'], ['fd_net_infinity', 'kd_net'])
    """
    names = {"metric": metric, "kernel": kernel_name(metric), "monge": monge_name(metric), "cmmd": cmmd_name(metric)}
    known = {key.format(**names): info for key, info in METRIC_INFO.items()}
    for name, distance in further.items():
        known[distance] = replace(DISTANCE, title=f"distance, {name}", measured_by=distance)
        known[f"{name}/ratio_to_floor"] = replace(RATIO, title=f"times the floor, {name}", measured_by=distance)
        for key, info in metric_info(distance).items():
            known[further_name(key, name, distance)] = replace(
                info, title=f"{info.title}, {name}", measured_by=distance
            )
    return known


def class_prefix(metric: str) -> str:
    """The prefix of the names of single classes' distances; the label of the class follows."""
    return f"{metric}_class/"


def in_order(keys: Collection[str], metric: str, further: Mapping[str, str] = {}) -> list[str]:
    """`keys` with those of METRIC_INFO first, in its order, then unknown ones by name; single classes are left out."""
    known = [key for key in metric_info(metric, further) if key in keys]
    return known + sorted(key for key in keys if key not in known and not key.startswith(class_prefix(metric)))
