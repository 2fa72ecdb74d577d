"""Random numbers from a stable hash of (seed, stream, step), everywhere in the project.

A draw is a function of its name, never of earlier draws. A checkpoint therefore needs no random state, and a run that
was killed and resumed draws exactly what it would have drawn. (The idea is that of edm2, `training_loop.py`.)
"""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator

import torch

from pipeline.core.world import ALONE, World


def stable_hash(*parts: object) -> int:
    """A 63-bit integer that depends only on the text of `parts`: the same in every process and on every machine.

    >>> stable_hash(0, "latents", 7) == stable_hash(0, "latents", 7) != stable_hash(0, "latents", 8)
    True
    """
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def rng(device: torch.device | str, *parts: object) -> torch.Generator:
    """A fresh torch generator on `device`, seeded by `stable_hash(*parts)`.

    The generator for `meta` tensors, which hold no numbers, is on the CPU.
    """
    device = torch.device(device)
    return torch.Generator("cpu" if device.type == "meta" else device).manual_seed(stable_hash(*parts))


class Draws:
    """Random numbers for the images of a batch, from a source such as `rng`.

    Where a batch is shared by several ranks, each draws for the whole of it and keeps its own images' numbers. So a
    shape names this rank's images, as one has them, along the dimension `of` (0 unless said).
    """

    def __init__(
        self, source: torch.Generator | None, device: torch.device | str = "cpu", world: World = ALONE
    ) -> None:
        self._source, self._device, self._world = source, device, world

    def rand(self, *shape: int, of: int = 0) -> torch.Tensor:
        """Uniform numbers in [0, 1), float32."""
        return self._own(torch.rand, shape, of)

    def randn(self, *shape: int, of: int = 0) -> torch.Tensor:
        """Normal numbers, float32."""
        return self._own(torch.randn, shape, of)

    def randint(self, low: int, high: int, shape: tuple[int, ...], of: int = 0) -> torch.Tensor:
        """Whole numbers from `low` to `high` - 1, int64."""
        return self._own(functools.partial(torch.randint, low, high), shape, of)

    def _own(self, draw: Callable[..., torch.Tensor], shape: tuple[int, ...], of: int) -> torch.Tensor:
        whole = tuple(size * self._world.size if place == of else size for place, size in enumerate(shape))
        return self._world.part(self._drawn(draw, whole), of)

    def _drawn(self, draw: Callable[..., torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
        return draw(shape, generator=self._source, device=self._device)


def named_draws(device: torch.device | str, world: World, *parts: object) -> Draws:
    """The random numbers that `parts` name, as `rng` does. The last part is the index of an update.

    While a `Tape` records or plays, they are its numbers.
    """
    if Tape.running is not None:
        return Tape.running.draws(device, world, *parts)
    return Draws(rng(device, *parts), device, world)


class Tape:
    """The random numbers of one update, each in a tensor of its own, so that another update finds its numbers there.

    A captured CUDA graph reads and writes the same memory whenever it is replayed, and can draw no named numbers. So
    one update is recorded, its numbers are drawn anew before each replay, and the captured update finds them in place.
    """

    running: "Tape | None" = None  # in one process one training draws at a time

    def __init__(self) -> None:
        self._numbers: list[tuple[_Taped, Callable[..., torch.Tensor], torch.Tensor]] = []
        self._place = 0  # of the next number while playing
        self._playing = False

    @contextlib.contextmanager
    def record(self) -> Iterator[None]:
        """Numbers are drawn as ever while the body runs, and noted."""
        self._numbers = []
        with self._run(playing=False):
            yield

    @contextlib.contextmanager
    def play(self) -> Iterator[None]:
        """The body gets the tensors of the numbers recorded, in their order, and must ask for the same."""
        with self._run(playing=True):
            yield
        assert self._place == len(self._numbers), "not all numbers were asked for"

    @contextlib.contextmanager
    def _run(self, playing: bool) -> Iterator[None]:
        assert Tape.running is None
        Tape.running, self._playing, self._place = self, playing, 0
        try:
            yield
        finally:
            Tape.running = None

    def draw_again(self, index: int) -> None:
        """Write into the tensors the numbers of update `index`."""
        sources = {id(draws): rng(draws.device, *draws.parts, index) for draws, _, _ in self._numbers}
        for draws, draw, numbers in self._numbers:
            draw(numbers.shape, generator=sources[id(draws)], out=numbers)

    def draws(self, device: torch.device | str, world: World, *parts: object) -> Draws:
        """What `named_draws` returns while this records or plays."""
        # In a capture no generator can be made.
        return _Taped(self, None if self._playing else rng(device, *parts), device, world, parts[:-1])

    def note(self, draws: "_Taped", draw: Callable[..., torch.Tensor], numbers: torch.Tensor) -> torch.Tensor:
        """Keep `numbers`, which `draws` has just drawn."""
        self._numbers.append((draws, draw, numbers))
        return numbers

    def next(self, parts: tuple[object, ...]) -> torch.Tensor:
        """The numbers noted at this place."""
        noted, _, numbers = self._numbers[self._place]
        assert noted.parts == parts, (noted.parts, parts)
        self._place += 1
        return numbers


class _Taped(Draws):
    """Random numbers that pass a tape."""

    def __init__(
        self,
        tape: Tape,
        source: torch.Generator | None,
        device: torch.device | str,
        world: World,
        parts: tuple[object, ...],
    ) -> None:
        super().__init__(source, device, world)
        self.tape, self.device, self.parts = tape, device, parts

    def _drawn(self, draw: Callable[..., torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
        if self._source is None:
            return self.tape.next(self.parts)
        return self.tape.note(self, draw, super()._drawn(draw, shape))
