"""Random numbers are a function of their name: the same in every process, different for every name."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.core.randomness import rng, stable_hash

ROOT = Path(__file__).resolve().parents[2]
KNOWN = {(0, "latents", 7): 8347318009161046087, ("grid",): 3081944290467880175}


def test_known_values() -> None:
    """A change of these numbers would change every result and orphan every checkpoint."""
    assert stable_hash(0, "latents", 7) == KNOWN[(0, "latents", 7)]
    assert stable_hash("grid") == KNOWN[("grid",)]


def test_it_is_blake2b_of_the_joined_text() -> None:
    digest = hashlib.blake2b(b"0\x1flatents\x1f7", digest_size=8).digest()
    assert stable_hash(0, "latents", 7) == int.from_bytes(digest, "big") // 2


def test_all_63_bits_are_used_and_no_more() -> None:
    values = [stable_hash(0, "bits", step) for step in range(4000)]
    assert all(0 <= value < 2**63 for value in values)
    for bit in range(63):
        ones = sum(value >> bit & 1 for value in values)
        assert 1800 < ones < 2200, (bit, ones)  # 2000 +- 6 standard deviations of 31.6


def test_every_name_has_its_own_stream() -> None:
    names = [(seed, stream, step) for seed in range(10) for stream in ("a", "b", "init") for step in range(200)]
    names += [("a", "b"), ("ab",), ("a", "b", ""), (1, "23"), (12, "3"), (123,), (), ("", ""), (-1,), (1.5,)]
    assert len({stable_hash(*name) for name in names}) == len(names)


def test_a_part_counts_by_its_text() -> None:
    assert stable_hash(7) == stable_hash("7") != stable_hash("07")
    assert stable_hash("é") != stable_hash("e")


def test_a_generator_is_seeded_by_the_hash() -> None:
    expected = torch.randn(5, generator=torch.Generator().manual_seed(stable_hash(3, "latents", 1)))
    assert torch.equal(torch.randn(5, generator=rng("cpu", 3, "latents", 1)), expected)
    assert not torch.equal(torch.randn(5, generator=rng("cpu", 3, "latents", 2)), expected)


def test_a_generator_is_fresh_and_touches_no_global_state() -> None:
    before = torch.random.get_rng_state()
    first, second = rng("cpu", 1), rng(torch.device("cpu"), 1)
    assert torch.equal(torch.rand(3, generator=first), torch.rand(3, generator=second))
    assert not torch.equal(torch.rand(3, generator=first), torch.rand(3, generator=rng("cpu", 1)))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_where_a_generator_lives() -> None:
    assert rng("cpu", 0).device == torch.device("cpu")
    assert rng("meta", 0).device == torch.device("cpu")
    assert rng("meta", 0, "x").initial_seed() == stable_hash(0, "x")


@pytest.mark.slow
@pytest.mark.parametrize("hash_seed", ["0", "12345"])
def test_the_same_in_another_process(hash_seed: str) -> None:
    code = (
        "import torch; from pipeline.core.randomness import *;"
        "print(stable_hash(5, 'latents', 9), torch.randn(3, generator=rng('cpu', 5, 'latents', 9)).tolist())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    here = torch.randn(3, generator=rng("cpu", 5, "latents", 9)).tolist()
    assert result.stdout.strip() == f"{stable_hash(5, 'latents', 9)} {here}"
