"""What a rank takes of a batch, and what is refused before any rank is started."""

import datetime
import socket
import threading
from typing import Any

import pytest
import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from pipeline.core import ranks
from pipeline.core.errors import PipelineError
from pipeline.core.randomness import Draws, rng
from pipeline.core.ranks import Place, find_place, open_world, rank_devices
from pipeline.core.world import ALONE, World
from pipeline.data.batches import batch
from pipeline.gan.augment import augment_for_discriminator
from pipeline.gan.step import draw_inputs
from tests.recipes import image_set, tiny_recipe

CPU = torch.device("cpu")


def interleaved(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(parts, dim=1).flatten(0, 1)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_ranks_parts_are_the_batch(size: int) -> None:
    worlds = [World(rank, size) for rank in range(size)]
    recipe, images = tiny_recipe(batch_size=12, augment=["translation", "colour", "cutout"]), image_set(60)
    whole, labels = batch(images, 3, 12, 0, True, True)
    parts = [batch(images, 3, 12, 0, True, True, world) for world in worlds]
    assert torch.equal(interleaved([part for part, _ in parts]), whole)
    assert torch.equal(interleaved([part for _, part in parts]), labels)
    latents, _ = draw_inputs(recipe, images, 0, "d", 5)
    assert torch.equal(interleaved([draw_inputs(recipe, images, 0, "d", 5, world)[0] for world in worlds]), latents)
    strengths: Any = {"translation": 1.0, "colour": 0.5, "cutout": 1.0, "ada_fixed": 0.7}
    shown = augment_for_discriminator(whole, strengths, 0.3, 0, "real", 3)
    pieces = [
        augment_for_discriminator(part, strengths, 0.3, 0, "real", 3, world)
        for (part, _), world in zip(parts, worlds, strict=True)
    ]
    assert torch.equal(interleaved(pieces), shown)


def test_draws_by_hand() -> None:
    of_all = torch.rand(6, 2, generator=rng("cpu", 1))
    assert torch.equal(Draws(rng("cpu", 1), "cpu", World(1, 3)).rand(2, 2), of_all[[1, 4]])
    across = torch.randn(2, 6, generator=rng("cpu", 2))
    assert torch.equal(Draws(rng("cpu", 2), "cpu", World(2, 3)).randn(2, 2, of=1), across[:, [2, 5]])
    numbers = torch.randint(3, 9, (4,), generator=rng("cpu", 3))
    assert Draws(rng("cpu", 3), "cpu", World(0, 2)).randint(3, 9, (2,)).tolist() == numbers[[0, 2]].tolist()


@pytest.mark.parametrize(("size", "count"), [(1, 2), (2, 1), (2, 2), (3, 2), (2, 3)])
def test_a_micro_batch_is_shared_by_the_ranks(size: int, count: int) -> None:
    whole = torch.arange(24)
    for rank in range(size):
        world = World(rank, size)
        of_rank, parts = world.all_of(count).part(whole), world.micro_batches(count)
        assert len(of_rank) == 24 // size and len(parts) == count
        for number, part in enumerate(parts):
            expected = whole[number::count][rank::size].tolist()
            assert part.part(whole).tolist() == part.cut(of_rank).tolist() == expected


def test_alone_everything_is_the_identity() -> None:
    value = torch.randn(3, requires_grad=True)
    assert all(one is value for one in (ALONE.part(value), ALONE.total(value), ALONE.whole(value), ALONE.mean(value)))
    with ALONE.lead(1):
        ALONE.average_gradients([])
    assert ALONE.intact and not ALONE.is_to_stop()


def _as_cuda_does(device: torch.device) -> None:
    if device.index is None:
        raise ValueError(f"Expected a torch.device with a specified index or an integer, but got:{device}")


def test_devices_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_place("cpu", 1) == Place(0, 1, CPU) == find_place("cpu", "auto")
    assert find_place("cpu", 3, 12) == Place(0, 3, CPU)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", _as_cuda_does)
    assert [device.index for device in rank_devices("cuda", 3)] == [0, 1, 2]
    assert [device.index for device in rank_devices("auto", (3, 1))] == [3, 1]
    assert len(rank_devices("cuda", "auto", 12)) == 4 and len(rank_devices("cuda", "auto", 6)) == 3
    assert find_place("cuda", (3, 1), 4).device == torch.device("cuda", 3)
    assert find_place("auto", 1).device == torch.device("cuda")
    monkeypatch.setattr("os.environ", {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"})
    assert find_place("auto", 1, 16) == Place(5, 8, torch.device("cuda", 1), given=True)


@pytest.mark.parametrize(
    ("device", "devices", "images", "group", "said"),
    [
        ("cpu", 3, 64, 1, "batches of 64 images cannot be shared evenly by 3 devices, only by 1, 2, 4, 8, 16, 32, 64"),
        ("cpu", 4, 8, 4, "batches of 8 images in groups of 4 cannot be shared evenly by 4 devices, only by 1, 2"),
        ("cpu", (0, 1), None, 1, "a list names GPUs"),
        ("cuda", 5, None, 1, "5 was asked for, but 4 GPUs are here"),
        ("cuda", (0, 4), None, 1, r"\[0, 4\] was asked for, but 4 GPUs are here"),
        ("cuda:1", 2, None, 1, "runtime.device cuda:1 is one device"),
    ],
)
def test_what_cannot_be(
    device: str, devices: Any, images: int | None, group: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(PipelineError, match=f"^runtime.devices: {said}"):
        find_place(device, devices, images, group)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"RANK": "x", "WORLD_SIZE": "2"}, "the environment variable RANK must be a whole number, got x"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR or MASTER_PORT is not"),
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}, "rank 1 does not reach the"),
    ],
)
def test_wrong_variables(variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", variables)
    monkeypatch.setattr(ranks, "START", 1)
    with pytest.raises(PipelineError, match=said), open_world(find_place("cpu", 1), [], [], {}):
        pass


def test_ranks_that_are_started_already_need_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {"RANK": "0", "WORLD_SIZE": "2"})
    with pytest.raises(PipelineError, match=r"^runtime\.devices: RANK and WORLD_SIZE say that 2 ranks are started"):
        find_place("cpu", 2)


def test_a_port_that_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        variables = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        monkeypatch.setattr("os.environ", variables)
        said = f"^port {port} is in use by another program"
        with pytest.raises(PipelineError, match=said), open_world(find_place("cpu", 1), [], [], {}):
            pass


@pytest.mark.parametrize("name", ["code", "params", "precision", "data", "torch"])
def test_ranks_that_differ_are_refused_on_all_sides(name: str) -> None:
    store = TCPStore("127.0.0.1", 0, 2, True, datetime.timedelta(seconds=20), wait_for_workers=False)
    mine = dict.fromkeys(("code", "params", "precision", "data", "torch"), "a")
    said = []

    def compare(rank: int, agreed: dict[str, str]) -> None:
        here = store if rank == 0 else TCPStore("127.0.0.1", store.port, 2, False, datetime.timedelta(seconds=20))
        try:
            ranks._compare(Place(rank, 2, CPU), here, agreed, ranks._Others(2))
        except PipelineError as error:
            said.append(str(error))

    for theirs, count in ((mine, 0), ({**mine, name: "b"}, 2)):
        threads = [threading.Thread(target=compare, args=one) for one in ((0, mine), (1, theirs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(said) == count and len(set(said)) <= 1
        for key in ("mine/0", "mine/1", "verdict"):
            store.delete_key(key)
    remedy = "write fp32 or bf16 as train.precision" if name == "precision" else "give all machines the same"
    assert said[0].startswith(f"rank 1 has another {name} than rank 0: {remedy}")
