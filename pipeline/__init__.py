"""Which GAN for your images? Data flows one way, and a file imports only what stands above it here.

errors  files  progress       one error for users; whole files; bars and log lines
checksums                     SHA256SUMS of what a stage wrote
randomness                    every random draw, named by (seed, stream, step)
layout                        where everything lies
schema  params                params.yaml as frozen, strict values
devices                       CPU, CUDA or MPS, and determinism
downloads                     archives of data sets, by https and sha256
datasets                      named sources of images
data                          prepared arrays, and batches on a device
models/                       NETWORKS and build_gan; `python -m pipeline.models`
losses  penalties             LOSSES: pairs for D and G; PENALTIES on D's slope
augment  optimisers           AUGMENTATIONS of what D is shown; OPTIMISERS
training                      TrainState, train_step, train
checkpoint                    atomic save, verified load, fingerprint, the exported networks
warm_start                    a recipe that begins with an earlier run's networks
sampling                      seeded samples, grids, animations
metrics/                      EXTRACTORS, METRICS, the real images' reference; `python -m pipeline.metrics`
spool  mlflow_model  sender   what MLflow is to be told, kept in a file; how it is sent
tracking                      Tracker: what a run tells MLflow, and never waits for
scoring                       metrics.json: all metrics of a model's samples, and their protocol
provenance                    versions, platform and commit
experiment                    one recipe with one seed: what a stage and a search trial share
observer  trainer             what is looked at while it trains; its training, from checkpoint to checkpoint
generation                    samples of a trained generator, and pictures of them
charts  report/               leaderboard.csv and report.html
check                         what is wrong with params that do parse
stages/                       what dvc.yaml runs
search/                       studies: Optuna tunes a recipe; `python -m pipeline.search`
"""

import signal
import sys

# Ctrl-C while `python -m pipeline...` imports, for seconds, ends it as it ends any program, without a traceback.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
