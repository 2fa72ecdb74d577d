"""A finished training's files, kept beside its checkpoints and handed to whoever asks for that training again.

For this no network is built, no extractor loaded, and MLflow's client imported only if the run there lacks something.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.core.checksums import SUMS, verify_checksums, write_sums
from pipeline.core.errors import PipelineError, warn
from pipeline.core.files import atomic_folder, atomic_path, read_json, write_json
from pipeline.core.versions import program_of, version
from pipeline.experiment import PACKAGE, Experiment
from pipeline.gan.checkpoint import RunHistory, checkpoints, read_history, save_checkpoint, step_of
from pipeline.gan.state import TrainState
from pipeline.training.monitor import tell_again

KEPT, FILES, MADE_FOR = "finished", "run", "made_for.json"
WRITERS = (  # the code that shapes the files and is not in the fingerprint
    "core/checksums.py", "core/files.py", "experiment.py", "gan/checkpoint.py", "models/summary.py",
    "training/finished.py",
)  # fmt: skip


def complete_checkpoint(folder: Path, state: TrainState, progress: RunHistory) -> None:
    """See that the last checkpoint in `folder` has all that was measured of the training that is now finished.

    The checkpoint of one that was stopped during its last measurement lacks it, and no other was written since.
    """
    known = read_history(checkpoints(folder)[0])
    if known is None or len(known.history) < len(progress.history):
        written = save_checkpoint(folder, state, progress)
        for path in checkpoints(folder):
            if path != written and step_of(path) == state.step:
                path.unlink()


def keep_finished(experiment: Experiment, floor: Mapping[str, Any], write: Callable[[Path], None]) -> None:
    """Have `write` write the files of the training that has just been finished to a folder, where they stay.

    Args:
        floor: the floor.json of the reference by which the curve was measured.
    """
    with atomic_folder(experiment.work_folder() / KEPT) as folder:
        write(folder / FILES)
        write_json(folder / MADE_FOR, _purpose(experiment, floor))
        write_sums(folder)


def copy_finished(experiment: Experiment, out: Path) -> None:
    """Copy the kept files to the folder `out`, SHA256SUMS last."""
    files = experiment.work_folder() / KEPT / FILES
    for path in sorted(files.iterdir(), key=lambda path: path.name == SUMS):
        if path.is_dir():
            with atomic_folder(out / path.name) as folder:
                shutil.copytree(path, folder, dirs_exist_ok=True)
        else:
            with atomic_path(out / path.name) as temporary:
                shutil.copyfile(path, temporary)


def hand_over(experiment: Experiment, floor: Mapping[str, Any], out: Path) -> bool:
    """Whether exactly this training is finished: then its files are in `out`, and MLflow knows all of it.

    That is so if its last checkpoint and the kept files are whole, and are what would be trained and written now. Else
    nothing is done. Of damaged files it is said.
    """
    folder, work = experiment.work_folder() / KEPT, experiment.work_folder()
    newest = next(iter(checkpoints(work)), None)
    if newest is None or not folder.is_dir():
        return False
    try:
        verify_checksums(folder)
        made_for = read_json(folder / MADE_FOR)
    except PipelineError:
        warn(f"{folder} is damaged and passed over")
        return False
    progress = read_history(newest) if made_for == _purpose(experiment, floor) else None
    if progress is None:
        return False
    copy_finished(experiment, out)
    with experiment.open_tracker(quiet=True) as tracker:
        tell_again(tracker, floor["metric"], progress)
        if experiment.params.runtime.log_model:
            tracker.model(out)
    return True


def _purpose(experiment: Experiment, floor: Mapping[str, Any]) -> Any:
    """What the kept files are a function of, as JSON: with another, they are not used."""
    newest = next(iter(checkpoints(experiment.work_folder())))
    purpose = {
        "fingerprint": experiment.fingerprint,
        "checkpoint": newest.name,  # with its sha256
        "recipe": experiment.recipe.model_dump(mode="json"),  # the fingerprint leaves out what does nothing
        "train": experiment.params.train.model_dump(mode="json"),
        "image_shape": experiment.image_shape,
        "n_classes": experiment.n_classes,
        "reference": {key: floor[key] for key in ("metric", "extractor", "data_sha256")},
        "data_sha256": experiment.description["sha256"],
        "code": version(program_of(PACKAGE / name for name in WRITERS)),
    }
    return json.loads(json.dumps(purpose))
