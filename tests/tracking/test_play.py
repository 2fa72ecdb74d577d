"""`gan play`: pictures of the same latents, and a page that nobody but this machine serves."""

import base64
import io
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.core.errors import PipelineError
from pipeline.gan.checkpoint import load_generator
from pipeline.sampling.images import labels, latents, sample
from pipeline.sampling.pictures import grid
from pipeline.tracking import play
from pipeline.tracking.playground import (
    Player,
    between,
    figures,
    load_players,
    on_the_way,
    samples,
    shared_latents,
    walks,
)

ROOT = Path(__file__).resolve().parents[2]


class Echo(nn.Module):
    """One grey pixel for each sample: its first latent, and its label's share of ten in the second channel's place."""

    def __init__(self, by_label: bool) -> None:
        super().__init__()
        self.by_label, self.unused = by_label, nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        values = y / 10 if self.by_label else z[:, 0] / 10
        return values[:, None, None, None].expand(-1, 1, 32, 32)


def player(name: str, conditional: bool = False, dim: int = 6) -> Player:
    return Player(name, Echo(conditional), dim, conditional, [4, 0, 4])


def values(picture: Image.Image) -> np.ndarray:
    """What `Echo` had shown in each cell of a grid, times 10."""
    cells = np.asarray(picture)[18::34, 18::34, 0].astype(float)
    return (cells / 127.5 - 1) * 10


def test_samples_are_those_of_the_seed_and_the_same_for_all() -> None:
    first, second = samples([player("a-0"), player("b-0")], 7, None)
    expected = latents(7, 0, 50, 6)[:, 0].reshape(5, 10).numpy()
    assert np.allclose(values(first), expected, atol=0.05) and np.array_equal(first, second)


def test_classes_have_a_row_each_or_one_has_all() -> None:
    both = [player("a-0", conditional=True), player("b-0")]
    by_class, others = samples(both, 0, None)
    assert values(by_class).round().tolist() == [[0] * 10] * 3 + [[2] * 10] * 2, "class 1 has no images"
    assert values(others).shape == (5, 10)
    one, still = samples(both, 0, 2)
    assert (values(one).round() == 2).all() and np.array_equal(others, still)


def test_a_walk_begins_and_ends_at_the_samples_of_its_seeds() -> None:
    players = [player("a-0")]
    for place, seed in ((0.0, 3), (1.0, 4)):
        assert np.array_equal(between(players, 3, 4, place, None)[0], samples(players, seed, None)[0])
    (whole,) = walks(players, 3, 4, None)
    ends = values(samples(players, 3, None)[0])[0, :3], values(samples(players, 4, None)[0])[0, :3]
    assert values(whole).shape == (3, 10)
    assert np.allclose(values(whole)[:, 0], ends[0], atol=0.1) and np.allclose(values(whole)[:, -1], ends[1], atol=0.1)


def test_the_way_is_a_great_circle() -> None:
    """Of (1, 0) and (0, 1) a third of the way is (cos 30°, sin 30°); latents that are equal stay as they are."""
    start, end = torch.tensor([[1.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, 1.0], [3.0, 4.0]])
    found = on_the_way(start, end, torch.tensor(1 / 3))
    assert torch.allclose(found, torch.tensor([[3**0.5 / 2, 0.5], [3.0, 4.0]]), atol=1e-5)


def test_it_says_whose_latents_are_the_same() -> None:
    assert shared_latents([player("a-0")]) == ""
    assert shared_latents([player("a-0"), player("b-0")]) == "All generators get the same latents."
    told = shared_latents([player("a-0"), player("b-0", dim=9)])
    assert told == "Generators with latents of the same size get the same latents: a-0 6, b-0 9."


@pytest.fixture
def run(conditional_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained run, and the data that it knows."""
    monkeypatch.setattr(play, "load_description", lambda path: {"classes": ["a", "b", "c"], "class_counts": [8, 8, 8]})
    return conditional_run


def test_a_trained_run_draws_what_generate_draws(run: Path) -> None:
    players = load_players([run, run], "generator", [8, 8, 8])
    assert [(each.name, each.latent_dim, each.conditional) for each in players] == [("dcgan-0", 5, True)]
    with pytest.raises(PipelineError, match="runs/dcgan-0 knows 3 classes, the prepared data have 2"):
        load_players([run], "generator", [8, 8])
    pictures = samples(players, 5, 1)
    generator, _ = load_generator(run, "ema")
    expected = grid(torch.cat(list(sample(generator, labels(1, [8, 8, 8], 50), 5, 50, 5))), 10)
    (source,) = re.findall(r'<b>dcgan-0</b>.*src="data:image/png;base64,([^"]*)"', figures(players, pictures))
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(source)))).astype(int)
    assert np.abs(shown - np.asarray(expected)).max() <= 1, "a batch of another size rounds otherwise"


def test_without_gradio_it_says_how_to_get_it(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(play, "require_free", lambda port: None)
    with pytest.raises(SystemExit, match="2"):
        play.main(["dcgan-0"])
    assert capsys.readouterr().err == ("error: gradio is not installed: run `python -m pip install 'gradio>=6,<7'`\n")


def test_a_wrong_name_and_too_many_are_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(9):
        (Path("runs") / f"b-{number}").mkdir()
        (Path("runs") / f"b-{number}" / "generator.json").touch()
    for names, said in (["nix-0"], "no such trained generator"), ([f"b-{n}" for n in range(9)], "name at most 8"):
        with pytest.raises(SystemExit, match="2"):
            play.main(names)
        assert said in capsys.readouterr().err


@pytest.mark.slow
def test_the_page_is_served_on_this_machine_alone(run: Path) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed: `gan play` is an extra")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free_port = probe.getsockname()[1]
    start = (
        "import pipeline.tracking.play as play; "
        "play.load_description = lambda path: {'classes': ['a', 'b', 'c'], 'class_counts': [8, 8, 8]}; "
        f"play.main(['dcgan-0', '--port', '{free_port}'])"
    )
    address = f"http://127.0.0.1:{free_port}/"
    with subprocess.Popen([sys.executable, "-c", start], env={**os.environ, "PYTHONPATH": str(ROOT)}) as server:
        try:
            home = answer(address, server)
            assert home.headers["content-security-policy"].startswith("default-src 'self' ")
            assert '"analytics_enabled":false' in home.read().decode()
            assert "fonts.g" not in answer(f"{address}theme.css", server).read().decode()
            with pytest.raises(HTTPError, match="400"):
                urlopen(Request(address, headers={"Host": "elsewhere.org"}))
        finally:
            server.terminate()


def answer(address: str, server: subprocess.Popen[bytes]) -> Any:
    """The answer of a server that may still be starting."""
    while server.poll() is None:
        try:
            return urlopen(address)
        except ConnectionError:
            time.sleep(0.2)
        except URLError as error:
            assert isinstance(error.reason, ConnectionRefusedError)
            time.sleep(0.2)
    raise AssertionError(f"the server ended with {server.returncode}")
