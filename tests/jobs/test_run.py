"""Processes side by side: how many, in which order, with what environment, and how each end is told."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.core.errors import PipelineError
from pipeline.core.progress import progress, read_progress
from pipeline.jobs import __main__ as command
from pipeline.jobs import run
from pipeline.jobs.processes import share, visible_gpus
from pipeline.jobs.run import Training, train_side_by_side
from pipeline.jobs.table import ProgressTable, Row
from pipeline.params import load

ROOT = Path(__file__).resolve().parents[2]


class Leg:
    """Stands in for a leg of 40 steps; `code` is what its process runs."""

    def __init__(self, name: str, folder: Path, code: str) -> None:
        self.name, self.code, self.steps = name, code, 40
        recipe = SimpleNamespace(batch_size=8, n_critic=2)
        self.experiment = SimpleNamespace(work_folder=lambda: folder / name, recipe=recipe)

    def step(self) -> int:
        return 7


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Training]]:
    """Trains legs of these codes, by name, and gives back what became of them."""
    monkeypatch.setattr(run, "train_command", lambda leg: [sys.executable, "-c", leg.code])
    monkeypatch.setattr(run, "POLL", 0.02)

    def train(codes: dict[str, str], jobs: int = 2, gpus: Any = (), stop: Any = lambda: False) -> dict[str, Training]:
        legs: Any = [Leg(name, tmp_path, code) for name, code in codes.items()]
        return {one.leg.name: one for one in train_side_by_side(legs, jobs, gpus, stop, ProgressTable())}

    return train


def test_so_many_at_once_and_in_order(trained: Callable[..., dict[str, Training]], tmp_path: Path) -> None:
    code = f"""if True:
        import os, time
        def tell(what):
            with open({str(tmp_path / "told")!r}, "a") as file:
                file.write(f"{{what}} {{os.environ['DVC_STAGE']}}\\n")
        tell("start"); time.sleep(0.4); tell("end")
    """
    ended = trained(dict.fromkeys("abcde", code))
    assert [one.state for one in ended.values()] == ["finished"] * 5
    told = [line.split() for line in (tmp_path / "told").read_text().splitlines()]
    assert sorted(name for what, name in told[:2]) == ["train@a", "train@b"]
    begun = [name for what, name in told if what == "start"]
    assert sorted(begun[2:4]) == ["train@c", "train@d"] and begun[4] == "train@e"
    running = [sum({"start": 1, "end": -1}[what] for what, _ in told[: end + 1]) for end in range(len(told))]
    assert max(running) == 2 and running[-1] == 0


def test_a_failure_stops_no_other(
    trained: Callable[..., dict[str, Training]], capfd: pytest.CaptureFixture[str]
) -> None:
    codes = {
        "a": "import sys; print('error: lower it', file=sys.stderr); sys.exit(2)",
        "b": "import os; os.kill(os.getpid(), 9)",
        "c": "import sys; print('warning: c has collapsed')",
        "d": "import sys; sys.exit(3)",
    }
    ended = trained(codes, jobs=1)
    assert {name: (one.state, one.fault) for name, one in ended.items()} == {
        "a": ("failed", "lower it"),
        "b": ("failed", "killed by signal 9"),
        "c": ("finished", ""),
        "d": ("failed", "exit status 3"),
    }
    said = capfd.readouterr().err
    assert "a: error: lower it\n" in said and "c: warning: c has collapsed\n" in said
    assert ended["a"].log.read_text() == "error: lower it\n"


@pytest.mark.parametrize(
    ("states", "sentence"),
    [
        (["failed"], "1 of 1 trainings failed:"),
        (["failed", "finished"], "1 of 2 trainings failed, the others are finished:"),
    ],
)
def test_the_others_are_told_of_where_there_are_some(
    states: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leg: Any = Leg("a", tmp_path, "")
    ended = [Training(leg, state, "lower it") for state in states]
    for place, name, value in [
        ("stages", "stop_by_exception", None), ("stages", "stop_signals", []), ("check", "validate", None),
        ("jobs.plan", "bring_reference_up_to_date", None), ("data.prepared", "load_description", {}),
        ("jobs.plan", "make_plan", []), ("jobs.run", "train_side_by_side", ended),
    ]:  # fmt: skip
        monkeypatch.setattr(f"pipeline.{place}.{name}", lambda *_, value=value: value)
    with pytest.raises(PipelineError) as caught:
        command._train(load(ROOT / "params.yaml"), 2, None)
    assert str(caught.value) == f"{sentence}\na: lower it (its whole output: {tmp_path / 'a/train.log'})"


def test_when_it_is_stopped_its_processes_end(
    trained: Callable[..., dict[str, Training]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = f"""if True:
        import os, pathlib, signal, sys, time
        def stop(number, _):
            print("stopped with its checkpoint written")
            sys.exit(143)
        signal.signal(signal.SIGTERM, stop)
        (pathlib.Path({str(tmp_path)!r}) / f"pid-{{os.getpid()}}").touch()
        time.sleep(60)
    """
    started = time.monotonic()
    ended = trained(dict.fromkeys("abc", code), stop=lambda: len(list(tmp_path.glob("pid-*"))) == 2)
    assert time.monotonic() - started < 30
    assert [one.state for one in ended.values()] == ["stopped", "stopped", "waiting"]
    for path in tmp_path.glob("pid-*"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.name.removeprefix("pid-")), 0)
    assert "a: stopped with its checkpoint written\n" in capfd.readouterr().err


def test_an_error_leaves_no_process(trained: Callable[..., dict[str, Training]], tmp_path: Path) -> None:
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"

    def broken() -> bool:
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            raise MemoryError
        return False

    with pytest.raises(MemoryError):
        trained({"a": code}, stop=broken)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_the_share_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(9)), raising=False)
    shares = [share(index, 4, ["5", "7"]) for index in range(4)]
    assert [one["OMP_NUM_THREADS"] for one in shares] == ["2"] * 4
    assert [one["CUDA_VISIBLE_DEVICES"] for one in shares] == ["5", "7", "5", "7"]
    assert {one["PIPELINE_PARENT"] for one in shares} == {str(os.getpid())}
    assert share(0, 40, [])["OMP_NUM_THREADS"] == "1" and "x" not in share(0, 1, [])
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert share(0, 4, [])["OMP_NUM_THREADS"] == "6"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert visible_gpus() == ["3", "1"]


def test_a_row_says_where_a_training_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leg: Any = Leg("a", tmp_path, "")
    training = Training(leg)
    assert training.row() == Row("a", "waiting", 7, 40)
    training.start([sys.executable, "-c", "pass"], dict(os.environ), 0)
    assert training.process is not None and training.process.wait() == 0
    assert training.row() == Row("a", "starting", 7, 40)  # as its last checkpoint has it
    told = tmp_path / "a" / "progress.json"
    monkeypatch.setenv("PIPELINE_PROGRESS", str(told))
    bar = progress(None, "train a", 40, "steps", 7)
    bar.update(5)
    bar.set_postfix({"loss/d": "1", "distance": "12.3"}, refresh=False)
    bar.set_postfix({"loss/d": "2"}, refresh=False)  # a point without a distance
    bar.refresh()
    found = read_progress(told)
    assert found | {"per_second": 0} == {
        "title": "train a", "done": 12, "total": 40, "per_second": 0, "shown": {"loss/d": "2", "distance": "12.3"}
    }  # fmt: skip
    row = training.row()
    assert (row.step, row.distance, row.speed) == (12, "12.3", pytest.approx(found["per_second"] * 16))
    bar.close()
    told.write_text("{")
    assert read_progress(told) == {} and read_progress(tmp_path / "none") == {}
