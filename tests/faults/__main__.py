"""Try faults, and print a table of what came of them; see the package."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.clones import hear_signals
from tests.faults import __doc__ as description
from tests.faults.commands import damage_journal, disturb
from tests.faults.corruption import damage
from tests.faults.disk import can_mount, refuse
from tests.faults.folders import take_away
from tests.faults.meanwhile import meddle
from tests.faults.mutants import MUTANTS
from tests.faults.processes import adopt_orphans
from tests.faults.random_faults import RandomFaults
from tests.faults.records import damage_records
from tests.faults.report import Trial, table
from tests.faults.sandbox import Sandbox
from tests.faults.server import damage_outbox, offend
from tests.faults.stages import kill
from tests.faults.systems import lack
from tests.faults.tracked import fill_store, kill_tracked

Try = Callable[[Sandbox, RandomFaults], Trial]


def main() -> None:
    options = _options()
    _own_mounts()
    hear_signals()
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as folder:
        began = time.monotonic()
        sandbox = Sandbox(Path(folder).resolve(), options.mutant)
        stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in sandbox.seconds.items())
        print(f"the undisturbed run is made in {time.monotonic() - began:.0f} s: {stages}", flush=True)
        try:
            trials = list(_tried(sandbox, options))
        finally:
            sandbox.close()
    failed = [trial for trial in trials if trial.problems]
    print(f"\n{table(trials)}\n\nseed {options.seed}, {time.monotonic() - began:.0f} s, {len(failed)} attempts failed")
    sys.exit(bool(failed))


def _tried(sandbox: Sandbox, options: argparse.Namespace) -> Iterator[Trial]:
    """Attempt after attempt, each a function of the seed, its group and its number; in some no fault takes place."""
    kills, others = options.kills, options.others
    counts = {"stages": kills, "commands": kills // 20, "tracked": kills // 20, "disk": others, "folders": others // 2,
              "corruption": others, "records": others // 4 or 1, "outbox": others // 2, "server": others // 2,
              "journal": others // 10 or 1, "stores": others // 10 or 1,
              "systems": others // 2, "meanwhile": max(4, others // 2)}  # fmt: skip
    for group in options.only or GROUPS:
        if group == "stores" and not can_mount():
            continue
        done, numbers = 0, range(20 * counts[group]) if options.instance is None else [options.instance]
        for number in numbers:
            if done >= counts[group] and options.instance is None:
                break
            began = time.monotonic()
            trial = GROUPS[group](sandbox, RandomFaults(options.seed, group, number))
            done += trial.tried
            line = f"{group} {number}: {trial.kind}, {trial.about} [{time.monotonic() - began:.1f} s]"
            print(line + "".join(f"\n    FAILED: {problem}" for problem in trial.problems), flush=True)
            if trial.problems:
                print(f"    again: python -m tests.faults --seed {options.seed} --only {group} --instance {number}")
            yield trial


GROUPS: dict[str, Try] = {
    "stages": kill, "commands": disturb, "tracked": kill_tracked, "disk": refuse, "folders": take_away,
    "corruption": damage, "records": damage_records, "outbox": damage_outbox, "server": offend,
    "journal": damage_journal, "stores": fill_store, "systems": lack, "meanwhile": meddle,
}  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m tests.faults", description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (0)")
    parser.add_argument("--kills", type=int, default=200, help="kills of single stages (200); of commands a 20th")
    parser.add_argument("--others", type=int, default=40, help="faults of disks and of files (40); of servers a half")
    parser.add_argument("--only", type=lambda text: text.split(","), help=f"groups, of {', '.join(GROUPS)}")
    parser.add_argument("--instance", type=int, help="this attempt of each group alone")
    parser.add_argument("--mutant", choices=MUTANTS, help="break the pipeline first, in the copy")
    options = parser.parse_args()
    if unknown := set(options.only or ()) - set(GROUPS):
        parser.error(f"--only: no group {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    return options


def _own_mounts() -> None:
    """Go on in a mount namespace of our own, where that is allowed: no disk then outlives the suite."""
    flags = ["-m"] if os.geteuid() == 0 else ["-rm"]
    if "FAULTS_OWN_MOUNTS" in os.environ:
        return
    if subprocess.run(["unshare", *flags, "true"], capture_output=True).returncode:
        print("no disk can be mounted here: of disks, only a limit to the size of files is tried", flush=True)
        return
    os.environ["FAULTS_OWN_MOUNTS"] = "1"
    os.execvp("unshare", ["unshare", *flags, sys.executable, "-m", "tests.faults", *sys.argv[1:]])


if __name__ == "__main__":
    main()
