"""What every data set is before it is prepared: its classes, and splits whose pictures are read one at a time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.data.pictures import Picture


@dataclass(frozen=True)
class Items:
    """A split before preparation.

    labels: the label of each item, int from 0; all 0 if unlabelled.
    picture: reads item i as a PIL image or a uint8 array (H, W) or (H, W, 3); may raise `BadImage`.
    """

    labels: Sequence[int]
    picture: Callable[[int], Picture]


@dataclass(frozen=True)
class Source:
    """A data set before preparation. `test` is None if a test split has to be held out of `train`."""

    classes: tuple[str, ...]  # () = unlabelled
    train: Items
    test: Items | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)  # files that were skipped while listing, by reason
