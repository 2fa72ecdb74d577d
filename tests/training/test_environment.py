"""A run that is resumed under another environment says so, once, and records it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.core.files import read_json
from pipeline.training import trainer
from tests.training.test_trainer import counting, elsewhere, experiment_of, outputs

__all__ = ["elsewhere"]  # the fixture: each test in a folder of its own


def interrupted(folder: Path, after: int) -> None:
    with pytest.raises(trainer.Interrupted):
        outputs(experiment_of(), folder / "out", counting(after))


def environments(folder: Path) -> Any:
    outputs(experiment_of(), folder / "out")
    return read_json(folder / "out" / "generator.json")["environments"]


def test_resumed_under_other_threads_it_warns_once_and_records_the_step(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(elsewhere, 2)
    assert "goes on with" not in capsys.readouterr().err
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    interrupted(elsewhere, 2)  # warns, and its checkpoint holds the record
    told = capsys.readouterr().err
    assert told.count("goes on with") == 1
    assert f"with threads {threads} and goes on with threads {threads + 1}" in told
    first, second = environments(elsewhere)
    assert "goes on with" not in capsys.readouterr().err
    assert (first["step"], first["threads"], first["device"]) == (0, threads, "cpu")
    assert (second["step"], second["threads"]) == (3, threads + 1)
    assert first["cpu_capability"] == second["cpu_capability"] == torch.backends.cpu.get_cpu_capability()


def test_a_finished_run_is_exported_under_any_environment(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = environments(elsewhere)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "NO AVX")
    assert environments(elsewhere) == before and len(before) == 1
    assert "warning" not in capsys.readouterr().err
