"""The fault suite, small enough for every push, and broken pipelines, of which it must say so; see the package."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.mutants import MUTANTS, mutate

ROOT = Path(__file__).resolve().parents[2]
KILLS = {"SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "power cut", "torn write"}
ROW = re.compile(r"\| (.+?) +\| (\d+) +\| (\d+) +\| (\d+) +\| (\d+) +\| (\S+).*\|")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, pidfd and tmpfs: Linux")


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_changes_code_that_is_there(name: str, tmp_path: Path) -> None:
    file, old, new = MUTANTS[name]
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_bytes((ROOT / file).read_bytes())
    mutate(name, tmp_path)
    assert compile((tmp_path / file).read_text(), file, "exec") and old != new


def suite(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tests.faults", *options], cwd=ROOT, capture_output=True, text=True)


def rows(output: str) -> dict[str, tuple[int, int, int, int, str]]:
    """What the table says of each kind: tried, survived, differing files, bytes lost, slowest exit."""
    found = [match.groups() for match in map(ROW.fullmatch, output.splitlines()) if match]
    return {kind: (int(a), int(b), int(c), int(d), slowest) for kind, a, b, c, d, slowest in found}


@pytest.mark.slow
def test_no_fault_loses_or_changes_a_byte() -> None:
    done = suite("--seed", "0", "--kills", "20", "--others", "2")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    found = rows(done.stdout)
    total = found.pop("all")
    assert total[:4] == (total[0], total[0], 0, 0)
    assert sum(tried for tried, *_ in found.values()) == total[0] >= 20 + 2 * 1 + 2 * 2 + 6 * 1 + 4
    assert sum(found[kind][0] for kind in KILLS & found.keys()) >= 20
    assert all(float(row[4]) <= 10 for row in found.values() if row[4] != "-")


@pytest.mark.slow
def test_a_broken_pipeline_is_found() -> None:
    # A power cut of a training after its checkpoint of step 56, and another as it goes on: at acts on files, not at
    # times, so a busy machine changes nothing.
    again = ("--seed", "2026", "--only", "stages", "--instance", "2058")
    done = suite(*again, "--mutant", "optimisers not restored")
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    assert "files differ at the end" in done.stdout
    assert f"again: python -m tests.faults {' '.join(again)}" in done.stdout
    tried, survived, differing, lost, _ = rows(done.stdout)["all"]
    assert survived < tried
    assert differing > 0
    assert lost > 0
