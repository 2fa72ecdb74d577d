"""The queue of a study: no trial is lost or doubled, whatever is killed; with a stand-in for the training."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.pruners import NopPruner
from optuna.trial import TrialState

from pipeline.core.errors import PipelineError
from pipeline.core.files import InUse, exclusive
from pipeline.params import Params
from pipeline.search.study import jobs
from pipeline.search.study.space import distributions, suggest_values
from pipeline.search.study.storage import StudyRef, locked, open_study
from pipeline.search.study.study import choose_finalists, hide_shared_values, make_finals, make_sampler, make_study
from pipeline.search.workers import worker
from pipeline.search.workers.trial import TrialResult
from pipeline.stages import stop_signals
from pipeline.training.trainer import Interrupted
from tests.studies import DESCRIPTION, in_memory, study_params

PARAMS: Params = study_params()
CHOICES = {"choices": [1, 2]}
SAMPLERS = ["tpe", "random", "qmc", "cmaes", "gp", "nsga2"]


def a_context(**changes: Any) -> Any:
    return SimpleNamespace(params=PARAMS.override(changes), description=DESCRIPTION, device="cpu")


def a_study(folder: Path | None, trials: int, kind: str = "journal", **changes: Any) -> StudyRef:
    """A study of dcgan that is kept in a folder, or in memory."""
    url = f"sqlite:///{folder}/s.db" if kind == "sqlite" else f"{folder}/s.journal"
    ref = open_study(url, "s") if folder else in_memory()
    make_study(ref, PARAMS.override(changes), "dcgan", "0" * 64, trials)
    return ref


def value_of(values: dict[str, Any]) -> float:
    """A stand-in for a distance: the same values always give the same."""
    return 10 + abs(values["lr_g"] - 1e-3) * 1e3 + abs(values["lr_d"] - 1e-3) * 1e3 + values["beta1"]


Run = Callable[..., TrialResult]


def pretend(seconds: float, steps: int = 5) -> Run:
    """Training that only takes time, in steps between which it can be stopped."""

    def run(
        context: Any, params: Any, model: str, seed: int, trial: Any, tracker: Any, stop: Any, full: bool
    ) -> TrialResult:
        recipe = params.models[model]
        value = value_of(recipe.model_dump())
        for step in range(1, steps + 1):
            time.sleep(seconds / steps)
            if stop():
                raise Interrupted(step, 0.1)
            if trial is not None:
                if step * 60 not in trial.study.trials[trial.number].intermediate_values:
                    trial.report(value + steps - step, step * 60)
                if trial.should_prune():
                    return TrialResult(None, step * 60, 0.1)
        return TrialResult(value, steps * 60, 0.1)

    return run


def work(ref: StudyRef, run: Run, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    monkeypatch.setattr(worker, "run_trial", run)
    monkeypatch.setattr(worker, "IDLE", 0.01)
    worker.work(ref, a_context(**changes), "dcgan", lambda: False)


def trials_of(ref: StudyRef) -> list[optuna.trial.FrozenTrial]:
    return ref.storage.get_all_trials(ref.study_id)


# The queue.


def test_enqueue_brings_a_study_to_a_number(tmp_path: Path) -> None:
    ref = a_study(tmp_path, 3)
    study = ref.load()
    for count, there in [(3, 3), (5, 5), (2, 5)]:
        jobs.enqueue(study, [{"lr_g": 1e-3}], count)
        assert len(trials_of(ref)) == there
    assert [trial.user_attrs["slot"] for trial in trials_of(ref)] == list(range(5))


def test_a_slot_that_was_filled_twice_is_done_once(tmp_path: Path) -> None:
    ref = a_study(tmp_path, 2)
    ref.load().enqueue_trial({}, user_attrs={"slot": 1})
    ref.load().enqueue_trial({}, user_attrs={"slot": 0})
    ref.load().enqueue_trial({"lr_g": 1e-3})  # somebody's wish, by Optuna itself
    claimed = []
    while (trial_id := jobs.claim(ref)) is not None:
        claimed.append(ref.storage.get_trial(trial_id).number)
    assert claimed == [0, 1, 4]
    assert [trial.state.name for trial in trials_of(ref)] == ["RUNNING", "RUNNING", "FAIL", "FAIL", "RUNNING"]
    jobs.enqueue(ref.load(), [], 2)
    assert len(trials_of(ref)) == 5


def test_a_trial_that_is_requeued_is_claimed_first_and_keeps_all_it_has(tmp_path: Path) -> None:
    ref = a_study(tmp_path, 3)
    trial_id = jobs.claim(ref)
    assert trial_id is not None
    trial = optuna.trial.Trial(ref.load(), trial_id)
    lr = trial.suggest_float("lr_g", 1e-4, 1e-2, log=True)
    trial.report(5.0, 60)
    ref.storage.set_trial_user_attr(trial_id, "worker", "me")
    assert not jobs.requeue(ref, trial_id, "another", crashed=True)
    assert jobs.requeue(ref, trial_id, "me", crashed=True)
    assert not jobs.requeue(ref, trial_id, "me", crashed=True)
    assert not jobs.requeue(ref, trial_id, "", crashed=True)  # it waits already
    first = trials_of(ref)[0]
    assert (first.state, first.params, first.intermediate_values) == (TrialState.WAITING, {"lr_g": lr}, {60: 5.0})
    assert (first.user_attrs["worker"], jobs.worker_crashes(first)) == ("", 1)
    assert jobs.claim(ref) == trial_id
    assert len(trials_of(ref)) == 3


def test_a_worker_of_this_machine_is_dead_when_its_lock_is_free(tmp_path: Path) -> None:
    me, other = jobs.Worker(), jobs.Worker()
    trial = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs={"worker": other.name})
    with other.alive():
        assert not me.is_dead(trial)
    (tmp_path / ".work/search/workers" / other.name).mkdir(parents=True)
    (tmp_path / ".work/search/workers" / other.name / "lock").touch()  # as a killed one leaves it
    assert me.is_dead(trial)


def test_a_worker_of_another_machine_is_dead_when_it_has_been_silent_for_a_minute() -> None:
    now = 1000.0
    me = jobs.Worker(clock=lambda: now)

    def dead(**changed: Any) -> bool:
        attrs = {"worker": "elsewhere", **changed}
        return me.is_dead(optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs=attrs))

    assert not dead()  # how long it has been silent is counted by the own clock, from the first look on
    now += 59
    assert not dead()
    now += 0.5
    assert not dead(heartbeat=5e9)  # its clock may be years ahead
    now += 60
    assert not dead(heartbeat=5e9)
    now += 0.1
    assert dead(heartbeat=5e9)
    assert not dead(heartbeat=4e9)  # or be put back
    now += 61
    assert dead(heartbeat=4e9)
    assert not dead(heartbeat=4e9, worker="its heir")


def test_signs_of_life_are_given_while_a_trial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "HEARTBEAT_EVERY", 0.02)
    ref = a_study(tmp_path, 1)
    trial_id = jobs.claim(ref)
    assert trial_id is not None
    me = jobs.Worker()
    with me.heartbeat(ref, trial_id):
        beats = set()
        deadline = time.monotonic() + 120
        while len(beats) < 4 and time.monotonic() < deadline:
            beats.add(ref.storage.get_trial(trial_id).user_attrs.get("heartbeat"))
            time.sleep(0.01)
        assert len(beats) >= 4
        ref.storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])  # by another: no beat may fail
        time.sleep(0.1)
    assert ref.storage.get_trial(trial_id).user_attrs["worker"] == me.name


# Workers.


def test_a_worker_empties_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = a_study(tmp_path, 12)
    work(ref, pretend(0), monkeypatch)
    trials = trials_of(ref)
    assert len(trials) == 12
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    recipe = PARAMS.models["dcgan"]
    assert trials[0].params == {name: getattr(recipe, name) for name in trials[0].params}
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            assert trial.value == value_of(trial.params)
        assert trial.user_attrs["steps"] == max(trial.intermediate_values)
        assert trial.user_attrs["device"] == "cpu"
    assert list((tmp_path / ".work/search/workers").iterdir()) == []


def test_a_stopped_worker_gives_its_trial_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = a_study(tmp_path, 3)

    def stopped(*_: Any, **__: Any) -> TrialResult:
        raise Interrupted(7, 0.1)

    with pytest.raises(Interrupted):
        work(ref, stopped, monkeypatch)
    trials = trials_of(ref)
    assert [trial.state.name for trial in trials] == ["WAITING"] * 3
    assert trials[0].params and jobs.worker_crashes(trials[0]) == 0
    work(ref, pretend(0), monkeypatch)
    assert len(trials_of(ref)) == 3 and all(trial.state.is_finished() for trial in trials_of(ref))


def test_a_trial_that_diverges_is_counted_and_the_study_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref, sound = a_study(tmp_path, 6), pretend(0)

    def run(context: Any, params: Any, *rest: Any, **named: Any) -> TrialResult:
        if rest[2].number in (2, 4):
            return TrialResult(None, 33, 0.0, "diverged", "the loss of D is nan at step 33: lower lr_g")
        return sound(context, params, *rest, **named)

    work(ref, run, monkeypatch)
    trials = trials_of(ref)
    assert [trial.number for trial in trials if "fault" in trial.user_attrs] == [2, 4]
    for trial in (trials[2], trials[4]):
        assert (trial.state, trial.value, trial.user_attrs["steps"]) == (TrialState.PRUNED, None, 33)
    assert not {2, 4} & {trial.number for trial in choose_finalists(ref.load(), 6)}


def test_a_study_whose_every_trial_diverges_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = a_study(tmp_path, 3)
    work(
        ref,
        lambda *_, **__: TrialResult(None, 1, 0.0, "diverged", "the loss of D is nan at step 1: lower lr_g"),
        monkeypatch,
    )
    with pytest.raises(PipelineError) as caught:
        make_finals(ref, PARAMS)
    assert str(caught.value) == (
        "study s: none of its 3 trials was completed (3 failed, the first with: the loss of D is nan at step 1: lower "
        "lr_g): narrow search.space, and start another with --study NAME"
    )


def test_a_trial_with_which_worker_after_worker_dies_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = a_study(tmp_path, 2)
    trial_id = ref.trial_id(1)
    ref.storage.set_trial_user_attr(trial_id, "worker_crashes", worker.MOST_CRASHES)
    work(ref, pretend(0), monkeypatch)
    first, second = trials_of(ref)
    assert first.state == TrialState.COMPLETE
    assert (second.state, second.value) == (TrialState.PRUNED, None)
    assert second.user_attrs["failure"] == "crashed"
    assert second.user_attrs["fault"].startswith("10 workers died while they trained it")


def test_a_trial_that_another_worker_ended_meanwhile_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = a_study(tmp_path, 2)

    def slow(context: Any, params: Any, model: str, seed: int, trial: Any, *_: Any, **__: Any) -> TrialResult:
        if trial.number == 0:
            ref.storage.set_trial_state_values(ref.trial_id(trial.number), TrialState.COMPLETE, [3.0])
            trial.report(9.0, 60)
        return TrialResult(4.0, 300, 0.1)

    work(ref, slow, monkeypatch)
    assert [(trial.state.name, trial.value) for trial in trials_of(ref)] == [("COMPLETE", 3.0), ("COMPLETE", 4.0)]


def test_trials_with_the_same_values_are_not_trained_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = a_study(tmp_path, 1)
    folders = []

    def run(context: Any, params: Any, model: str, seed: int, *_: Any, **__: Any) -> TrialResult:
        folder = worker.Experiment(params, model, seed, DESCRIPTION).work_folder()
        folders.append(folder)
        with pytest.raises(InUse), exclusive(folder, "x"):
            pass
        return TrialResult(1.0, 300, 0.1)

    work(ref, run, monkeypatch)
    with exclusive(folders[0], "x"):
        make_study(ref, PARAMS, "dcgan", "0" * 64, 2)
        ref.storage.set_trial_system_attr(ref.trial_id(1), "fixed_params", trials_of(ref)[0].params)
        looks = iter([False, False, False, True, True])
        monkeypatch.setattr(worker, "IDLE", 0.01)
        with pytest.raises(Interrupted):
            worker.work(ref, a_context(), "dcgan", lambda: next(looks))
        assert trials_of(ref)[1].state == TrialState.WAITING
    work(ref, run, monkeypatch)
    assert folders[0] == folders[1]
    assert trials_of(ref)[1].value == 1.0


# Kills.

PROCESSES = multiprocessing.get_context("forkserver")  # which import torch once for all
PROCESSES.set_forkserver_preload(["pipeline.search.workers.worker"])


def a_worker(url: str, folder: str, seconds: float, changes: dict[str, Any]) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    os.chdir(folder)
    os.environ.pop("DVC_ROOT", None)
    worker.run_trial, worker.IDLE = pretend(seconds), 0.05  # type: ignore[assignment]
    received = stop_signals()
    try:
        worker.work(open_study(url, "s", 60.0), a_context(**changes), "dcgan", lambda: bool(received))
    except Interrupted:
        os._exit(143)


def storm(ref: StudyRef, folder: Path, seed: int, workers: int, kills: int, changes: dict[str, Any]) -> int:
    """Workers that are killed at random, and started again; how many kills there were."""
    chance, done = random.Random(seed), 0
    running = [PROCESSES.Process(target=a_worker, args=(ref.url, str(folder), 0.15, changes)) for _ in range(workers)]
    for process in running:
        process.start()
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        open_ones = ref.storage.get_all_trials(
            ref.study_id, deepcopy=False, states=(TrialState.WAITING, TrialState.RUNNING)
        )
        if not open_ones and not any(process.is_alive() for process in running):
            return done
        time.sleep(chance.uniform(0, 0.4))
        index = chance.randrange(workers)
        if done < kills and running[index].is_alive():
            os.kill(running[index].pid or 0, chance.choice([signal.SIGKILL, signal.SIGTERM]))
            running[index].join(20)
            done += 1
        for place_, process in enumerate(running):
            if not process.is_alive() and open_ones:
                running[place_] = PROCESSES.Process(target=a_worker, args=(ref.url, str(folder), 0.15, changes))
                running[place_].start()
    for process in running:
        process.kill()
    pytest.fail("the study does not end")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_no_kill_loses_or_doubles_a_trial(kind: str, tmp_path: Path) -> None:
    ref = a_study(tmp_path, 24, kind)
    assert storm(ref, tmp_path, seed=1, workers=4, kills=20, changes={}) >= 10
    trials = trials_of(ref)
    assert [trial.number for trial in trials] == list(range(24))
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            assert trial.value == value_of(trial.params)
    sampled = [tuple(sorted(trial.params.items())) for trial in trials]
    assert len(set(sampled)) == 24


@pytest.mark.slow
def test_workers_share_a_space_of_so_few_values_that_they_meet(tmp_path: Path) -> None:
    changes = {"search.space": {"n_critic": CHOICES}, "search.sampler": "random", "search.pruner": "none"}
    ref = a_study(tmp_path, 8, **changes)
    assert storm(ref, tmp_path, seed=2, workers=3, kills=3, changes=changes) == 3
    assert [trial.state.name for trial in trials_of(ref)] == ["COMPLETE"] * 8
    assert len({trial.value for trial in trials_of(ref)}) == 1


# The same seed, the same study.


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.slow
def test_a_study_is_the_same_twice_and_when_it_is_killed_halfway(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"search.sampler": sampler}
    trials = 13
    found = []
    for stops in ((), (), (3, 12)):
        ref = a_study(None, trials, **changes)
        for stop in stops:
            work_until(ref, stop, monkeypatch, changes)
        work(ref, pretend(0), monkeypatch, **changes)
        found.append([(trial.params, trial.state, trial.values) for trial in trials_of(ref)])
    assert found[0] == found[1]
    assert found[0] == found[2]
    assert len({str(params) for params, _, _ in found[0]}) == trials
    another = a_study(None, 3, **changes, **{"search.seed": 99})
    work(another, pretend(0), monkeypatch, **changes, **{"search.seed": 99})
    assert [trial.params for trial in trials_of(another)][1:] != [params for params, _, _ in found[0]][1:3]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_kill_while_the_values_are_drawn_changes_none(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ref, changes = in_memory(), {"search.sampler": sampler, "search.pruner": "none"}
    make_study(ref, PARAMS.override(changes), "dcgan", "0" * 64, 12)
    work(ref, pretend(0), monkeypatch, **changes)
    search, space = PARAMS.override(changes).search, distributions(PARAMS, "dcgan")
    drawn = []
    for stored in range(len(space)):  # so many values were stored when the worker was killed
        copy = in_memory()
        optuna.create_study(study_name=copy.name, storage=copy.storage).add_trials(trials_of(ref))
        number = copy.load().ask().number
        for fields in (list(space)[:stored], list(space)):
            hide_shared_values(copy, copy.trial_id(number))
            study = copy.load(make_sampler(search, number), NopPruner())
            trial = optuna.trial.Trial(study, copy.trial_id(number))
            values = suggest_values(trial, {name: space[name] for name in fields})
        drawn.append(values)
    assert drawn[0].keys() == space.keys() and all(values == drawn[0] for values in drawn)


def work_until(ref: StudyRef, number: int, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    """Work, and die as kill -9 has it in the middle of the trial `number`: nobody gives it back."""

    class Killed(BaseException):
        pass

    sound = pretend(0)

    def run(context: Any, params: Any, model: str, seed: int, trial: Any, *rest: Any, **named: Any) -> TrialResult:
        if trial.number < number:
            return sound(context, params, model, seed, trial, *rest, **named)
        if number % 2:
            trial.report(value_of(trial.params) + 4, 60)
        raise Killed

    with pytest.raises(Killed):
        work(ref, run, monkeypatch, **changes)
    (left,) = (trial for trial in trials_of(ref) if trial.state == TrialState.RUNNING)
    assert left.number == number
    lock = Path(".work/search/workers") / left.user_attrs["worker"] / "lock"
    assert lock.exists()


def test_the_lock_of_the_queue_is_held_while_a_trial_is_requeued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = a_study(tmp_path, 1)
    trial_id = jobs.claim(ref)
    assert trial_id is not None
    held: list[str] = []
    monkeypatch.setattr(jobs, "locked", lambda url: (held.append(url), locked(url))[1])
    assert jobs.requeue(ref, trial_id, "", crashed=True)
    assert held == [ref.url]
