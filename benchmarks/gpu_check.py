"""What a CUDA machine does with this pipeline: one command, at most ten minutes, one Markdown table.

    python -m benchmarks.gpu_check          or: make gpu-check

It needs torch, numpy and what pipeline/gan imports (safetensors, pydantic, ruamel.yaml, tqdm); no network, no MLflow,
no data set. On CUDA the recipes are those of presets/cifar10.yaml at their full size. Elsewhere they are small, and
what only CUDA shows is listed as not checked. It exits with 1 if a check failed.
"""

import argparse
import contextlib
import dataclasses
import functools
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_estimates import KEPT, cost_of
from benchmarks.training_speed import Variant, measure, ours, plain_loop
from pipeline.core.devices import choose_device, make_deterministic
from pipeline.core.errors import PipelineError, log_line
from pipeline.data.batches import ImageSet, batch
from pipeline.data.host_images import HostImages
from pipeline.gan.checkpoint import RunHistory, load_checkpoint, save_checkpoint
from pipeline.gan.flow import loss_of
from pipeline.gan.graphs import Graphs, not_captured
from pipeline.gan.state import TrainState, create_state, mean_losses
from pipeline.gan.step import train, train_step
from pipeline.params import Params, Recipe, TrainParams, load

PRESET = Path(__file__).resolve().parent.parent / "presets" / "cifar10.yaml"
SECONDS = 540  # after which no further check is begun, unless said
SHAPE, CLASSES, IMAGES = (3, 32, 32), 10, 512  # few images, so that epochs turn within a check
SMALL = {"width_g": 16, "width_d": 16}  # of a recipe, where there is no CUDA; its batches are of 16
SPEED = ("dcgan", "sngan", "resnet")  # timed beside a plain loop
EXACT = ("dcgan", "resnet", "wgan_gp")  # batch norm; spectral norm; a penalty
FEATURE_BATCH = 128
PASSED, FAILED, NOT_CHECKED = "passed", "FAILED", "not checked"


class Failed(Exception):
    """A check found what should not be; the text says what."""


class NotChecked(Exception):
    """A check cannot be done here; the text says why."""


@dataclass(frozen=True)
class Machine:
    """Where the checks run, and with which params."""

    device: torch.device
    params: Params

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def recipe(self, name: str) -> Recipe:
        recipe = self.params.models[name]
        small = {**SMALL, "batch_size": math.lcm(16, recipe.group), "n_critic": min(recipe.n_critic, 2)}
        return recipe if self.cuda else recipe.model_copy(update=small)

    def budget(self, steps: int, **changes: object) -> TrainParams:
        return self.params.train.model_copy(update={"steps": steps, "report_every": steps, **changes})

    @functools.cached_property
    def pixels(self) -> Tensor:
        """Seeded noise, uint8 (N, 3, 32, 32), on the CPU."""
        return torch.randint(256, (IMAGES, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def images(self, device: torch.device | None = None) -> ImageSet:
        device = device or self.device
        return ImageSet(self.pixels.to(device), (torch.arange(IMAGES) % CLASSES).to(device), CLASSES)

    def start(self, recipe: Recipe, budget: TrainParams) -> TrainState:
        return create_state(recipe, budget, SHAPE, CLASSES, 0, self.device)

    def trained(self, name: str, budget: TrainParams, images: ImageSet | None = None, until: int | None = None,
                state: TrainState | None = None) -> TrainState:  # fmt: skip
        """A state trained to the end of the budget, or for `until` steps."""
        recipe = self.recipe(name)
        state = state or self.start(recipe, budget)
        for report in train(state, images or self.images(), loss_of(recipe), recipe, budget):
            if report.step == until:
                break
        return state

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)


def about(machine: Machine) -> str:
    """The machine, in words."""
    if not machine.cuda:
        raise NotChecked(f"no CUDA here: {torch.get_num_threads()} CPU threads, torch {torch.__version__}")
    found = torch.cuda.get_device_properties(machine.device)
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return f"{found.name}, {found.total_memory / 2**30:.0f} GiB, {torch.cuda.device_count()} visible; {versions}"


def one_step(machine: Machine, name: str) -> str:
    """Steps of a recipe: finite, without a host sync, and in the memory that the estimate names."""
    recipe, budget = machine.recipe(name), machine.budget(6)
    if not machine.cuda:
        meta, loss = torch.device("meta"), loss_of(recipe)
        state = create_state(recipe, budget, SHAPE, CLASSES, 0, meta)
        train_step(state, machine.images(meta), loss, recipe, budget)  # waiting for a number fails there
        machine.trained(name, machine.budget(2))
        return "finite; one step on the meta device waits for no number; CUDA's syncs and memory: not checked"
    for parts in (1, 2, 4, 8, 16):
        with contextlib.suppress(torch.OutOfMemoryError):
            told = "" if parts == 1 else f"accumulate {parts}, since {parts // 2} needs more memory than there is: "
            return told + timed_steps(machine, recipe, machine.budget(6, accumulate=parts))
    raise Failed("out of memory, even with accumulate 16")


def timed_steps(machine: Machine, recipe: Recipe, budget: TrainParams) -> str:
    """Steps on CUDA: what `one_step` says of them."""
    torch.cuda.empty_cache()
    images = machine.images()
    before = torch.cuda.memory_allocated(machine.device)
    state = machine.start(recipe, budget)
    torch.cuda.reset_peak_memory_stats(machine.device)
    seconds = []
    for _ in range(budget.steps):
        with no_sync(state.step >= 2):  # the first steps load kernels and make the optimiser's state
            started = time.perf_counter()
            state.losses[state.step] = train_step(state, images, loss_of(recipe), recipe, budget)
            state.step += 1
        machine.wait()
        seconds.append(time.perf_counter() - started)
    mean_losses(state)
    peak = (torch.cuda.max_memory_allocated(machine.device) - before) / 2**20
    cost = cost_of(recipe, machine.params)
    low, high = ((cost.state + times * cost.activations / budget.accumulate) / 2**20 for times in KEPT)
    verdict = "within" if low <= peak <= high else "above" if peak > high else "below"
    ms = 1000 * statistics.median(seconds[2:])
    return f"{ms:.1f} ms, no host sync; peak {peak:,.0f} MiB, {verdict} the estimate, {low:,.0f} to {high:,.0f}"


class no_sync:
    """While the body runs, whatever makes the host wait for CUDA is an error, if `on`."""

    def __init__(self, on: bool) -> None:
        self.on = on and torch.cuda.is_available()

    def __enter__(self) -> None:
        if self.on:
            torch.cuda.set_sync_debug_mode("error")

    def __exit__(self, *_: object) -> None:
        if self.on:
            torch.cuda.set_sync_debug_mode("default")


def exact_resume(machine: Machine, name: str, precision: str) -> str:
    """Trained twice, and trained with a checkpoint in between: the same bits."""
    budget = machine.budget(6, precision=precision)
    whole, again = (machine.trained(name, budget).tensors() for _ in range(2))
    if differing := different(whole, again):
        raise Failed(f"two trainings differ in {differing} tensors, so a resumed one cannot be the same")
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder), machine.trained(name, budget, until=3), RunHistory())
        state = machine.start(machine.recipe(name), budget)
        load_checkpoint(Path(folder), state)
    if state.step != 3:
        raise Failed("the checkpoint was not read")
    resumed = machine.trained(name, budget, state=state).tensors()
    if differing := different(whole, resumed):
        raise Failed(f"{differing} of {len(whole)} tensors differ after a resume")
    return f"6 steps, a checkpoint after 3: all {len(whole)} tensors have the same bits; and a second run too"


def different(first: dict[str, Tensor], second: dict[str, Tensor]) -> int:
    """How many tensors of two states differ."""
    return sum(not torch.equal(first[name], second[name]) for name in first)


def graphs(machine: Machine, name: str, precision: str) -> str:
    """Replayed steps beside the same by themselves: the same bits, and the speed."""
    if not machine.cuda:
        raise NotChecked("CUDA graphs need CUDA")
    recipe, images = machine.recipe(name), machine.images()
    budget = machine.budget(8, precision=precision)
    if reason := not_captured(recipe):
        raise NotChecked(reason)
    found, reserved = [], []
    for one in (None, Graphs()):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(machine.device)
        state = machine.start(recipe, budget)
        state.graphs = one
        found.append(machine.trained(name, budget, state=state).tensors())
        reserved.append(f"{torch.cuda.max_memory_reserved(machine.device) / 2**20:,.0f} MiB")
    if differing := different(*found):
        raise Failed(f"{differing} of {len(found[0])} tensors differ from those of steps that are not replayed")
    params = machine.params.model_copy(update={"train": machine.budget(9, precision=precision)})
    loops = {"graphs": ours(recipe, images, params, graphs=True), "without": ours(recipe, images, params)}
    seconds = timed(machine, loops)
    ms = {key: f"{1000 * value:.1f} ms" for key, value in seconds.items()}
    ratio = seconds["without"] / seconds["graphs"]
    told = f"the same bits; {ms['graphs']} a step, {ms['without']} without: {ratio:.2f} times as fast"
    return f"{told}; takes {reserved[1]}, without {reserved[0]}"


def bf16(machine: Machine, name: str) -> str:
    """A step in bf16 beside the same in fp32."""
    losses = {one: mean_losses(machine.trained(name, machine.budget(1, precision=one))) for one in ("fp32", "bf16")}
    gap = max(abs(losses["fp32"][key] - losses["bf16"][key]) for key in losses["fp32"] if key.startswith("loss/"))
    if not gap < 0.1 * max(1.0, *map(abs, losses["fp32"].values())):
        raise Failed(f"losses of a step differ by {gap:.3g}: {losses}")
    return f"losses of a step differ by at most {gap:.1e}; {speed_ratio(machine, name, 'precision', 'bf16', 'fp32')}"


def channels_last(machine: Machine, name: str) -> str:
    """The memory format: the same losses, and its speed."""
    losses = {on: mean_losses(machine.trained(name, machine.budget(1, channels_last=on))) for on in (True, False)}
    gap = max(abs(losses[True][key] - losses[False][key]) for key in losses[True])
    if not gap < 0.01 * max(1.0, *map(abs, losses[True].values())):
        raise Failed(f"losses of one step differ by {gap:.3g}")
    return f"losses of a step differ by {gap:.1e}; {speed_ratio(machine, name, 'channels_last', True, False)}"


def speed_ratio(machine: Machine, name: str, field: str, new: object, old: object) -> str:
    """Images a second with a value of a field of train:, and with another one."""
    recipe, images = machine.recipe(name), machine.images()
    params = {value: machine.params.model_copy(update={"train": machine.budget(9, **{field: value})})
              for value in (new, old)}  # fmt: skip
    loops = {str(value): ours(recipe, images, params[value], graphs=machine.cuda) for value in (new, old)}
    found = {key: recipe.batch_size * recipe.n_critic / value for key, value in timed(machine, loops).items()}
    return f"{field} {new}: {found[str(new)]:,.0f} images/s, {old}: {found[str(old)]:,.0f}"


def timed(machine: Machine, loops: dict[str, Callable[[int], None]]) -> dict[str, float]:
    """Seconds a step of each loop."""
    steps, rounds = (10, 3) if machine.cuda else (1, 3)
    return {name: statistics.median(found) for name, found in measure(loops, steps, rounds, machine.device).items()}


def beside_a_plain_loop(machine: Machine, name: str) -> str:
    """Images a second beside a DataLoader loop with `.item()`."""
    recipe, images = machine.recipe(name), machine.images()
    own = ours(recipe, images, machine.params, graphs=machine.cuda)
    loops = {"plain": plain_loop(recipe, images, Variant()), "ours": own}
    seconds = timed(machine, loops)
    plain, fast = (recipe.batch_size * recipe.n_critic / seconds[key] for key in ("plain", "ours"))
    return f"{fast:,.0f} images/s, plain DataLoader loop {plain:,.0f}: {fast / plain:.2f} times as fast"


def host_resident(machine: Machine, name: str) -> str:
    """Images that stay in their file: the same bits as resident ones, no host sync, and the speed."""
    recipe, budget, resident = machine.recipe(name), machine.budget(6), machine.images()
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "train.npy", machine.pixels.numpy())
        stored = HostImages(Path(folder) / "train.npy", (IMAGES, *SHAPE), machine.device)
        host = dataclasses.replace(resident, images=stored)
        if differing := different(*(machine.trained(name, budget, one).tensors() for one in (resident, host))):
            raise Failed(f"{differing} tensors differ from those of resident images")
        for index in range(4):
            with no_sync(index > 0):
                batch(host, index, recipe.batch_size, 0, recipe.flip, recipe.dequantise)
        params = machine.params
        seconds = timed(machine, {"device": ours(recipe, resident, params), "host": ours(recipe, host, params)})
    ratio = seconds["device"] / seconds["host"]
    return f"the same bits as resident images; {ratio:.2f} times their speed"


def features(machine: Machine) -> str:
    """Images a second through Inception, with random weights, at 299 pixels in fp32."""
    try:
        from pipeline.metrics.extractors.base import frozen
        from pipeline.metrics.extractors.inception import SIZE, inception_2015
        from pipeline.metrics.precision import full_precision
    except ModuleNotFoundError as error:
        raise NotChecked(f"{error.name} is not installed") from None
    try:
        network = inception_2015()
    except ModuleNotFoundError as error:
        raise NotChecked(f"{error.name} is not installed") from None
    network = frozen(network, machine.device, SIZE, False)
    count = FEATURE_BATCH if machine.cuda else 4
    images = torch.rand(count, 3, SIZE, SIZE, device=machine.device).contiguous(memory_format=torch.channels_last)

    def run(times: int) -> None:
        with torch.inference_mode(), full_precision():
            for _ in range(times):
                network(images)

    steps, rounds = (10, 3) if machine.cuda else (1, 1)
    seconds = statistics.median(measure({"": run}, steps, rounds, machine.device)[""])
    return f"{count / seconds:,.0f} images/s of 299 pixels, fp32"


def two_ranks(machine: Machine) -> str:
    """One training on two GPUs, or in two processes where there is no GPU, beside the same on one."""
    if machine.cuda and torch.cuda.device_count() < 2:
        raise NotChecked("one GPU here, 2 are needed")
    command = ["-m", "benchmarks.ranks", "--device", machine.device.type, "--steps", "4", "dcgan", "wgan_gp"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    if done.returncode:
        raise Failed((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
    found = [line.split(" | ") for line in done.stdout.splitlines()[2:]]
    if any(float(row[1]) > 1e-10 or row[5] != "yes" for row in found):
        raise Failed(f"not the same training: {done.stdout.strip()}")
    worst = max(float(row[1]) for row in found)
    return f"the same training in float64 to {worst:.0e}, the same bits again; " + ", ".join(
        f"{row[0]} {row[6]} ms a step alone, {row[7]} by two" for row in found
    )


def checks(machine: Machine) -> Iterator[tuple[str, Callable[[], str]]]:
    """Each check with its name, the most telling first."""
    yield "machine", lambda: about(machine)
    for name in machine.params.models:
        yield f"step: {name}", functools.partial(one_step, machine, name)
    for name in EXACT:
        yield f"exact resume: {name}", functools.partial(exact_resume, machine, name, "fp32")
    yield "exact resume, bf16: resnet", functools.partial(exact_resume, machine, "resnet", "bf16")
    for name in (*SPEED, "sagan", "wgan_gp", "biggan", "stylegan2_ada", "flow"):
        yield f"CUDA graphs: {name}", functools.partial(graphs, machine, name, "fp32")
    yield "CUDA graphs, bf16: resnet", functools.partial(graphs, machine, "resnet", "bf16")
    yield "host-resident images: dcgan", functools.partial(host_resident, machine, "dcgan")
    for name in SPEED:
        yield f"training speed: {name}", functools.partial(beside_a_plain_loop, machine, name)
    yield "bf16: resnet", functools.partial(bf16, machine, "resnet")
    yield "channels_last: resnet", functools.partial(channels_last, machine, "resnet")
    yield "features: inception", lambda: features(machine)
    yield "two ranks", lambda: two_ranks(machine)


def outcome(check: Callable[[], str], late: bool) -> tuple[str, str]:
    """How a check ended, and what it says."""
    if late:
        return NOT_CHECKED, "the time was over"
    try:
        return PASSED, check()
    except NotChecked as reason:
        return NOT_CHECKED, str(reason)
    except (Failed, PipelineError, RuntimeError, MemoryError) as error:
        return FAILED, (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="after which no further check is begun")
    options = parser.parse_args(arguments)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    make_deterministic()
    machine = Machine(choose_device(options.device), load(PRESET))
    started, rows = time.monotonic(), []
    for name, check in checks(machine):
        begun = time.monotonic()
        state, text = outcome(check, begun - started > options.seconds)
        rows.append((name, state, text.replace("|", "/")))
        log_line(f"{name}: {state}, {time.monotonic() - begun:.1f} s")
    print("| check | result | what was seen |\n|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    failed = sum(state == FAILED for _, state, _ in rows)
    print(f"\n{failed} failed, {time.monotonic() - started:.0f} seconds")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
