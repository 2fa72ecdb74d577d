"""Damage of what DVC goes by: params.yaml, dvc.yaml, dvc.lock, and the files of its cache.

`dvc repro` and `python -m pipeline.check --files` say what is wrong, or all is made as before. What a person wrote
comes from git again; what DVC wrote is mended or made anew.
"""

from tests.faults.bits import DAMAGES, obey, spoil
from tests.faults.chance import Chance
from tests.faults.processes import Job
from tests.faults.table import Trial
from tests.faults.world import DRAWN_FROM_MEASURED, MEASURED, STAGES, World, clear

WRITTEN = ("params.yaml", "dvc.yaml")
CACHE = ".dvc/cache/files/md5"


def damage_records(world: World, chance: Chance) -> Trial:
    """Damage one record, check, reproduce, obey, and reproduce again."""
    name, kind = chance.in_turn([(name, kind) for kind in DAMAGES for name in (CACHE, "dvc.lock", *WRITTEN)])
    trial = Trial(f"{kind}, of {name}", tried=1)
    world.restore_committed()
    path = world.repo / name
    if name == CACHE:
        path = chance.choice(sorted(one for one in path.rglob("*") if one.is_file()))
        for stage in STAGES:  # so that the cache is needed
            clear(world.repo / stage.output)
    trial.about = str(path.relative_to(world.repo))
    whole, mode = path.read_bytes(), path.stat().st_mode
    spoil(path, kind, chance)
    if path.is_file():
        path.chmod(mode)  # as a disk that has forgotten leaves it
    if chance.random() < 0.5:
        _require_clear(trial, repro := world.dvc("repro"))
        obey(world, repro.errors)
    for _ in range(3):  # it tells of one folder at a time
        _require_clear(trial, check := world.nursery.start(world.repo, "pipeline.check", "--files"))
        obey(world, check.errors)
    if name in WRITTEN:
        clear(path)
        path.write_bytes(whole)  # git checkout
    again = world.dvc("repro")
    if again.wait() != 0:
        trial.problems.append(f"`dvc repro` ended with {again.code}: {again.output[-600:]}{again.errors[-600:]}")
    trial.differ(world.differences(STAGES[-1], MEASURED | DRAWN_FROM_MEASURED), "at the end")
    return trial


def _require_clear(trial: Trial, job: Job) -> None:
    """Wait for a command, and see that it says why if it fails, without a traceback."""
    job.wait()
    told = [line for line in job.errors.splitlines() if line.lower().startswith("error: ")]
    if "Traceback" in job.errors or (job.code != 0 and not told):
        trial.problems.append(f"{' '.join(job.command)}: no clear end but code {job.code}: {job.errors[-600:]}")
