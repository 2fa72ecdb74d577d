"""Which GAN for your images? Data flows one way, and a file imports only what stands above it here.

core/           errors, whole files, checksums, randomness, paths, devices, versions of code
params/         params.yaml as frozen, strict values; `python -m pipeline.params`
data/           named sources of images, prepared arrays, batches on a device
metrics/        extractors and metrics: images -> features -> numbers; the real images' reference
models/         the networks; `python -m pipeline.models`
gan/            losses, penalties, augmentations, optimisers; the training step, its state and checkpoints; warm start
sampling/       seeded samples of a generator, and pictures of them
repository      DVC's own files: what it needs, and repairs after a kill or a fault
check_recipe    what is wrong with a recipe, beyond types and ranges
check           what is wrong with params.yaml, beyond types and ranges; `python -m pipeline.check`
tracking/       logging to MLflow, without waiting for it; `python -m pipeline.tracking`
report/         leaderboard.csv and report.html
experiment      one recipe with one seed: what a stage and a search trial share
evaluate/       the scores of a model's samples; `python -m pipeline.metrics`: any two sets; the doctor
training/       an experiment trained from checkpoint to checkpoint, and what is measured on the way
stages/         what dvc.yaml runs
jobs/           the comparison's trainings side by side; `python -m pipeline.jobs`
search/         studies: Optuna tunes a recipe; `python -m pipeline.search`
warm_start      the command `python -m pipeline.warm_start`
cli             the command `gan`, which has all of these
"""

import signal
import sys
from types import TracebackType

LACKING = ("failed to map segment", "cannot allocate memory", "can't start new thread", "resource temporarily unavail")


def _report_import_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An excepthook for the time while a command imports: what the machine lacks is one sentence, no traceback."""
    if isinstance(error, ModuleNotFoundError) and not f"{error.name}.".startswith("pipeline."):
        print(f"error: {error.name} is not installed: run `make setup`, then `. .venv/bin/activate`", file=sys.stderr)
        sys.exit(2)
    if not isinstance(error, MemoryError) and not any(sign in str(error).lower() for sign in LACKING):
        sys.__excepthook__(kind, error, trace)
        return
    limits = "raise the limits of memory and processes (ulimit -v, ulimit -u), or use a larger machine"
    print(f"error: the system refuses memory or threads ({error or kind.__name__}): {limits}", file=sys.stderr)
    sys.exit(2)


# Imports take seconds, before a command's own `main` can handle errors. Ctrl-C ends it silently meanwhile.
if sys.argv[:1] == ["-m"] or "".join(sys.argv[:1]).endswith("/gan"):
    sys.excepthook = _report_import_error
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
