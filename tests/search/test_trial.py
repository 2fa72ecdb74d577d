"""What a trial cost: the same where it was stopped in between, and known where it diverged; by a clock of steps."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState

from pipeline.experiment import Experiment
from pipeline.gan.step import Diverged
from pipeline.params import Params
from pipeline.search.study.study import make_study
from pipeline.search.study.trial_stats import curve_of
from pipeline.search.workers import worker
from pipeline.search.workers.trial import TrialContext, TrialResult, run_trial, trial_params
from pipeline.tracking.tracker import Tracker
from pipeline.training import trainer
from pipeline.training.monitor import TrainingMonitor
from pipeline.training.trainer import Interrupted
from tests.recipes import image_set, tiny_params
from tests.studies import DESCRIPTION, in_memory

BUDGET = {"search.steps": 8, "search.score_every": 4, "runtime.checkpoint_every": 2, "train.report_every": 2}
PARAMS = tiny_params(BUDGET, gan={"network": "mlp"})
STEP, SCORE, DRAW = 1.0, 100.0, 10.0  # seconds that each takes


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
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


def a_context(params: Params = PARAMS) -> TrialContext:
    return TrialContext(params, DESCRIPTION, image_set(8), SimpleNamespace(metric="fd"), None)  # type: ignore[arg-type]


def asked(times: int | None) -> Callable[[], bool]:
    """Says stop at so many times of asking, and from then on; None: never."""
    count = itertools.count(1)
    return lambda: times is not None and next(count) >= times


def do(stop_at: int | None = None, **values: Any) -> TrialResult:
    """A trial of 8 steps in one process, stopped after so many of its own; stop_at=None: to the end."""
    params = trial_params(PARAMS, "gan", values)

    def tracker(_: Experiment) -> Tracker:
        return Tracker(Path("nowhere"), "", "", enabled=False)

    return run_trial(a_context(), params, "gan", 100, None, tracker, asked(stop_at), full=False)


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
def test_the_objectives_of_a_trial_that_was_stopped(against: str, cost: float) -> None:
    space = {"n_critic": {"low": 1, "high": 3}}
    params = PARAMS.override({"search.against": against, "search.pruner": "none", "search.space": space})
    ref = in_memory()
    make_study(ref, params, "gan", "0" * 64, 1)
    with pytest.raises(Interrupted):
        worker.work(ref, a_context(params), "gan", asked(5))  # once before the trial
    (waiting,) = ref.storage.get_all_trials(ref.study_id)
    assert waiting.state.name == "WAITING" and waiting.params == {"n_critic": 1}
    worker.work(ref, a_context(params), "gan", asked(None))
    (trial,) = ref.storage.get_all_trials(ref.study_id)
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
    result = do()
    assert (result.value, result.failure, result.steps, result.curve) == (None, "diverged", 6, {4: 996.0})
    assert result.seconds == 6.0, "without drawing and measuring, and with what earlier workers trained"
    assert "nan" in result.fault


def test_a_trial_without_memory_is_counted_and_the_study_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(monitor: TrainingMonitor, state: Any) -> float:
        if state.step < 8:
            return 1000.0 - state.step
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")

    monkeypatch.setattr(TrainingMonitor, "score", full)
    result = do()
    assert (result.value, result.failure, result.steps, result.curve) == (None, "out of memory", 4, {4: 996.0})
    assert result.fault.startswith("out of memory (tried to allocate 2.00 GiB): leave larger batch_size")


def test_values_that_do_not_go_together_are_invalid_and_the_study_goes_on() -> None:
    result = do(clip=0.1, norm_d="spectral")
    assert (result.value, result.failure, result.steps, result.seconds) == (None, "invalid", 0, 0.0)
    assert result.fault.startswith("params.yaml: models.gan.clip: must be null with norm_d: spectral")


# Kills at the moment at which a trial is pruned.


class Killed(BaseException):
    pass


def once(method: Callable[..., Any], when: Callable[..., bool]) -> Callable[..., Any]:
    """`method`, and a kill as by SIGKILL after its first call that `when` names, by its result and arguments."""
    left = [1]

    def call(*arguments: Any, **named: Any) -> Any:
        result = method(*arguments, **named)
        if when(result, *arguments) and left:
            left.clear()
            raise Killed
        return result

    return call


KILLS = {
    "reported, not asked": (optuna.trial.Trial, "report", lambda _, trial, value, step: step == 6 and trial.number > 6),
    "asked, no checkpoint": (optuna.trial.Trial, "should_prune", lambda answer, *_: answer),
    "checkpoint, not recorded": (Tracker, "close", lambda _, tracker, status="FINISHED": status == "KILLED"),
}


@pytest.mark.slow
@pytest.mark.parametrize("pruner", ["hyperband", "median"])
def test_a_trial_that_is_killed_when_it_is_pruned_ends_as_it_would_have(
    pruner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = PARAMS.override({"search.pruner": pruner, "search.score_every": 2, "runtime.checkpoint_every": 3})

    def score(monitor: TrainingMonitor, state: Any) -> float:  # from step 6 on the trials differ, and some are pruned
        return 1e5 * monitor.experiment.recipe.lr_g if state.step >= 6 else 1000.0 - state.step

    monkeypatch.setattr(TrainingMonitor, "score", score)
    found = []
    for kill in (None, *KILLS):
        ref = in_memory()
        make_study(ref, params, "gan", "0" * 64, 10)
        with monkeypatch.context() as patch:
            if kill:
                place, name, when = KILLS[kill]
                patch.setattr(place, name, once(getattr(place, name), when))
                with pytest.raises(Killed):
                    worker.work(ref, a_context(params), "gan", asked(None))
                (left,) = ref.trials(TrialState.RUNNING)
            worker.work(ref, a_context(params), "gan", asked(None))
        shutil.rmtree(".work")
        trials = ref.trials()
        assert kill is None or trials[left.number].user_attrs["worker_crashes"] == 1
        found.append([(t.state, t.params, t.values, t.intermediate_values, t.user_attrs["steps"]) for t in trials])
    states = [state.name for state, *_ in found[0]]
    assert states.count("PRUNED") >= 2 and states.count("COMPLETE") >= 2
    assert {steps for *_, steps in found[0]} == {6, 8}
    assert all(one == found[0] for one in found[1:])
