"""benchmarks/bench.py: the page's form, which docs/speed.md has, ratios by hand, and what is not there is said."""

import os
import re
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import bench, evaluation_speed, safety_cost
from benchmarks.bench import MARKS, Table, page, put, ratio_text, seconds_text
from benchmarks.evaluation_speed import Run
from benchmarks.training_speed import Loop, apart, measure
from pipeline.core.errors import PipelineError

ROOT = Path(__file__).resolve().parents[1]
TITLES = ["Training", "Training beside a public collection", "Measuring", "Start-up", "Checkpoints and tracking"]


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    assert ratio_text([2.0, 3.0, 8.0], [1.0, 2.0, 2.0]) == "2.00x (1.50 to 4.00)"
    assert [seconds_text(values) for values in ([12.34], [1.0, 2.0, 9.0], [0.0125])] == ["12.3 s", "2.00 s", "12 ms"]


def test_a_table_is_markdown() -> None:
    table = Table("Title", [["a", "b"], ["1", "2"]], "Above.", "Below.")
    assert table.text() == "### Title\n\nAbove.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nBelow."
    assert Table("Title", [], "Not measured: no.").text() == "### Title\n\nNot measured: no."


def test_the_page_takes_its_place_between_the_marks(tmp_path: Path) -> None:
    path = tmp_path / "speed.md"
    path.write_text(f"before\n\n{MARKS[0]}\nold\n{MARKS[1]}\n\nafter\n")
    text = page("Today.", [Table("Title", [["a"], ["1"]])])
    for _ in range(2):
        put(text, path)
        assert path.read_text() == f"before\n\n{text}\nafter\n"
    path.write_text("no marks")
    with pytest.raises(PipelineError, match=r"speed\.md lacks a mark"):
        put(text, path)


def test_docs_hold_a_page_of_this_form() -> None:
    text = (ROOT / "docs/speed.md").read_text(encoding="utf-8")
    _, found, _ = re.split("|".join(map(re.escape, MARKS)), text)
    assert re.findall("^### (.*)$", found, re.M) == TITLES
    assert re.match(r"\s*20\d\d-\d\d-\d\d: .*, \d+ cores, \d+ threads; torch \d.*; load \d", found)
    assert "| recipe | plain loop | ours | ratio | ours, bf16 | ratio |" in found
    assert f"| tool | {bench.IMAGES} PNGs | / ours | each further 1,000 |" in found
    assert all(f"| {command} | " in found for command in bench.COMMANDS)


def test_what_a_further_image_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours takes 5 s + 20 ms an image, the other 11 s + 60 ms."""
    costs = {"ours": (5, 0.02), "pytorch-fid": (11, 0.06)}

    def commands(count: int, rounds: int = 1) -> dict[str, list[Run]]:
        return {tool: [Run(start + each * count, 0, 1234.4, 2.0)] * rounds for tool, (start, each) in costs.items()}

    monkeypatch.setattr(evaluation_speed, "commands", commands)
    monkeypatch.setattr(bench, "_parts", lambda: "Parts.")
    table = bench.measuring()
    assert table.rows[1:] == [
        ["ours", "13.0 s", "1.00x (1.00 to 1.00)", "20.0 s", "1.00x (1.00 to 1.00)", "1,234 MiB", "0e+00"],
        ["pytorch-fid", "35.0 s", "2.69x (2.69 to 2.69)", "60.0 s", "3.00x (3.00 to 3.00)", "1,234 MiB", "0e+00"],
    ]
    assert table.below == "Not installed, so not measured: torch-fidelity, clean-fid. Parts."


def test_what_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(bench.VARIABLE, raising=False)
    told = "Not measured: GAN_COLLECTION names no checkout of pytorch-gan-collections."
    assert bench.collection().text().endswith(told)
    monkeypatch.setenv(bench.VARIABLE, str(tmp_path))
    with pytest.raises(PipelineError, match=r"holds no source/models/sngan\.py: name a checkout"):
        bench.collection()

    def refuse(*_: object) -> None:
        raise PipelineError("prepare the digits")

    monkeypatch.setattr(safety_cost, "measure", refuse)
    assert bench.safety().text().endswith("Not measured: prepare the digits.")


def test_a_collection_is_found_in_its_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its networks are trained in the plain loop: here tiny ones under the same names."""
    (tmp_path / "gans/models").mkdir(parents=True)
    (tmp_path / "gans/models/sngan.py").write_text(
        "from torch import nn\n"
        "class Generator32(nn.Sequential):\n"
        "    def __init__(self, z): super().__init__(nn.Linear(z, 3072), nn.Unflatten(1, (3, 32, 32)))\n"
        "class Discriminator32(nn.Sequential):\n"
        "    def __init__(self): super().__init__(nn.Flatten(), nn.Linear(3072, 1))\n"
    )
    monkeypatch.setenv(bench.VARIABLE, str(tmp_path))
    monkeypatch.setattr(bench, "PAIRS", {"cnn": bench.PAIRS["cnn"]})
    monkeypatch.setattr(bench, "ours", lambda *_, **__: lambda steps: None)
    in_one_process = lambda builders, _: nullcontext({name: build() for name, build in builders.items()})  # noqa: E731
    monkeypatch.setattr(bench, "apart", in_one_process)
    head, row = bench.collection(steps=1, rounds=2).rows
    assert head == ["networks", "theirs", "ours", "ratio", "ours, bf16", "ratio"]
    assert row[0] == "SNGAN's cnn, 0.4 M + 0.0 M" and int(row[1].replace(",", "")) > 0  # 3072 x 129, 3073


def _note_process(path: Path) -> Loop:
    def run(steps: int) -> None:
        path.open("a").write(f"{os.getpid()} {steps}\n")

    return run


@pytest.mark.slow
def test_loops_run_in_processes_of_their_own(tmp_path: Path) -> None:
    builders = {name: partial(_note_process, tmp_path / name) for name in "ab"}
    with apart(builders, torch.device("cpu")) as loops:
        seconds = measure(loops, steps=3, rounds=2, device=torch.device("cpu"))
    noted = {name: (tmp_path / name).read_text().splitlines() for name in "ab"}
    processes = {line.split()[0] for lines in noted.values() for line in lines}
    assert len(processes) == 2 and str(os.getpid()) not in processes
    assert all(len(set(lines)) == 1 and lines[0].endswith(" 3") and len(lines) == 3 for lines in noted.values())
    assert all(len(values) == 2 for values in seconds.values())


def test_every_table_of_the_page_has_its_title(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, title in zip(list(bench.PARTS), TITLES, strict=True):
        monkeypatch.setitem(bench.PARTS, name, lambda title=title: Table(title, []))
    bench.main([])
    assert re.findall("^### (.*)$", capsys.readouterr().out, re.M) == TITLES
