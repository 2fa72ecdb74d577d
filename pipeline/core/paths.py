"""Paths: what each stage writes, and what is kept outside DVC.

    check       data/checked
    prepare     data/prepared/    train.npy train_labels.npy test.npy test_labels.npy dataset.json
    reference   data/reference/   {train,test}_features.npy statistics.npz neighbours.npy floor.json
    train       runs/E/           {generator,best,discriminator}.safetensors generator.json grids/
                                  {history,distance,timing}.csv
    generate    samples/E/        images.npy best.npy labels.npy grid.png progress.gif final/00.png ..
    fid         scores/E/         record.json metrics.json model_card.md
                closest/E.png
    report      reports/          report.html leaderboard.csv

E is `<model>-<seed>`, one experiment. Paths are relative to the current folder: the root of the repository, or of the
temporary copy in which DVC runs an experiment. `root()` is always the original repository: checkpoints and MLflow's
database stay there, so that an experiment in a temporary copy is not lost and can resume.
"""

import os
from pathlib import Path

CHECKED = Path("data/checked")
PREPARED = Path("data/prepared")
REFERENCE = Path("data/reference")
RUNS = Path("runs")
SAMPLES = Path("samples")
SCORES = Path("scores")  # all of it in git, so that a clone has what the stage report depends on
CLOSEST = Path("closest")
REPORTS = Path("reports")
PRETRAINED = Path("pretrained")  # networks of earlier runs, see pipeline.gan.warm_start


def experiment_name(model: str, seed: int) -> str:
    return f"{model}-{seed}"


def root() -> Path:
    """The root of the original repository, also from within DVC's temporary copies of it."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd())


def work_folder(name: str, fingerprint: str) -> Path:
    """Checkpoints, outbox and locks of one experiment; another fingerprint is another folder."""
    return root() / ".work" / f"{name}-{fingerprint}"
