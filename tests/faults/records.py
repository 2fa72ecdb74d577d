"""Damage of what DVC goes by: params.yaml, dvc.yaml, dvc.lock, and the files of its cache.

`dvc repro` and `python -m pipeline.check --files` say what is wrong, or all is made as before. What a person wrote
comes from git again; what DVC wrote is mended or made anew.
"""

from tests.faults.corruption import DAMAGES, corrupt, obey
from tests.faults.processes import Job
from tests.faults.random_faults import RandomFaults
from tests.faults.report import Trial
from tests.faults.sandbox import DRAWN_FROM_MEASURED, MEASURED, STAGES, Sandbox, clear

WRITTEN = ("params.yaml", "dvc.yaml")
CACHE = ".dvc/cache/files/md5"


def damage_records(sandbox: Sandbox, draws: RandomFaults) -> Trial:
    """Damage one record, check, reproduce, obey, and reproduce again."""
    name, kind = draws.in_turn([(name, kind) for kind in DAMAGES for name in (CACHE, "dvc.lock", *WRITTEN)])
    trial = Trial(f"{kind}, of {name}", tried=1)
    sandbox.restore_committed()
    path = sandbox.repo / name
    if name == CACHE:
        path = draws.choice(sorted(one for one in path.rglob("*") if one.is_file()))
        for stage in STAGES:  # so that the cache is needed
            sandbox.clear_outputs(stage)
    trial.about = str(path.relative_to(sandbox.repo))
    whole, mode = path.read_bytes(), path.stat().st_mode
    corrupt(path, kind, draws)
    if path.is_file():
        path.chmod(mode)  # as a disk that has forgotten leaves it
    if draws.random() < 0.5:
        _require_clear(trial, repro := sandbox.dvc("repro"))
        obey(sandbox, repro.errors)
    for _ in range(3):  # it tells of one folder at a time
        _require_clear(trial, check := sandbox.fork_server.start(sandbox.repo, "pipeline.check", "--files"))
        obey(sandbox, check.errors)
    if name in WRITTEN:
        clear(path)
        path.write_bytes(whole)  # git checkout
    again = sandbox.dvc("repro")
    if again.wait() != 0:
        trial.problems.append(f"`dvc repro` ended with {again.code}: {again.output[-600:]}{again.errors[-600:]}")
    trial.differ(sandbox.differences(STAGES[-1], MEASURED | DRAWN_FROM_MEASURED), "at the end")
    return trial


def _require_clear(trial: Trial, job: Job) -> None:
    """Wait for a command, and see that it says why if it fails, without a traceback."""
    job.wait()
    sentences = [line for line in job.errors.splitlines() if line.lower().startswith("error: ")]
    if "Traceback" in job.errors or (job.code != 0 and not sentences):
        trial.problems.append(f"{' '.join(job.command)}: no clear end but code {job.code}: {job.errors[-600:]}")
