"""What is drawn in an attempt: a function of the seed, the group and the attempt's number."""

import random
from collections.abc import Sequence
from typing import TypeVar

Choice = TypeVar("Choice")


class RandomFaults(random.Random):
    """Draws of one attempt; `in_turn` alone does not draw.

    >>> [RandomFaults(7, "disk", number).in_turn("abc") for number in range(4)]
    ['b', 'c', 'a', 'b']
    """

    def __init__(self, seed: int, group: str, number: int) -> None:
        super().__init__(f"{seed}/{group}/{number}")
        self._turn = seed + number

    def __new__(cls, *_: object) -> "RandomFaults":
        return super().__new__(cls)

    def in_turn(self, choices: Sequence[Choice]) -> Choice:
        """The next of the choices: so as many attempts as there are choices try each of them."""
        return choices[self._turn % len(choices)]
