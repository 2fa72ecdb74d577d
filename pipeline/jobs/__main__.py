"""Train the comparison's experiments side by side, ahead of `dvc repro`, which then finds them trained.

    python -m pipeline.jobs --jobs 2     two at once, each on its share of the cores, or on a GPU of its own
    python -m pipeline.jobs --gpus 4     four at once, on the first four GPUs

Without an option, runtime.jobs of params.yaml is the number; 1 = nothing is trained ahead. If it was stopped, the same
command continues it. `make run JOBS=2` runs this, and then `dvc repro`.
"""

import argparse
import sys

from pipeline.core.errors import PipelineError, exit_cleanly, log_line
from pipeline.params import Params, load


@exit_cleanly
def main(arguments: list[str] | None = None, prog: str = "python -m pipeline.jobs") -> None:
    options = _options(arguments, prog)
    params = load()
    jobs = options.jobs or options.gpus or params.runtime.jobs
    if jobs > 1 or options.gpus:
        if params.runtime.devices != 1:
            raise PipelineError("runtime.devices: must be 1 for trainings side by side, which have a device each")
        _train(params, jobs, options.gpus)


def _train(params: Params, jobs: int, asked: int | None) -> None:
    # Imported here, because they take seconds, and with one job nothing is to be done.
    from pipeline import check
    from pipeline.core import paths
    from pipeline.data.prepared import load_description
    from pipeline.jobs.plan import bring_reference_up_to_date, make_plan
    from pipeline.jobs.run import train_side_by_side
    from pipeline.jobs.table import FAILED, ProgressTable
    from pipeline.stages import stop_by_exception, stop_signals

    stop_by_exception()
    check.validate(params)
    gpus = _gpus(params.runtime.device, asked)
    bring_reference_up_to_date()
    legs = make_plan(params, load_description(paths.PREPARED))
    received = stop_signals()
    shown = ProgressTable()
    ended = train_side_by_side(legs, jobs, gpus, lambda: bool(received), shown)
    if received:
        log_line("stopped with checkpoints written: run the same command again to continue")
        sys.exit(128 + received[0])
    failed = [one for one in ended if one.state == FAILED]
    if failed:
        found = {one.leg.name: (one.fault.removeprefix(f"{one.leg.name}: "), one.log) for one in failed}
        faults = "\n".join(f"{name}: {fault} (its whole output: {log})" for name, (fault, log) in found.items())
        others = ", the others are finished" if len(failed) < len(ended) else ""
        raise PipelineError(f"{len(failed)} of {len(ended)} trainings failed{others}:\n{faults}")
    log_line(f"{len(ended)} trainings are finished" if ended else "there is nothing to train")


def _gpus(device: str, asked: int | None) -> list[str]:
    """The GPUs to train on, by their names for CUDA_VISIBLE_DEVICES; empty where the device is another one.

    Raises:
        PipelineError: more are asked for than there are, or the device does not go with several.
    """
    import torch

    from pipeline.jobs.processes import visible_gpus

    if device.startswith("cuda:"):
        raise PipelineError(
            f"runtime.device: must be auto or cuda for trainings side by side, which get a GPU each, got {device}"
        )
    there = visible_gpus() if torch.cuda.is_available() and device in ("auto", "cuda") else []
    if asked is not None and asked > len(there):
        name = f"runtime.device: {device}" if device not in ("auto", "cuda") else "CUDA"
        raise PipelineError(f"GPUS: {asked} were asked for, but with {name} there are {len(there)} here: use JOBS=2")
    return there[:asked]


def _options(arguments: list[str] | None, prog: str) -> argparse.Namespace:
    first, rest = (__doc__ or "").replace("python -m pipeline.jobs", prog).split("\n\n", 1)
    layout = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(prog=prog, description=first, epilog=rest, formatter_class=layout)
    parser.add_argument("--jobs", type=_count, help="trainings at once (runtime.jobs)")
    parser.add_argument("--gpus", type=_count, help="GPUs to use (all), and without --jobs the trainings at once")
    return parser.parse_args(arguments)


def _count(text: str) -> int | None:
    """A count from 1 to 1024; None for an empty text, which make gives when JOBS or GPUS is not set."""
    if not text:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to 1024, got {text}")
    return int(text)


if __name__ == "__main__":
    main()
