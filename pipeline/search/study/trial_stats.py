"""How trials ended: their state, distance, cost and curve; the Pareto front of a study of two objectives."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState


def state_of(trial: FrozenTrial) -> str:
    """complete, pruned, or why it failed; running or waiting where the study is not over.

    Failures: "diverged", "invalid" (no training is possible with its values), "out of memory", "crashed" (so did each
    of its workers).
    """
    if has_failed(trial):
        return str(trial.user_attrs.get("failure", "diverged"))
    return trial.state.name.lower()


def has_failed(trial: FrozenTrial) -> bool:
    """Whether a trial has no value for a reason other than pruning; its attribute `fault` says which."""
    return "fault" in trial.user_attrs


def distance_of(trial: FrozenTrial) -> float | None:
    """The distance at a trial's end; None unless it is complete: Optuna gives pruned ones their last point."""
    return trial.values[0] if trial.state == TrialState.COMPLETE and trial.values else None


def cost_of(trial: FrozenTrial) -> float | None:
    """What a complete trial of a study of two objectives cost, in `search.against`; None for all others."""
    complete = trial.state == TrialState.COMPLETE and len(trial.values or ()) > 1
    return trial.values[1] if complete else None


def curve_of(trial: FrozenTrial) -> dict[int, float]:
    """The distance by steps. Optuna takes no reports of a trial with two objectives: its curve is an attribute."""
    points = trial.intermediate_values or {int(step): value for step, value in trial.user_attrs.get("curve", ())}
    return dict(sorted(points.items()))


def steps_of(trials: Iterable[FrozenTrial]) -> int:
    """The steps that these trials were trained for."""
    return sum(trial.user_attrs.get("steps", 0) for trial in trials)


def seconds_of(trials: Iterable[FrozenTrial]) -> float:
    """The seconds that these trials were trained for, on all devices together, without measuring."""
    return float(sum(trial.user_attrs.get("seconds", 0.0) for trial in trials))


def wall_seconds_of(trial: FrozenTrial) -> float | None:
    """From the claim to the end, measuring included; of a requeued trial only the last part."""
    return trial.duration.total_seconds() if trial.duration else None


def images_of(recipe: Mapping[str, Any], trial: FrozenTrial) -> int:
    """Real images that D was shown: with another n_critic or batch size the same steps are more or fewer of them."""
    return int(trial.user_attrs.get("steps", 0) * recipe["n_critic"] * recipe["batch_size"])


def pareto_front(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The Pareto front by rising cost: no other trial is as good at both distance and cost, and better at one.

    Trials that share both values share the front. Those without a cost are on none.

    Example: of (distance, cost) = (5, 1), (3, 2), (4, 2), (3, 3) the first two.
    """
    known = [trial for trial in trials if cost_of(trial) is not None]
    found: list[FrozenTrial] = []
    for trial in sorted(known, key=lambda trial: (trial.values[1], trial.values[0], trial.number)):
        if not found or trial.values[0] < found[-1].values[0] or trial.values == found[-1].values:
            found.append(trial)
    return found


def select_evenly(front: Sequence[FrozenTrial], count: int) -> list[FrozenTrial]:
    """At most `count` trials of a front, evenly spaced in its order with both ends; of one, the best distance."""
    if len(front) <= count:
        return list(front)
    if count == 1:
        return [front[-1]]
    return [front[round(index * (len(front) - 1) / (count - 1))] for index in range(count)]
