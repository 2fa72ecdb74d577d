"""What `gan play` shows, without the page: pictures of several generators, all of the same latents."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.core.devices import choose_device
from pipeline.core.errors import PipelineError
from pipeline.core.files import read_json
from pipeline.gan.checkpoint import load_generator
from pipeline.models import NETWORKS
from pipeline.sampling.images import labels, latents, rows_of_classes, to_uint8
from pipeline.sampling.pictures import COLUMNS, grid
from pipeline.tracking.mlflow_model import kept_weights

ROWS = 5  # of a picture; with a row for each class as many as there are classes, at most COLUMNS
WALKS = 3  # latents whose whole walks are shown


@dataclass(frozen=True)
class Player:
    """A generator of the run `name`, on its device and in evaluation mode; `class_counts` of its training images."""

    name: str
    network: nn.Module
    latent_dim: int
    conditional: bool
    class_counts: Sequence[int]

    def draw(self, wanted: Callable[[int], Tensor], rows: int, columns: int, label: int | None) -> Image.Image:
        """A grid of the samples of latents (rows * columns, Z), which `wanted` makes for Z.

        label: the class of all samples of a conditional generator; None: a row for each class.
        """
        count, classes = rows * columns, [number for number, n in enumerate(self.class_counts) if n]
        shown = labels("data", self.class_counts, count)
        if self.conditional:
            shown = (
                labels(label, self.class_counts, count)
                if label is not None
                else rows_of_classes(classes[:rows], rows, columns)
            )
        device = next(self.network.parameters()).device
        with torch.inference_mode():
            images = self.network(wanted(self.latent_dim).to(device), shown.to(device))
        return grid(to_uint8(images).cpu(), columns)


def load_players(folders: Sequence[Path], checkpoint: str, class_counts: Sequence[int]) -> list[Player]:
    """The generators in these folders of runs/, each once; `checkpoint` is "generator", the final one, or "best".

    Raises:
        PipelineError: a file is missing or damaged, or a conditional generator was trained on other data's classes.
    """
    players, device = [], choose_device("auto")
    for folder in dict.fromkeys(folders):
        info = read_json(folder / "generator.json")
        recipe, conditional = info["recipe"], NETWORKS[info["recipe"]["network"]].conditional
        if conditional and info["n_classes"] != len(class_counts):
            known = f"{folder} knows {info['n_classes']} classes"
            raise PipelineError(f"{known}, the prepared data have {len(class_counts)}: run `dvc repro`")
        network, _ = load_generator(folder, kept_weights(recipe), checkpoint)
        players.append(Player(folder.name, network.to(device), recipe["latent_dim"], conditional, class_counts))
    return players


def rows_of(players: Sequence[Player], label: int | None) -> int:
    """The rows of every picture: as many as classes, where a conditional generator shows one in each row."""
    by_class = label is None and any(player.conditional for player in players)
    return min(COLUMNS, max(ROWS, len(players[0].class_counts))) if by_class else ROWS


def samples(players: Sequence[Player], seed: int, label: int | None) -> list[Image.Image]:
    """For each generator the first samples of a seed, of the latents that `generate` takes for it."""
    rows = rows_of(players, label)
    return [player.draw(lambda dim: latents(seed, 0, rows * COLUMNS, dim), rows, COLUMNS, label) for player in players]


def between(players: Sequence[Player], first: int, last: int, place: float, label: int | None) -> list[Image.Image]:
    """For each generator its samples at a place of the walk from the latents of one seed (0) to another's (1)."""
    rows = rows_of(players, label)

    def wanted(dim: int) -> Tensor:
        start, end = (latents(seed, 0, rows * COLUMNS, dim) for seed in (first, last))
        return on_the_way(start, end, torch.tensor(place))

    return [player.draw(wanted, rows, COLUMNS, label) for player in players]


def walks(players: Sequence[Player], first: int, last: int, label: int | None) -> list[Image.Image]:
    """For each generator the whole walks of the first three latents, one a row, at ten places from 0 to 1."""

    def wanted(dim: int) -> Tensor:
        start, end = (latents(seed, 0, WALKS, dim).repeat_interleave(COLUMNS, 0) for seed in (first, last))
        return on_the_way(start, end, torch.linspace(0, 1, COLUMNS).repeat(WALKS)[:, None])

    return [player.draw(wanted, WALKS, COLUMNS, label) for player in players]


def shared_latents(players: Sequence[Player]) -> str:
    """Which generators get the same latents: those whose latents have the same size."""
    sizes = {player.latent_dim for player in players}
    if len(sizes) == 1:
        return "All generators get the same latents." if len(players) > 1 else ""
    listed = ", ".join(f"{player.name} {player.latent_dim}" for player in players)
    return f"Generators with latents of the same size get the same latents: {listed}."


def figures(players: Sequence[Player], pictures: Sequence[Image.Image]) -> str:
    """Pictures side by side as HTML, each under the name of its generator."""
    shown = []
    for player, picture in zip(players, pictures, strict=True):
        file = io.BytesIO()
        picture.save(file, format="PNG")
        source = base64.b64encode(file.getvalue()).decode()
        shown.append(
            f'<figure style="margin:0"><figcaption><b>{player.name}</b></figcaption>'
            f'<img alt="Samples of {player.name}" style="width:100%;image-rendering:pixelated" '
            f'src="data:image/png;base64,{source}"></figure>'
        )
    columns = "repeat(auto-fit,minmax(min(100%,320px),1fr))"
    return f'<div style="display:grid;gap:24px;grid-template-columns:{columns}">{"".join(shown)}</div>'


def on_the_way(start: Tensor, end: Tensor, place: Tensor) -> Tensor:
    """Latents (N, Z) on the great circle from `start` to `end`, at a place from 0 to 1 (White 2016, arXiv 1609.04468).

    A straight line would pass through latents that are shorter than any that the generator was trained on.
    """
    cosine = torch.nn.functional.cosine_similarity(start, end)[:, None].clamp(-1, 1)
    angle = torch.arccos(cosine).clamp(min=1e-6)
    return (torch.sin((1 - place) * angle) * start + torch.sin(place * angle) * end) / torch.sin(angle)
