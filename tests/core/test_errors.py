"""How a command ends: its exit status, one sentence and no traceback, whatever becomes of it or of its streams."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.core.errors import STOP_SIGNALS, exit_cleanly, printable, visible
from tests.clones import hear_signals

ROOT = Path(__file__).resolve().parents[2]
ECHO = "from pipeline.core.errors import *; exit_cleanly(lambda: (warn('w'), print('p')))()"

# A second signal, when the first has been obeyed, ends it at once: perhaps before it has said so.
SENTENCES = ("", "error: interrupted; run the same command again to continue\n")


def shell(line: str, code: str = ECHO) -> tuple[int, str]:
    """`line` in bash, with "$@" for a Python that runs `code`: its exit status, and all that can be seen."""
    command = ["bash", "-c", f"({line}) 2>&1", "bash", sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full does not exist")
@pytest.mark.parametrize(
    ("line", "code", "seen"),
    [
        ('"$@"', 0, "warning: w\np\n"),
        ('"$@" 2>/dev/full', 0, "p\n"),
        ('"$@" 2>&-', 0, "p\n"),
        ('"$@" 2> >(true)', 0, "p\n"),
        ('"$@" >&-', 0, "warning: w\n"),
        ('"$@" <&- >&- 2>&-', 0, ""),
        ('"$@" | true; exit ${PIPESTATUS[0]}', 141, "warning: w\n"),
        (
            '"$@" >/dev/full',
            2,
            "warning: w\nerror: standard output: No space left on device: the output is incomplete\n",
        ),
        ('"$@" >/dev/full 2>/dev/full', 2, ""),
    ],
)
def test_streams_that_take_nothing(line: str, code: int, seen: str) -> None:
    waits = ECHO.replace("print", "time.sleep(0.3), print").replace("; exit", "; import time; exit")
    assert shell(line, waits) == (code, seen)


def test_what_a_terminal_cannot_show_is_escaped() -> None:
    code = "from pipeline.core.errors import *; exit_cleanly(lambda: (warn('caf\\xe9'), print('caf\\xe9 \\u65e5')))()"
    escaped = "warning: caf\\xe9\ncaf\\xe9 \\u65e5\n"
    assert shell('PYTHONIOENCODING=ascii "$@"', code) == (0, escaped)
    assert shell('PYTHONIOENCODING=utf-8 "$@"', code) == (0, "warning: café\ncafé 日\n")


def test_a_file_is_never_opened_in_the_place_of_a_closed_stream() -> None:
    code = "import os; from pipeline.core.errors import *; exit_cleanly(lambda: os.write(1, b'%d' % os.open('/', 0)))()"
    assert int(shell('"$@" 2>&-', code)[1]) > 2


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (OSError(errno.EIO, "Input/output error", "a"), "a: Input/output error: fix that and run the same command"),
        (OSError(errno.EMFILE, "Too many open files", "a"), "a: Too many open files: fix that"),
        (FileExistsError(errno.EEXIST, "File exists", "a"), "a: File exists: move it away and run the same command"),
        (MemoryError(), "out of memory: free some"),
    ],
)
def test_what_the_system_refuses_is_one_sentence(
    fault: Exception, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        raise fault

    with pytest.raises(SystemExit) as end:
        exit_cleanly(main)()
    assert end.value.code == 2 and capsys.readouterr().err.startswith(f"error: {told}")


def test_a_fault_that_names_nothing_keeps_its_traceback() -> None:
    def main() -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    with pytest.raises(OSError, match="Invalid argument"):
        exit_cleanly(main)()


STOPPED = """if True:
    import os, signal, sys, time
    from pipeline.core.errors import STOP_SIGNALS, exit_cleanly, printable, visible
    from pipeline.stages import stop_by_exception
    @exit_cleanly
    def main():
        stop_by_exception()
        print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, flush=True)
        try:
            time.sleep(30)
        finally:
            for number in STOP_SIGNALS:
                os.kill(os.getpid(), number)
    main()
"""


@pytest.mark.slow
def test_a_closed_terminal_stops_a_command_but_not_under_nohup() -> None:
    for ignored, number in ((False, signal.SIGHUP), (True, signal.SIGTERM)):
        process = subprocess.Popen(
            [*["env", "--ignore-signal=HUP"][: 2 * ignored], sys.executable, "-c", STOPPED],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout and process.stdout.readline() == f"{ignored}\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(number)
        errors = process.communicate(timeout=60)[1]
        assert errors in SENTENCES
        assert process.returncode in {end for one in STOP_SIGNALS for end in (-one, 128 + one)}


DROPPED = """if True:
    import os, signal, sys, time
    from pipeline.core.errors import exit_cleanly
    class Last:
        def __init__(self, act):
            self.act = act
        def __del__(self):
            self.act()
    @exit_cleanly
    def main():
        number = int(sys.argv[1])
        if number != signal.SIGINT:
            from pipeline.stages import stop_by_exception
            stop_by_exception()
        Last(lambda: 1 / 0)
        Last(lambda: os.kill(os.getpid(), number))
        time.sleep(30)
        print("lost")
    main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_end_of_an_object_is_not_lost(number: signal.Signals) -> None:
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", DROPPED, str(int(number))],
        cwd=ROOT, capture_output=True, text=True, timeout=60, preexec_fn=hear_signals,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (128 + number, "") and time.monotonic() - begun < 25
    said = done.stderr.splitlines()
    assert said.count("ZeroDivisionError: division by zero") == done.stderr.count("Traceback") == 1  # is told as ever
    assert said[-1] == "error: interrupted; run the same command again to continue"


def test_ctrl_c_while_a_command_imports() -> None:
    for delay in (0.3, 1.0):
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.stages.prepare"], cwd="/", env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[1] in (
            "",
            "error: interrupted; run the same command again to continue\n",
        )
        assert process.returncode in (-signal.SIGINT, 130)


def test_the_end_of_a_process_searches_no_garbage() -> None:
    code = (
        "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 1000))\n"
        "from pipeline.core.errors import exit_cleanly; exit_cleanly(lambda: print(gc.get_freeze_count()))()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["0", "True"]


@pytest.mark.parametrize(("limit", "value"), [("-v", 600_000), ("-v", 2_000_000)])
def test_too_little_memory_to_import_is_one_sentence(tmp_path: Path, limit: str, value: int) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)  # where it was found sound before, nothing is imported
    command = f"ulimit {limit} {value}; exec {sys.executable} -m pipeline.check"
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=variables, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert last[-1].startswith("error: the system refuses memory or threads (") and "ulimit -v" in last[-1]


@pytest.mark.parametrize(
    "number", [*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200B, 0x200E, 0x2028, 0xFEFF, 0xE0041]
)
def test_what_is_hidden_or_turns_the_text_is_seen(number: int) -> None:
    escaped = f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
    assert visible(f"a{chr(number)}b") == printable(f"a{chr(number)}b") == f"a{escaped}b"


def test_what_languages_need_stays() -> None:
    for text in ("\u0645\u06cc\u200c\u062e", "\U0001f468\u200d\U0001f469", "a\u00a0b", "\u05d0\u05d1", "e\u0301", ""):
        assert visible(text) == text
    assert visible("a\nb\tc\u200d") == "a\\nb\\tc\u200d"
