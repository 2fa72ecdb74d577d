"""What a metric is given, two or three sets of features, and what it returns, estimates by name."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from pipeline.core.errors import PipelineError
from pipeline.metrics.frechet import Gaussian
from pipeline.metrics.neighbours import nearest

NEIGHBOURS = 5  # as many are looked up for each image: what density and coverage use; precision and recall also use 3


class Estimate(NamedTuple):
    """A metric's value, and the standard error that it has because samples are finitely many (None = not estimated).

    The error says nothing about training: what another training seed would give is another matter.
    """

    value: float
    error: float | None = None


class NotAvailable(Exception):
    """A metric that is not defined for these sets; the text says why, in a few words."""


class FeatureSet:
    """One set of images under an extractor: float32 (N, D), perhaps memory-mapped, and int64 labels (N,) if known.

    A set of which only the Gaussian is known (a statistics file) has no features: asking for them raises
    `NotAvailable`.
    """

    def __init__(
        self,
        features: np.ndarray | None,
        labels: np.ndarray | None = None,
        gaussian: Gaussian | None = None,
        neighbour_distances: np.ndarray | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        assert features is not None or gaussian is not None
        self._features, self.labels, self.device = features, labels, torch.device(device)
        self._gaussian, self._neighbour_distances = gaussian, neighbour_distances
        self._found: dict[FeatureSet, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return self.gaussian.count if self._features is None else len(self._features)

    @property
    def features(self) -> np.ndarray:
        """float32 (N, D)"""
        if self._features is None:
            raise NotAvailable("one side is statistics without features")
        return self._features

    @property
    def gaussian(self) -> Gaussian:
        """The Gaussian fitted to the features, once."""
        if self._gaussian is None:
            if len(self.features) < 2:
                raise PipelineError(f"a covariance needs at least 2 images, got {len(self.features)}")
            self._gaussian = Gaussian.from_features(self.features)
        return self._gaussian

    @property
    def has_neighbour_distances(self) -> bool:
        """Whether `neighbour_distances` were given, or looked up already."""
        return self._neighbour_distances is not None

    @property
    def neighbour_distances(self) -> np.ndarray:
        """Of each image, the distances to its 5 nearest others in the set, ascending: float32 (N, 5); looked up once.

        Raises:
            NotAvailable: the set has 5 images or fewer, or no features.
        """
        if self._neighbour_distances is None:
            if len(self.features) <= NEIGHBOURS:
                raise NotAvailable(f"{NEIGHBOURS} neighbours need more than {NEIGHBOURS} images")
            found = nearest(self.features, self.features, NEIGHBOURS, self.device, exclude_self=True)
            self._neighbour_distances = found[0]
        return self._neighbour_distances

    def neighbours_in(self, bank: "FeatureSet") -> tuple[np.ndarray, np.ndarray]:
        """Of each image, its 5 nearest images in `bank` (fewer if it has fewer), nearest first; looked up once.

        Returns distances float32 (N, 5) and indices into `bank` int64 (N, 5).
        """
        if bank not in self._found:
            count = min(NEIGHBOURS, len(bank))
            self._found[bank] = nearest(self.features, bank.features, count, self.device)
        return self._found[bank]


@dataclass(frozen=True)
class Comparison:
    """What a metric is computed from.

    real: the images that generated ones should look like: the training split.
    held_out: real images that no model was trained on, None if there are none.
    metric: what the Fréchet distance is called under this extractor: `fid`, or `fd_<extractor>`.
    head: class weights (K, D) of the extractor, so that logits = features @ head.T; None if it has none.
    bootstrap: resamples for the Fréchet distance's sampling error; 0 leaves it out.
    infinity: whether the Fréchet distance is extrapolated to infinitely many generated images.
    pixels: `real` and `generated` by their pixels instead of features, see `coarse_pixels`; None if not known.
    """

    real: FeatureSet
    generated: FeatureSet
    held_out: FeatureSet | None
    metric: str
    head: np.ndarray | None
    bootstrap: int
    infinity: bool
    pixels: tuple[FeatureSet, FeatureSet] | None = None
