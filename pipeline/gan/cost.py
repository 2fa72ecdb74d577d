"""What a training step costs, in multiply-adds: to train the longest first, and to estimate hours on a GPU."""

import torch

from pipeline.gan.penalties import PENALTIES
from pipeline.models import NETWORKS, build_gan
from pipeline.models.summary import inputs_of, summarise
from pipeline.params import Recipe


def step_total(g: int, d: int, n_critic: int, batch: int, penalised: bool, every: int = 1) -> int:
    """A quantity of one training step, given that of one image passing forwards through G and D.

    With d the quantity of D and g that of G, a backward pass costing twice a forward one:
    n_critic batch (g + 6 d) for the updates of D, batch (3 g + 2 d) for that of G, whose step needs no gradient of D's
    weights, and n_critic batch 6 d more for a penalty of D, each `every` updates. Where there is no D, n_critic and d
    are 0: a flow's velocity passes forwards and back, 3 batch g.
    """
    penalty = 6 * n_critic * d // every if penalised else 0
    return batch * (n_critic * (g + 6 * d) + penalty + 3 * g + 2 * d)


def in_training(recipe: Recipe) -> tuple[Recipe, int]:
    """The recipe with a G that costs what it does in a step of training, and the updates of D in it.

    A flow evaluates its velocity once then, and has no D.
    """
    if not NETWORKS[recipe.network].flow:
        return recipe, recipe.n_critic
    return recipe.model_copy(update={"sampling_steps": 1, "solver": "euler"}), 0


def step_cost(recipe: Recipe, image_shape: tuple[int, int, int], n_classes: int) -> int:
    """Multiply-adds of one training step; networks are built on the meta device, where they take no memory."""
    recipe, n_critic = in_training(recipe)
    with torch.device("meta"):
        gan, (to_g, to_d) = build_gan(recipe, image_shape, n_classes, seed=0), inputs_of(recipe, image_shape)
        g, d = (
            sum(row.multiply_adds for row in summarise(network, given))
            for network, given in ((gan.generator, to_g), (gan.discriminator, to_d))
        )
    penalty = PENALTIES[recipe.penalty]
    penalised = penalty.value is not None and penalty.of == "discriminator"
    return step_total(g, d, n_critic, recipe.batch_size, penalised, recipe.penalty_every)
