"""One page of speed: training, measuring, start-up, and what checkpoints and tracking cost, beside others' programs.

    make bench                                         prints the page: about ten minutes on two cores
    python -m benchmarks.bench --into docs/speed.md    also puts it there, between its two marks
    GAN_COLLECTION=DIR make bench                      also beside the networks of a public collection
    python -m benchmarks.bench --only training start-up

DIR is a checkout of https://github.com/w86763777/pytorch-gan-collections. torch-fidelity and clean-fid are measured
where they are installed. What checkpoints and tracking cost needs the digits of `make run`. All rows of a table take
turns, round after round. A time is the median of the rounds; a ratio is the median of the rounds' ratios, with the
smallest and the largest. The machine must be quiet: the load before the first table stands in the page.
"""

import argparse
import datetime
import importlib.util
import os
import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import scipy
import torch
from torch import Tensor, nn

from benchmarks import evaluation_speed, safety_cost
from benchmarks.training_speed import Loop, Variant, apart, measure, ours, plain_loop, random_images
from pipeline.core.errors import PipelineError, exit_cleanly
from pipeline.core.files import write_bytes
from pipeline.data.batches import ImageSet
from pipeline.models import GAN
from pipeline.params import PRESETS, Params, Recipe, load

CPU, VARIABLE = torch.device("cpu"), "GAN_COLLECTION"
MARKS = ("<!-- made by `make bench`: begin -->", "<!-- made by `make bench`: end -->")
COMMANDS = {  # of a stage, what it imports
    "`gan --help`": ["-m", "pipeline.cli", "--help"],
    "`python -m pipeline.check`": ["-m", "pipeline.check"],
    "imports of the stage `report`": ["-c", "import pipeline.stages.report"],
    "imports of the stage `train`": ["-c", "import pipeline.stages.train"],
}
FEW, IMAGES = 50, 400  # of the measuring tools: the difference tells what an image costs, without start and distance
PAIRS = {"cnn": ("Generator32", "Discriminator32"), "resnet": ("ResGenerator32", "ResDiscriminator32")}


@dataclass(frozen=True)
class Table:
    """A part of the page: rows of cells, the first of them being the head, and sentences above and below."""

    title: str
    rows: Sequence[Sequence[str]]
    above: str = ""
    below: str = ""

    def text(self) -> str:
        lines = ["| " + " | ".join(row) + " |" for row in self.rows]
        lines[1:1] = ["|" + "---|" * len(self.rows[0])] if lines else []
        parts = [f"### {self.title}", self.above, "\n".join(lines), self.below]
        return "\n\n".join(part for part in parts if part)


def ratio_text(base: Sequence[float], others: Sequence[float]) -> str:
    """How many times longer `base` takes than `others`, round by round: 1.50x (1.42 to 1.58)."""
    ratios = [one / other for one, other in zip(base, others, strict=True)]
    return f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"


def seconds_text(values: Sequence[float]) -> str:
    middle = statistics.median(values)
    return f"{middle:.1f} s" if middle >= 10 else f"{middle:.2f} s" if middle >= 1 else f"{1000 * middle:.0f} ms"


# Training.


def training(steps: int = 10, rounds: int = 7) -> Table:
    """The recipes that the preset digits compares, beside the plain loop over their own networks."""
    params = load(PRESETS / "digits.yaml")
    images = random_images((params.data.channels, params.data.image_size, params.data.image_size), CPU)
    rows = [["recipe", "plain loop", "ours", "ratio", "ours, bf16", "ratio"]]
    for name in params.compare.models:
        recipe = params.models[name]
        found = _turns(partial(plain_loop, recipe, images, Variant()), recipe, images, params, steps, rounds)
        shown = recipe.batch_size * recipe.n_critic
        rows.append([f"{name}, batch {recipe.batch_size}, n_critic {recipe.n_critic}", *_beside(found, shown)])
    above = (
        "Images a second of the digits' networks. The plain loop fetches a batch from a DataLoader, steps D, steps G, "
        "and reads both losses; its networks have torch's own layers. Each loop has a process of its own."
    )
    return Table("Training", rows, above, "Which change gains what: `python -m benchmarks.training_speed`.")


def collection(steps: int = 2, rounds: int = 4) -> Table:
    """SNGAN at CIFAR-10's full width beside a public collection's own networks."""
    title, folder = "Training beside a public collection", os.environ.get(VARIABLE)
    if not folder:
        return Table(title, [], f"Not measured: {VARIABLE} names no checkout of pytorch-gan-collections.")
    params, images = load(PRESETS / "cifar10.yaml"), random_images((3, 32, 32), CPU)
    rows = [["networks", "theirs", "ours", "ratio", "ours, bf16", "ratio"]]
    for network, names in PAIRS.items():
        recipe = params.models["sngan" if network == "cnn" else network]
        recipe = recipe.model_copy(update={"batch_size": 16, "n_critic": 1, "loss": "hinge", "latent_dim": 128})
        pair = partial(_their_pair, Path(folder), names, recipe.latent_dim)
        first = f"SNGAN's {network}, {_millions(pair())}"
        found = _turns(partial(_their_loop, pair, recipe, images), recipe, images, params, steps, rounds)
        rows.append([first, *_beside(found, recipe.batch_size)])
    above = (
        "Images a second at CIFAR-10's full width, batch 16, n_critic 1. Theirs: the networks of "
        "pytorch-gan-collections in the plain loop, which is how its scripts train them."
    )
    return Table(title, rows, above)


def _turns(
    plain: Callable[[], Loop], recipe: Recipe, images: ImageSet, params: Params, steps: int, rounds: int
) -> dict[str, list[float]]:
    """Seconds a step of the plain loop and of ours in both precisions, each in a process of its own."""
    own = partial(ours, recipe, images, params)
    with apart({"plain": plain, "ours": own, "bf16": partial(own, precision="bf16")}, CPU) as loops:
        return measure(loops, steps, rounds, CPU)


def _their_pair(folder: Path, names: tuple[str, str], latent_dim: int) -> GAN:
    theirs = _module(folder)
    return GAN(_Unlabelled(getattr(theirs, names[0])(latent_dim)), _Unlabelled(getattr(theirs, names[1])()))


def _their_loop(pair: Callable[[], GAN], recipe: Recipe, images: ImageSet) -> Loop:
    return plain_loop(recipe, images, Variant(), pair())


class _Unlabelled(nn.Module):
    """A network that is given labels, too, and gives logits (N,) as ours do."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        outputs: Tensor = self.network(inputs)
        return outputs.squeeze(1) if outputs.shape[1:] == (1,) else outputs


def _module(folder: Path) -> ModuleType:
    """The collection's file of SNGAN's networks, imported from where its versions have it.

    Raises:
        PipelineError: the folder has none.
    """
    for place in ("source/models/sngan.py", "gans/models/sngan.py"):
        if (folder / place).is_file():
            found = importlib.util.spec_from_file_location("collection_sngan", folder / place)
            assert found is not None and found.loader is not None
            module = importlib.util.module_from_spec(found)
            found.loader.exec_module(module)
            return module
    remedy = "name a checkout of pytorch-gan-collections"
    raise PipelineError(f"{VARIABLE}: {folder} holds no source/models/sngan.py: {remedy}")


def _millions(gan: GAN) -> str:
    counts = (sum(p.numel() for p in network.parameters()) / 1e6 for network in (gan.generator, gan.discriminator))
    return " + ".join(f"{count:.1f} M" for count in counts)


def _beside(found: dict[str, list[float]], images: int) -> list[str]:
    """The cells of a row: images a second of each loop, and after ours its ratio to the plain one."""
    cells = [f"{images / statistics.median(found['plain']):,.0f}"]
    for name in ("ours", "bf16"):
        cells += [f"{images / statistics.median(found[name]):,.0f}", ratio_text(found["plain"], found[name])]
    return cells


# Measuring.


def measuring(rounds: int = 2) -> Table:
    """Each tool's distance of a folder of PNGs from saved statistics, and its parts, where they can be separated."""
    few, many = evaluation_speed.commands(FEW), evaluation_speed.commands(IMAGES, rounds)
    ours = many["ours"]
    rows = [["tool", f"{IMAGES} PNGs", "/ ours", "each further 1,000", "/ ours", "peak", "distance / ours - 1"]]

    def further(tool: str) -> list[float]:
        return [(run.seconds - few[tool][0].seconds) / (IMAGES - FEW) * 1000 for run in many[tool]]

    for tool, runs in many.items():
        rows.append(
            [
                tool,
                seconds_text([run.seconds for run in runs]),
                ratio_text([run.seconds for run in runs], [run.seconds for run in ours]),
                seconds_text(further(tool)),
                ratio_text(further(tool), further("ours")),
                f"{max(run.peak for run in runs):,.0f} MiB",
                f"{runs[0].distance / ours[0].distance - 1:.0e}",
            ]
        )
    missing = [tool for tool in ("torch-fidelity", "clean-fid") if tool not in many]
    below = f"Not installed, so not measured: {', '.join(missing)}." if missing else ""
    above = (
        "The distance of a folder from saved statistics, each tool a process of its own with the same seeded weights. "
        f"What a further image costs is the difference to {FEW} PNGs, without start-up and the distance itself. "
        "torch-fidelity resizes otherwise, so its distance is another one."
    )
    return Table("Measuring", rows, above, " ".join(filter(None, [below, _parts()])))


def _parts() -> str:
    own, theirs, gap = evaluation_speed.trace_term()
    _, memory = evaluation_speed.memory()
    return (
        f"The trace term at 2,048 dimensions: {own:.1f} s, scipy's sqrtm {theirs:.1f} s ({theirs / own:.1f}x, relative "
        f"difference {gap:.0e}). Statistics of 50,000 x 2,048 features: {memory:.0f} MiB above the idle process."
    )


# Start-up.


def start_up(rounds: int = 5) -> Table:
    """CPU seconds of commands, and of what stages import."""
    rows = [["", "CPU seconds", "smallest to largest"]]
    for command, call in COMMANDS.items():
        seconds = [_cpu_seconds(call) for _ in range(rounds + 1)][1:]  # the first reads the disk
        rows.append([command, f"{statistics.median(seconds):.2f}", f"{min(seconds):.2f} to {max(seconds):.2f}"])
    return Table("Start-up", rows, "CPU seconds until a command has ended, with one thread.")


def _cpu_seconds(call: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *call], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PipelineError(f"{' '.join(call)} failed: {done.stderr.strip()}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# Checkpoints and tracking.


def safety(rounds: int = 2, steps: int = 300) -> Table:
    """Training with checkpoints, and with MLflow too, beside the bare loop on the other core."""
    title = "Checkpoints and tracking"
    try:
        found = safety_cost.measure(rounds, steps, safety_cost.VARIANTS[:3])
    except PipelineError as error:
        return Table(title, [], f"Not measured: {error}.")
    rows = [["beside the bare loop", "seconds", "/ bare loop"]]
    for variant, times in found.items():
        bare, own = zip(*times, strict=True)
        name = "bare loop (the noise)" if variant == "bare" else variant
        rows.append([name, f"{statistics.median(own):.1f}", ratio_text(own, bare)])
    above = (
        f"{steps} steps of {safety_cost.MODEL} on digits, each beside a bare loop on the other core. Tracking imports "
        "MLflow once a run, 2 to 3 s of a core, so its share falls with the steps."
    )
    below = "Longer, and with servers that are dead or slow: `python -m benchmarks.safety_cost`."
    return Table(title, rows, above, below)


# The page.

PARTS: dict[str, Callable[[], Table]] = {
    "training": training,
    "collection": collection,
    "measuring": measuring,
    "start-up": start_up,
    "safety": safety,
}


def machine(load_before: float) -> str:
    """One sentence about where and when."""
    versions = f"torch {torch.__version__}, numpy {np.__version__}, scipy {scipy.__version__}, "
    where = f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} threads"
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    load = f"load {load_before:.2f} before the first table"
    ratios = "A ratio is the median of the rounds' ratios (smallest to largest)."
    return f"{today}: {where}; {versions}Python {platform.python_version()}; {load}. {ratios}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def page(where: str, tables: Sequence[Table]) -> str:
    """What stands between the two marks, with these."""
    return "\n\n".join([MARKS[0], where, *(table.text() for table in tables), MARKS[1]]) + "\n"


def put(text: str, path: Path) -> None:
    """Replace what stands in a file from the first mark to the second by `text`, which has them too.

    Raises:
        PipelineError: the file does not have both.
    """
    before, first, rest = path.read_text(encoding="utf-8").partition(MARKS[0])
    _, second, after = rest.partition(MARKS[1])
    if not first or not second:
        raise PipelineError(f"{path} lacks a mark: it must have {MARKS[0]} and {MARKS[1]}")
    write_bytes(path, (before + text.rstrip("\n") + after).encode())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="some tables, not all")
    parser.add_argument("--into", type=Path, metavar="FILE", help="also put the page there, between its two marks")
    options = parser.parse_args(arguments)
    where, tables = machine(os.getloadavg()[0]), []
    for name in options.only:
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        tables.append(PARTS[name]())
    text = page(where, tables)
    print(text)
    if options.into:
        put(text, options.into)


if __name__ == "__main__":
    exit_cleanly(main)()
