"""How many of the 1,000 modes of stacked MNIST a generator makes, and how evenly (Metz et al. 2017, arXiv:1611.02163).

A small classifier, trained here on the digits of the real images, reads the three digits of an image.

    modes     how many of the 1,000 triples come at all
    modes_kl  sum over triples that come of q log(1000 q), q being their shares: 0 if all come equally often
"""

import functools

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.randomness import rng, stable_hash
from pipeline.data.stacked import NAME
from pipeline.metrics.applicable import NotApplicable
from pipeline.metrics.class_votes import coarse_pixels
from pipeline.metrics.classes import require_classes
from pipeline.metrics.types import Comparison, Estimate, FeatureSet, NotAvailable

MODES, SAMPLES = 1000, 26_000  # as many samples as others count: few enough for the KL of real triples to be 0.02
PLACES = np.array([100, 10, 1])  # of the digits in the number of a triple
STEPS, BATCH, LEARNING_RATE = 2000, 128, 2e-3  # four passes over MNIST; the rate falls to 0
TRUSTED = 0.97  # of the real digits that the classifier must read right
TOGETHER = 1000  # images that are read at once


class StackedDigits(FeatureSet):
    """Images uint8 (N, 3, S, S) whose channels are digits; as features, their coarse pixels."""

    def __init__(self, images: np.ndarray) -> None:
        super().__init__(coarse_pixels(images).features)
        self.images = images


def pixels_of(images: np.ndarray, dataset: str | None) -> FeatureSet:
    """Images uint8 (N, C, S, S) of a data set as `Comparison.pixels` has them."""
    return StackedDigits(images) if dataset == NAME else coarse_pixels(images)


def modes(comparison: Comparison) -> dict[str, Estimate]:
    """`modes` and `modes_kl` of 26,000 generated images, or of all if there are fewer, and what real ones have.

    modes_real, modes_kl_real: the same of as many triples of real digits, drawn at random. That is the floor.
    digit_accuracy: of the classifier, on the real digits of the first channel, which it has learnt from.

    Only the real images' labels are looked at: 100 a + 10 b + c for the digits a, b, c of the three channels.

    Raises:
        NotApplicable: the images are not those of stacked MNIST.
        NotAvailable: the classifier did not learn to read the real digits.
    """
    stacked = [side.images for side in comparison.pixels or () if isinstance(side, StackedDigits)]
    if len(stacked) < 2:
        raise NotApplicable(f"only {NAME} has modes that are known")
    (real, generated), labels = stacked, require_classes(comparison.real)
    classifier, read = _trained(_Digits(real, labels))
    accuracy = float((read == labels // 100).mean())
    if accuracy < TRUSTED:
        raise NotAvailable(f"the classifier reads only {accuracy:.1%} of the real digits right")
    source = np.random.default_rng(stable_hash("modes"))
    count = min(SAMPLES, len(generated))
    chosen = np.sort(source.permutation(len(generated))[:count])
    found, kl = count_modes(read_digits(classifier, generated[chosen]) @ PLACES)
    found_real, kl_real = count_modes(read[source.integers(len(read), size=(count, 3))] @ PLACES)
    values = {"modes": found, "modes_kl": kl, "modes_real": found_real, "modes_kl_real": kl_real}
    return {name: Estimate(float(value)) for name, value in {**values, "digit_accuracy": accuracy}.items()}


def count_modes(triples: np.ndarray) -> tuple[int, float]:
    """How many of the 1,000 triples come, and the divergence of their shares from equal ones, KL(q || 1/1000).

    >>> count_modes(np.array([7, 7, 7])), count_modes(np.arange(1000))
    ((1, 6.907755278982137), (1000, 0.0))
    """
    counts = np.bincount(triples, minlength=MODES)
    shares = counts[counts > 0] / len(triples)
    return len(shares), float((shares * np.log(MODES * shares)).sum())


@torch.inference_mode()
def read_digits(classifier: nn.Module, images: np.ndarray) -> np.ndarray:
    """int64 (N, C): the digit in each channel of images uint8 (N, C, S, S)."""
    found = []
    for start in range(0, len(images), TOGETHER):
        block = torch.from_numpy(np.array(images[start : start + TOGETHER]))
        logits = classifier(block.flatten(0, 1)[:, None])  # (N, C, S, S) -> (N C, 1, S, S) -> (N C, 10)
        found.append(logits.argmax(dim=1).view(len(block), -1))
    return torch.cat(found).numpy()


class Classifier(nn.Module):
    """Digits uint8 (N, 1, S, S) to logits (N, 10): two convolutions and two linear layers, as LeNet has them."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 5, 2, 2), nn.ReLU(), nn.Flatten(),
            nn.Linear(32 * (-(-size // 4)) ** 2, 128), nn.ReLU(), nn.Linear(128, 10),
        )  # fmt: skip

    def forward(self, digits: Tensor) -> Tensor:
        logits: Tensor = self.layers(digits.float() / 255)
        return logits


class _Digits:
    """The real images and their labels, by whose identity a trained classifier is kept for the next measurement."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = images, labels

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Digits) and (self.images is other.images and self.labels is other.labels)

    def __hash__(self) -> int:
        return hash((id(self.images), id(self.labels)))


@functools.lru_cache(maxsize=1)
def _trained(real: _Digits) -> tuple[Classifier, np.ndarray]:
    """A classifier trained on all channels of the real images, and the digits that it reads in the first, int64 (N,).

    On the CPU, and the same every time.
    """
    count, channels, size, _ = real.images.shape
    targets = torch.from_numpy(real.labels[:, None] // PLACES % 10)  # (N, 3)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(stable_hash("digits"))
        classifier = Classifier(size)
        optimiser = torch.optim.Adam(classifier.parameters(), LEARNING_RATE)
        for step in range(STEPS):
            optimiser.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / STEPS)
            places = torch.randint(count * channels, (BATCH,), generator=rng("cpu", "digits", step))
            rows, which = places // channels, places % channels
            digits = torch.from_numpy(real.images[rows.numpy(), which.numpy()])[:, None]  # (B, 1, S, S)
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(classifier(digits), targets[rows, which]).backward()
            optimiser.step()
    return classifier.eval(), read_digits(classifier, real.images[:, :1])[:, 0]
