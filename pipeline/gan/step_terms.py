"""The penalties of one step: what each weighs, and at which updates it is due."""

from dataclasses import dataclass

from pipeline.gan.penalties import PENALTIES
from pipeline.gan.schedules import value_at
from pipeline.gan.terms import Penalty
from pipeline.params import Recipe


@dataclass(frozen=True)
class Term:
    """A penalty as a step adds it: its weight, at every how many updates, and the name of its random stream."""

    name: str
    weight: float
    every: int
    stream: tuple[str, ...]

    @property
    def penalty(self) -> Penalty:
        return PENALTIES[self.name]

    @property
    def curve(self) -> str:
        return f"penalty/{self.name}"

    def due(self, index: int) -> bool:
        """Whether update number `index`, counted from 0, adds it."""
        return index % self.every == 0


def terms_at(recipe: Recipe, step: int, steps: int) -> list[Term]:
    """The recipe's penalty and its regularisers at a step of so many.

    A lazy one weighs as many times more as there are updates from one to the next (Karras et al. 2020,
    arXiv:1912.04958, section 3.1).
    """
    weight, every = value_at(recipe.penalty_weight, step, steps), recipe.penalty_every
    terms = [Term(recipe.penalty, weight * every, every, ("penalty",))]
    for name, value in recipe.regularisers.items():
        every = PENALTIES[name].every
        terms.append(Term(name, value * every, every, ("penalty", name)))
    return terms
