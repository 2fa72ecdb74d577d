"""Kills of `dvc repro` and of `python -m pipeline.search`, with all that they start; a search's journal damaged."""

import csv
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

from tests.faults.corruption import DAMAGES, corrupt
from tests.faults.disk import check_refusal
from tests.faults.processes import Job
from tests.faults.random_faults import RandomFaults
from tests.faults.report import Trial
from tests.faults.sandbox import DRAWN_FROM_MEASURED, MEASURED, STAGES, Sandbox, clear
from tests.faults.stages import EXIT, SIGNALS

PATIENCE = 60.0
REPRO = ("dvc", "repro", "fid@gan-0")
OF_DVC = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)  # it knows no other
SEARCH = ("pipeline.search", "--model", "gan", "--trials", "3", "--workers", "2")


def disturb(sandbox: Sandbox, draws: RandomFaults) -> Trial:
    """Kill one of the long commands and run it again."""
    attempt, number = draws.in_turn([*((_repro, one) for one in OF_DVC), *((_search, one) for one in SIGNALS)])
    return attempt(sandbox, draws, number)


def _repro(sandbox: Sandbox, draws: RandomFaults, number: signal.Signals) -> Trial:
    """Kill a comparison from the training on, and then go on with it."""
    trial = Trial(f"{number.name} of dvc repro", REPRO[-1])
    seconds = _repro_seconds(sandbox)
    for _ in range(draws.randint(1, 2)):
        _kill(sandbox, sandbox.dvc(*REPRO[1:]), number, draws.uniform(0, seconds), trial)
    again = sandbox.dvc(*REPRO[1:])
    # DVC writes both files in place; it says so, and the run cache has all that dvc.lock held.
    torn = {"dvc.lock' validation failed": "dvc.lock", "Unable to read RWLock-file": "rwlock"}
    if again.wait() != 0 and (found := [name for text, name in torn.items() if text in again.errors]):
        trial.kind += f", {found[0]} torn"
        sandbox.succeed(sandbox.fork_server.start(sandbox.repo, "pipeline.check"))
        again = sandbox.dvc(*REPRO[1:])
    if again.wait() != 0:
        last = again.output[-600:] + again.errors[-600:]
        trial.problems.append(f"`dvc repro` run again ended with {again.code}: {last}")
    made = ("data/", "runs/gan-0/", "samples/gan-0/", "scores/gan-0/", "closest/gan-0.png")
    differing = sandbox.differences(STAGES[-1], MEASURED | DRAWN_FROM_MEASURED)
    trial.differ([one for one in differing if one[0].startswith(made)], "at the end")
    _check_nothing_left(sandbox, trial)
    return trial


def _repro_seconds(sandbox: Sandbox) -> float:
    """How long it takes undisturbed; afterwards all is as before it."""
    seconds = sandbox.seconds.get("repro", 0.0)
    while True:
        sandbox.restore_committed()
        for root in ("runs", "samples", "scores", "closest", "reports", ".work", ".dvc/cache/runs"):
            clear(sandbox.repo / root)
        if seconds:
            return seconds
        seconds = sandbox.seconds["repro"] = sandbox.succeed(sandbox.dvc(*REPRO[1:])).seconds


def _search(sandbox: Sandbox, draws: RandomFaults, number: signal.Signals) -> Trial:
    """Kill a search or one of its workers, or damage the file that keeps its studies; then go on with it."""
    whole, seconds = _undisturbed_search(sandbox)
    trial = Trial(f"{number.name} of pipeline.search", " ".join(SEARCH[1:]))
    sandbox.restore_committed()
    for _ in range(draws.randint(1, 3)):
        job = sandbox.fork_server.start(sandbox.repo, *SEARCH, exec=True)
        _kill(sandbox, job, number, draws.uniform(0, seconds), trial)
    again = sandbox.fork_server.start(sandbox.repo, *SEARCH, exec=True)
    if again.wait() != 0:
        trial.problems.append(f"the search run again ended with {again.code}: {again.errors[-400:]}")
    trial.differ(_differing(sandbox, whole), "at the end")
    _check_nothing_left(sandbox, trial)
    return trial


def damage_journal(sandbox: Sandbox, draws: RandomFaults) -> Trial:
    """Damage the file in which a finished search keeps its studies: it is noticed, or nothing changes."""
    whole, _ = _undisturbed_search(sandbox)
    kind = draws.in_turn(list(DAMAGES))
    trial = Trial(f"{kind}, of a study's journal", tried=1)
    journal = sandbox.repo / ".work/search/studies.journal"
    sandbox.restore_committed()
    shutil.copytree(sandbox.folder / "search" / ".work", sandbox.repo / ".work", dirs_exist_ok=True)
    corrupt(journal, kind, draws)
    job = sandbox.fork_server.start(sandbox.repo, *SEARCH, exec=True)
    if job.wait() != 0:
        check_refusal(trial, job, "studies.journal")
    else:
        trial.differ(_differing(sandbox, whole), "at the end")
    return trial


def _kill(sandbox: Sandbox, job: Job, number: signal.Signals, delay: float, trial: Trial) -> None:
    """Kill a command after so many seconds, with all that it started if the signal is Ctrl-C's; nothing may live on."""
    trial.about += f", {delay:.1f} s"
    if job.wait(delay) is not None:
        return
    trial.tried += 1
    before = job.started + delay
    job.kill_group(number) if number == signal.SIGINT else job.signal(number)
    if job.wait(EXIT) is None:
        trial.problems.append(f"{number.name} has not ended it within {EXIT:.0f} s")
        job.kill_group(signal.SIGKILL)
        job.wait()
    trial.slowest = max(trial.slowest, job.started + job.seconds - before)
    # A stage that was just started learns of its parent's death when it has imported torch.
    trial.problems += [f"still runs after {PATIENCE:.0f} s: {command}" for command in sandbox.left_over(PATIENCE)]


def _check_nothing_left(sandbox: Sandbox, trial: Trial) -> None:
    trial.problems += [f"{path} is left" for path in sandbox.temporaries()]
    trial.problems += [f"still runs: {command}" for command in sandbox.left_over()]


def _undisturbed_search(sandbox: Sandbox) -> tuple[dict[str, str], float]:
    """The tables of a search, and how long it takes; its .work is kept too."""
    if "search" not in sandbox.seconds:
        sandbox.restore_committed()
        sandbox.seconds["search"] = sandbox.succeed(sandbox.fork_server.start(sandbox.repo, *SEARCH, exec=True)).seconds
        for name in ("reports/studies", ".work"):
            shutil.copytree(sandbox.repo / name, sandbox.folder / "search" / name)
    return _tables(sandbox.folder / "search"), sandbox.seconds["search"]


def _tables(repo: Path) -> dict[str, str]:
    """What a search found, without the columns that are measured time."""
    found = {}
    for path in sorted((repo / "reports/studies/gan").glob("*.csv")):
        rows = csv.DictReader(path.read_text().splitlines())
        found[path.name] = str([{k: v for k, v in row.items() if "seconds" not in k} for row in rows])
    return found


def _differing(sandbox: Sandbox, whole: Mapping[str, str]) -> list[tuple[str, int]]:
    there = _tables(sandbox.repo)
    return [(f"reports/studies/gan/{name}", len(text)) for name, text in whole.items() if there.get(name) != text]
