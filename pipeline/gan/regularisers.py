"""Regularisers for few images and for D's consistency; each is a function of an `Update` and an entry in PENALTIES.

The weights that were published with them: lecam 0.3 (0.01 to 0.5 by data set), cr 10, bcr 10, zcr 20 with zcr_g 0.5,
path_length 2.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.core.randomness import Draws
from pipeline.gan.terms import Update, full

LECAM_DECAY = 0.99  # of the moving means
REACH = 8  # an image is shifted by up to a so-many-th of its side
RADIUS = 0.05  # standard deviation of a step in the latents
PATH_DECAY = 0.99  # of the moving mean of path lengths
PATH_EVERY = 4  # updates of G between two measurements of them


def lecam_means() -> dict[str, Tensor]:
    """LeCam's moving means of D's logits, of real images and of fakes, and how many updates they have seen."""
    return {"real": torch.zeros(()), "fake": torch.zeros(()), "seen": torch.zeros(())}


def lecam(update: Update) -> Tensor:
    """mean relu(D(x) - a_fake)^2 + mean relu(a_real - D(y))^2 (Tseng et al. 2021, arXiv:2104.03310, equation 5).

    a_real and a_fake are the moving means with this update's logits in them. They are divided by 1 - 0.99^t, so that
    they are means from the first update on.
    """
    own, real, fake = update.own, update.real_logits, update.fake_logits
    assert real is not None and fake is not None
    own["seen"].add_(1)
    for name, logits in (("real", real), ("fake", fake)):
        own[name].lerp_(update.world.mean(logits.detach().mean()), 1 - LECAM_DECAY)
    weight = 1 - LECAM_DECAY ** own["seen"]
    above, below = real - own["fake"] / weight, own["real"] / weight - fake
    return F.relu(above).square().mean() + F.relu(below).square().mean()


def path_mean() -> dict[str, Tensor]:
    """The moving mean of path lengths."""
    return {"mean": torch.zeros(())}


def path_length(update: Update) -> Tensor:
    """mean (|J^T y| - a)^2: G's images move as far as its style does, wherever (Karras et al. 2020, equation 4).

    J is the derivative of the image by the style w, y an image of noise from N(0, 1) / sqrt(pixels), and a the moving
    mean of the lengths |J^T y|, with this update's in it (arXiv:1912.04958, appendix B). Half of the batch is measured.
    Where each layer has a style of its own, the squared length is the mean over layers.
    """
    latents, generator = update.latents, update.generator
    assert latents is not None
    half = len(latents) - len(latents) // 2
    styled: Any = generator  # `needs_styles` says that it has both methods
    styles = styled.styles(latents[:half], update.fake_labels[:half])
    images = full(styled.synthesise(styles))
    noise = update.draws.randn(*images.shape) / images[0, 0].numel() ** 0.5
    (moved,) = torch.autograd.grad((images * noise).sum(), styles, create_graph=True)
    # By `norm`, whose gradient is 0 at length 0 where that of a square root would be infinite.
    lengths = full(moved).flatten(1).norm(dim=1) / styles.shape[1] ** 0.5
    update.own["mean"].lerp_(update.world.mean(lengths.detach().mean()), 1 - PATH_DECAY)
    value: Tensor = (lengths - update.own["mean"]).square().mean()
    return value


def consistency(update: Update) -> Tensor:
    """CR: mean (D(x) - D(T(x)))^2 of real images (Zhang et al. 2020, arXiv:1910.12027, equation 3)."""
    assert update.real is not None and update.real_labels is not None and update.real_logits is not None
    return _disagreement(update, update.real, update.real_labels, update.real_logits)


def balanced_consistency(update: Update) -> Tensor:
    """bCR: the same of real images and of fakes, equally weighted (Zhao et al. 2021, arXiv:2002.04724, algorithm 1)."""
    assert update.fake_logits is not None
    return consistency(update) + _disagreement(update, update.fake, update.fake_labels, update.fake_logits)


def latent_consistency(update: Update) -> Tensor:
    """zCR for D: mean (D(G(z)) - D(G(z + e)))^2, e from N(0, 0.05^2) (Zhao et al. 2021, algorithm 2)."""
    assert update.fake_logits is not None
    with torch.no_grad():
        moved = _moved_images(update)
    logits = full(update.discriminator(update.show(moved, "fake"), update.fake_labels))
    return (update.fake_logits - logits).square().mean()


def latent_diversity(update: Update) -> Tensor:
    """zCR for G: minus the mean squared difference of the pixels of G(z) and G(z + e); so G tells latents apart."""
    assert update.fake_images is not None
    return -(full(update.fake_images) - _moved_images(update)).square().mean()


def _moved_images(update: Update) -> Tensor:
    latents, draws = update.latents, update.draws
    assert latents is not None
    step = RADIUS * draws.randn(*latents.shape)
    return update.generator(latents + step, update.fake_labels)


def _disagreement(update: Update, images: Tensor, labels: Tensor, logits: Tensor) -> Tensor:
    changed = full(update.discriminator(_flipped_and_shifted(full(images), update.draws), labels))
    return (logits - changed).square().mean()


def _flipped_and_shifted(images: Tensor, draws: Draws) -> Tensor:
    """Each image mirrored or not, then moved by up to an eighth of its side both ways, its edge mirrored inwards."""
    count, _, height, width = images.shape
    device = images.device
    flipped = draws.rand(count, 1, 1, 1) < 0.5
    images = torch.where(flipped, images.flip(-1), images)
    places = []
    for size in (height, width):
        reach = size // REACH
        shift = draws.randint(0, 2 * reach + 1, (count, 1)) - reach
        place = (torch.arange(size, device=device) + shift).abs()  # (N, size)
        places.append(torch.where(place < size, place, 2 * (size - 1) - place))
    rows, columns = places[0][:, None, :, None], places[1][:, None, None, :]
    of_image = torch.arange(count, device=device)[:, None, None, None]
    return images[of_image, torch.arange(images.shape[1], device=device)[:, None, None], rows, columns]
