"""What a study found: its winner by the finals, how much of its best value was luck, and what pruning saved."""

import json
import statistics
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from pipeline.params import Params
from pipeline.report.uncertainty import mean_interval
from pipeline.search.study import Place


@dataclass(frozen=True)
class Finalist:
    """One of the settings that were trained anew: `proxy` was its value in the study, None where it had none."""

    trial: int
    values: dict[str, Any]
    proxy: float | None
    finals: tuple[float, ...]  # of the final seeds that did not diverge, at the full budget
    seeds: tuple[int, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.finals) if self.finals else float("inf")


@dataclass(frozen=True)
class Results:
    """A study that is over, and its finals."""

    study: str
    model: str
    trials: tuple[FrozenTrial, ...]  # without those that another one continued
    finalists: tuple[Finalist, ...]  # the first is the recipe as it was
    steps: int  # of a trial that is not pruned

    @property
    def winner(self) -> Finalist:
        """The finalist with the lowest mean; one that diverged with a seed only where all did."""
        full = max(len(finalist.finals) for finalist in self.finalists)
        return min((f for f in self.finalists if len(f.finals) == full), key=lambda finalist: finalist.mean)

    @property
    def diverged(self) -> list[FrozenTrial]:
        return [trial for trial in self.trials if "fault" in trial.user_attrs]

    @property
    def pruned(self) -> list[FrozenTrial]:
        return [t for t in self.trials if t.state == TrialState.PRUNED and "fault" not in t.user_attrs]

    @property
    def cost(self) -> float:
        """The steps that were trained, as a share of those of all trials without pruning."""
        return sum(trial.user_attrs["steps"] for trial in self.trials) / (len(self.trials) * self.steps)

    def summary(self) -> str:
        """The finals as a table of text, and what the study cost."""
        lines = [
            f"study {self.study}: {len(self.trials)} trials, {len(self.pruned)} pruned, {len(self.diverged)} diverged; "
            f"{self.cost:.0%} of the steps without pruning",
            f"{'trial':>8}{'in the study':>14}{'anew: mean':>12}{'95% interval':>20}  values",
        ]
        for finalist in sorted(self.finalists, key=lambda finalist: finalist.mean):
            proxy = "-" if finalist.proxy is None else f"{finalist.proxy:.2f}"
            values = ", ".join(f"{name}={_short(value)}" for name, value in finalist.values.items())
            mark = " <- the recipe as it was" if finalist is self.finalists[0] else ""
            lines.append(
                f"{finalist.trial:>8}{proxy:>14}{finalist.mean:>12.2f}{_interval(finalist):>20}  {values}{mark}"
            )
        return "\n".join(lines)


def results_of(at: Place, params: Params, model: str) -> Results:
    """What the study and its finals hold."""
    study, finals = at.load(), at.finals().load()
    told = json.loads(finals.user_attrs["settings"])
    done = [trial for trial in finals.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    finalists = []
    for index, finalist in enumerate(told["finalists"]):
        own = sorted((t.params["seed"], t.value) for t in done if t.params["finalist"] == index and t.value is not None)
        values, seeds = tuple(value for _, value in own), tuple(seed for seed, _ in own)
        finalists.append(Finalist(finalist["trial"], finalist["values"], finalist["proxy"], values, seeds))
    trials = tuple(trial for trial in study.get_trials() if trial.state != TrialState.FAIL)
    return Results(study.study_name, model, trials, tuple(finalists), params.search.steps)


def _interval(finalist: Finalist) -> str:
    interval = mean_interval(finalist.finals)
    if interval is None:
        return "one seed" if finalist.finals else "diverged"
    low, high = interval
    return f"{low:.2f} .. {high:.2f}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
