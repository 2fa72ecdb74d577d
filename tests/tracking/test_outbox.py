"""The outbox on a disk that is full for a while, and with damage in its middle."""

import json
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.tracking.outbox import Outbox, ends_a_line, read_entries, read_header, requests


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield tmp_path / ".work" / "gan-0"
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def steps(folder: Path) -> list[int]:
    return [entry["step"] for entry, _ in read_entries(folder / "outbox.jsonl") if entry["kind"] == "metric"]


@pytest.mark.slow
def test_what_a_full_disk_refuses_is_written_when_there_is_room(folder: Path) -> None:
    outbox = Outbox(folder, "digits", "gan-0")
    outbox.add("metric", "loss/d", 1.0, 1)
    size, (_, hard) = (folder / "outbox.jsonl").stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))  # a write beyond it fails
    for step in (2, 3):
        with pytest.raises(OSError):
            outbox.add("metric", "loss/d", 1.0, step)
    assert steps(folder) == [1] and (folder / "outbox.jsonl").stat().st_size == size
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    outbox.add("metric", "loss/d", 1.0, 2)  # known, so not worth a line
    outbox.add("metric", "loss/d", 1.0, 4)
    assert steps(folder) == [1, 2, 3, 4]
    assert len(Outbox(folder, "digits", "gan-0")._values) == 5


def test_damaged_lines_cost_only_themselves(folder: Path) -> None:
    outbox = Outbox(folder, "digits", "gan-0")
    for step in range(1, 5):
        outbox.add("metric", "loss/d", 1.0, step)
    path = folder / "outbox.jsonl"
    head, *lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(
        b"".join([head, lines[0], b"\xff" + lines[1], b"7\n", b'{"kind": "metric"}\n', *lines[2:], b'{"k'])
    )
    assert steps(folder) == [1, 3, 4]
    again = Outbox(folder, "digits", "gan-0")
    again.add("metric", "loss/d", 1.0, 2)
    assert steps(folder) == [1, 3, 4, 2]
    assert path.read_bytes().count(b'"run"') == 1


def test_a_damaged_head_gets_another(folder: Path) -> None:
    Outbox(folder, "digits", "gan-0").add("metric", "loss/d", 1.0, 1)
    path = folder / "outbox.jsonl"
    path.write_bytes(b"?" + path.read_bytes())
    assert read_header(folder) is None and steps(folder) == [1]
    Outbox(folder, "digits", "gan-0").add("metric", "loss/d", 1.0, 2)
    head = read_header(folder)
    assert head and (head["key"], head["value"]["name"]) == ("digits", "gan-0") and steps(folder) == [1, 2]


def test_a_place_that_a_cut_has_moved_is_known(folder: Path) -> None:
    Outbox(folder, "digits", "gan-0").add("metric", "loss/d", 1.0, 1)
    path = folder / "outbox.jsonl"
    ends = [0, *(end for _, end in read_entries(path))]
    assert [place for place in range(path.stat().st_size + 9) if ends_a_line(path, place)] == ends
    assert json.loads(path.read_bytes().splitlines()[1])["step"] == 1


def test_only_what_is_fsynced_is_sent(folder: Path) -> None:
    outbox = Outbox(folder, "digits", "gan-0")
    outbox.add("metric", "loss/d", 1.0, 1)
    path = folder / "outbox.jsonl"
    stop = path.stat().st_size
    outbox.add("metric", "loss/d", 1.0, 2)
    sent = [[entry["step"] for entry in group] for group, _ in requests(path, 0, stop, {"metric"})]
    assert stop < path.stat().st_size and sent == [[1]]
