"""Which GAN for your images? Data flows one way, and a file imports only what stands above it here.

core/           errors, whole files, checksums, randomness, paths, devices, versions of code
params/         params.yaml as frozen, strict values; `python -m pipeline.params`
data/           named sources of images, prepared arrays, batches on a device
metrics/        extractors and metrics: images -> features -> numbers; the real images' reference
models/         the networks; `python -m pipeline.models`
gan/            losses, penalties, augmentations, optimisers; the training step, its state and checkpoints; warm start
sampling/       seeded samples of a generator, and pictures of them
check           what is wrong with params that do parse; `python -m pipeline.check`
tracking/       what a run tells MLflow, and never waits for; `python -m pipeline.tracking`
report/         leaderboard.csv and report.html
experiment      one recipe with one seed: what a stage and a search trial share
evaluate/       metrics.json of a model's samples; `python -m pipeline.metrics`: any two sets; the doctor
training/       an experiment trained from checkpoint to checkpoint, and what is measured on the way
stages/         what dvc.yaml runs
search/         studies: Optuna tunes a recipe; `python -m pipeline.search`
warm_start      the command `python -m pipeline.warm_start`
cli             the command `gan`, which has all of these
"""

import signal
import sys

# Ctrl-C while `python -m pipeline...` imports, for seconds, ends it as it ends any program, without a traceback.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
