"""Stacked MNIST: three digits as the channels of one image, a data set whose 1,000 modes are known.

Metz et al. 2017 (arXiv:1611.02163), section 3.3.1.
"""

import numpy as np

from pipeline.data.source import Items, Source

NAME = "stacked_mnist"


def stacked(digits: Source, seed: int) -> Source:
    """Triples of a data set of grey digits: as many in each split as it has images, each image once in each channel.

    Which digits come together hangs on the seed alone. The label of an image is 100 a + 10 b + c for its digits a, b, c
    in red, green and blue, and the name of its class the three digits.
    """
    assert digits.test is not None and len(digits.classes) == 10
    names = tuple(f"{number:03d}" for number in range(1000))
    return Source(names, _triples(digits.train, "train", seed), _triples(digits.test, "test", seed), digits.skipped)


def _triples(digits: Items, split: str, seed: int) -> Items:
    import torch  # here, since it is slow to import and `check` needs none of this

    from pipeline.core.randomness import rng

    count = len(digits.labels)
    orders = [torch.randperm(count, generator=rng("cpu", seed, NAME, split, channel)).tolist() for channel in range(3)]
    places = list(zip(*orders, strict=True))
    labels = [100 * digits.labels[a] + 10 * digits.labels[b] + digits.labels[c] for a, b, c in places]

    def picture(index: int) -> np.ndarray:
        return np.stack([np.asarray(digits.picture(place)) for place in places[index]], axis=2)  # (H, W, 3)

    return Items(labels, picture)
