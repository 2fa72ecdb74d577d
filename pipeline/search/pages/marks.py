"""How one trial is marked in all charts of a study: its colour, its size and its tooltip."""

from optuna.trial import FrozenTrial

from pipeline.search.study.results import Results, short
from pipeline.search.study.trial_stats import curve_of, distance_of, state_of


def last(trial: FrozenTrial) -> float | None:
    """A trial's distance, or of a pruned one the last of its curve; None if it diverged or is not over."""
    points = curve_of(trial)
    return points[max(points)] if state_of(trial) == "pruned" and points else distance_of(trial)


def told(trial: FrozenTrial) -> str:
    """A trial's tooltip."""
    state, value = state_of(trial), last(trial)
    said = trial.user_attrs.get("fault", "") if state == "diverged" else f"{value:.2f}" if value is not None else ""
    values = ", ".join(f"{name}={short(value)}" for name, value in trial.params.items())
    return f"trial {trial.number}, {state}{': ' if said else ''}{said}; {values}"


def style(state: str) -> str:
    return "m0" if state == "complete" else "neutral open"


def emphasis(results: Results, trial: FrozenTrial) -> str:
    if results.best is not None and trial.number == results.best.number:
        return "m1"
    if trial is results.start_trial and state_of(trial) == "complete":
        return "m2"
    return style(state_of(trial))


def radius(trial: FrozenTrial) -> float:
    return 3.5 if state_of(trial) == "complete" else 2.5
