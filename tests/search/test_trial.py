"""What a trial cost: the same where it was stopped in between, and known where it diverged; by a clock of steps."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline.data.batches import ImageSet
from pipeline.experiment import Experiment
from pipeline.gan.step import Diverged
from pipeline.params import Params, load
from pipeline.search.study.study import make_study, place
from pipeline.search.study.trial_stats import curve_of
from pipeline.search.workers import worker
from pipeline.search.workers.trial import Bench, Outcome, run, trial_params
from pipeline.tracking.tracker import Tracker
from pipeline.training import trainer
from pipeline.training.monitor import TrainingMonitor
from pipeline.training.trainer import Interrupted

ROOT = Path(__file__).resolve().parents[2]
TINY = {"runtime.tracking": False, "runtime.device": "cpu", "runtime.checkpoint_every": 2, "search.steps": 8,
        "search.score_every": 4, "models.gan.width_g": 4, "models.gan.width_d": 4, "models.gan.batch_size": 4,
        "models.gan.latent_dim": 2, "train.report_every": 2}  # fmt: skip
PARAMS = load(ROOT / "params.yaml").override(TINY)
DESCRIPTION = {"name": "digits", "image_shape": [1, 16, 16], "classes": [], "class_counts": [8], "sha256": "0" * 64}
STEP, SCORE, DRAW = 1.0, 100.0, 10.0  # seconds that each takes


@pytest.fixture(autouse=True)
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    now = 0.0

    def spend(seconds: float) -> None:
        nonlocal now
        now += seconds

    def train(*arguments: Any) -> Iterator[Any]:
        for report in real(*arguments):
            spend(STEP)
            yield report

    def score(monitor: TrainingMonitor, state: Any) -> float:
        spend(SCORE)
        return 1000.0 - state.step

    real = trainer.train
    monkeypatch.setattr(trainer, "train", train)
    monkeypatch.setattr(TrainingMonitor, "score", score)
    monkeypatch.setattr(TrainingMonitor, "draw", lambda *_: (spend(DRAW) or 1.0, ""))
    monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=lambda: now))


def a_bench(params: Params = PARAMS) -> Bench:
    images = ImageSet(torch.zeros(8, 1, 16, 16, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64), 0)
    return Bench(params, DESCRIPTION, images, SimpleNamespace(metric="fd"), None)  # type: ignore[arg-type]


def asked(times: int | None) -> Callable[[], bool]:
    """Says stop at so many times of asking, and from then on; None: never."""
    count = itertools.count(1)
    return lambda: times is not None and next(count) >= times


def do(stop_at: int | None = None, n_critic: int = 1) -> Outcome:
    """A trial of 8 steps in one process, stopped after so many of its own; stop_at=None: to the end."""
    params = trial_params(PARAMS, "gan", {"n_critic": n_critic})

    def tracker(_: Experiment) -> Tracker:
        return Tracker(Path("nowhere"), "", "", enabled=False)

    return run(a_bench(), params, "gan", 100, None, tracker, asked(stop_at), full=False)


def test_a_trial_that_was_stopped_twice_cost_what_one_did_that_was_not() -> None:
    with pytest.raises(Interrupted) as stopped:
        do(stop_at=3, n_critic=2)
    assert (stopped.value.step, stopped.value.seconds) == (3, 3.0)
    with pytest.raises(Interrupted):
        do(stop_at=2, n_critic=2)
    again, whole = do(n_critic=2), do(n_critic=1)
    assert (again.steps, again.seconds, again.value) == (8, 8.0, 992.0)
    assert (whole.steps, whole.seconds, whole.value) == (8, 8.0, 992.0)
    assert again.curve == whole.curve == {4: 996.0, 8: 992.0}


@pytest.mark.parametrize(("against", "cost"), [("images", 8 * 1 * 4), ("seconds", 8.0)])
def test_the_objectives_of_a_trial_that_was_stopped(against: str, cost: float, tmp_path: Path) -> None:
    space = {"n_critic": {"low": 1, "high": 3, "log": None, "step": None, "choices": None}}
    params = PARAMS.override({"search.against": against, "search.pruner": "none", "search.space": space})
    at = place(f"{tmp_path}/s.journal", "s")
    make_study(at, params, "gan", "0" * 64, 1)
    with pytest.raises(Interrupted):
        worker.work(at, a_bench(params), "gan", asked(5))  # once before the trial
    (waiting,) = at.storage.get_all_trials(at.study_id)
    assert waiting.state.name == "WAITING" and waiting.params == {"n_critic": 1}
    worker.work(at, a_bench(params), "gan", asked(None))
    (trial,) = at.storage.get_all_trials(at.study_id)
    assert trial.values == [992.0, cost]
    assert (trial.user_attrs["steps"], trial.user_attrs["seconds"], trial.user_attrs["device"]) == (8, 8.0, "cpu")
    assert curve_of(trial) == {4: 996.0, 8: 992.0}


def test_a_trial_that_is_over_already_costs_nothing_more() -> None:
    first = do()
    assert do() == first and first.seconds == 8.0


@pytest.mark.parametrize("stopped", [(), (3,), (3, 2)])
def test_a_trial_that_diverges_cost_its_training(stopped: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for own in stopped:
        with pytest.raises(Interrupted):
            do(stop_at=own)
    sound = trainer.require_finite

    def broken(state: Any) -> None:
        if state.step >= 6:
            raise Diverged("the loss of D is nan", state.step)
        sound(state)

    monkeypatch.setattr(trainer, "require_finite", broken)
    outcome = do()
    assert (outcome.value, outcome.steps, outcome.curve) == (None, 6, {4: 996.0})
    assert outcome.seconds == 6.0, "without drawing and measuring, and with what earlier workers trained"
    assert "nan" in outcome.fault


def test_a_trial_without_memory_is_counted_and_the_study_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(monitor: TrainingMonitor, state: Any) -> float:
        if state.step < 8:
            return 1000.0 - state.step
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")

    monkeypatch.setattr(TrainingMonitor, "score", full)
    outcome = do()
    assert (outcome.value, outcome.steps, outcome.curve) == (None, 4, {4: 996.0})
    assert outcome.fault.startswith("out of memory (tried to allocate 2.00 GiB): leave larger batch_size")
