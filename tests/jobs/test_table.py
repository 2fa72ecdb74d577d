"""The table: in a log only when a training starts or ends, or a minute has passed; in a terminal in its place."""

import sys

import pytest

from pipeline.jobs.table import ProgressTable, Row


def rows(state: str, step: int) -> list[Row]:
    return [Row("sagan-0", state, step, 1500, 1234.4, "12.3"), Row("b-10", "waiting", 0, 1500)]


def test_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    shown = ProgressTable(lambda: now[0])

    def told(state: str, step: int, at: float, last: bool = False) -> str:
        now[0] = at
        shown.show(rows(state, step), last)
        return capsys.readouterr().err

    assert told("starting", 0, 0).splitlines() == [
        "leg      state     step     images/s  distance",
        "sagan-0  starting  0/1,500  1,234     12.3",
        "b-10     waiting   0/1,500",
    ]
    assert told("training", 1, 1) == "" and told("training", 900, 59.9) == ""
    assert "900/1,500" in told("training", 900, 60.1)
    assert told("training", 901, 61) == ""
    assert "finished" in told("finished", 1500, 62) and told("finished", 1500, 63) == ""
    assert "finished" in told("finished", 1500, 63, last=True)
    shown.say("warning: x")
    assert capsys.readouterr().err == "warning: x\n"


def test_in_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    shown = ProgressTable(lambda: now[0])
    shown.show(rows("training", 1))
    capsys.readouterr()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    shown.show(rows("training", 2))  # the first one in a terminal
    assert not capsys.readouterr().err.startswith("\x1b")
    now[0] = 0.5
    shown.show(rows("training", 3))
    assert capsys.readouterr().err == ""
    now[0] = 1.5
    shown.show(rows("training", 4))
    assert capsys.readouterr().err.startswith("\x1b[3F\x1b[Jleg ")
    shown.say("warning: x")
    assert capsys.readouterr().err == "\x1b[3F\x1b[Jwarning: x\n"
    shown.show(rows("training", 5))
    assert capsys.readouterr().err.startswith("leg ")
    shown.show(rows("finished", 6), last=True)
    shown.say("done")
    assert capsys.readouterr().err.endswith("\ndone\n")
