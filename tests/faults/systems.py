"""File systems that cannot do everything: no locks, no fsync, no modes, no renames.

What lacks is done without where that is safe; else one sentence says where to move the project.
"""

import errno

from tests.faults.disk import check_refusal
from tests.faults.random_faults import RandomFaults
from tests.faults.report import Trial
from tests.faults.sandbox import STAGES, TRAIN, Sandbox
from tests.faults.stages import finish

LACKS = ("locks", "fsync", "fsync of folders", "modes", "renames of folders", "renames")
REFUSED = ("locks", "renames")
UNABLE = (errno.ENOSYS, errno.EOPNOTSUPP)


def lack(sandbox: Sandbox, draws: RandomFaults) -> Trial:
    """Let a stage run where its file system lacks something, perhaps over its own output; then where it does not."""
    kind = draws.in_turn(LACKS)
    stage = TRAIN if kind == "locks" else draws.choice(STAGES)
    trial = Trial(f"file system without {kind}", stage.name, tried=1)
    sandbox.restore(stage, with_its_own=draws.random() < 0.5)
    job = sandbox.start(stage, lacks=kind, error=draws.choice(UNABLE))
    if kind in REFUSED:
        job.wait()
        check_refusal(trial, job, "file system", "move the project to another file system")
    else:
        if job.wait() != 0:
            trial.problems.append(f"it ended with {job.code}: {job.errors[-600:]}")
        trial.differ(sandbox.differences(stage), "without it")
    finish(sandbox, stage, trial)
    return trial
