"""What a study found: its winner by the finals, how much of its best value was luck, and what it cost.

Values of the study and values of the finals are never subtracted from each other: their budgets differ.
"""

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from scipy import stats

from pipeline.params import Params
from pipeline.report.formatting import digits
from pipeline.report.uncertainty import mean_interval, welch_interval
from pipeline.search.study.study import Place
from pipeline.search.study.trial_stats import cost_of, distance_of, front, images_of, state_of, steps_of

FEWEST_RANKED = 3  # the order of two says nothing: it is right in half of all cases


@dataclass(frozen=True)
class Finalist:
    """One of the settings that were trained anew: `proxy` was its value in the study, None where it had none.

    costs: of the same seeds as `finals`, in images or seconds; empty where the study minimised the distance alone.
    """

    trial: int
    values: dict[str, Any]
    proxy: float | None
    finals: tuple[float, ...]  # of the final seeds that did not diverge, at the full budget
    seeds: tuple[int, ...]
    diverged: tuple[int, ...] = ()  # the final seeds that did
    costs: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        return statistics.fmean(self.finals) if self.finals else math.inf

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval of the mean; None for less than two seeds."""
        return mean_interval(self.finals)

    @property
    def cost(self) -> float | None:
        """The mean of the costs, None where there are none."""
        return statistics.fmean(self.costs) if self.costs else None


@dataclass(frozen=True)
class Gain:
    """How far one finalist's mean lies below another's: above 0 is better. The interval needs two seeds of each."""

    gap: float
    ratio: float  # of the two means: 0.9 is a tenth less
    interval: tuple[float, float] | None

    @property
    def certain(self) -> bool:
        """Whether the 95% interval leaves out 0."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


@dataclass(frozen=True)
class Optimism:
    """How well the study's cheap values foretold the finals.

    spearman, kendall: correlations between the order of the finalists in the study and anew; None for less than 3.
    best: the finalist with the lowest value in the study, and `place` its place anew, from 1.
    in_study, anew: its value as a ratio to that of the recipe as it was; None where one of the two has none, or where
        it is the recipe as it was.
    """

    count: int
    spearman: float | None
    kendall: float | None
    best: Finalist
    place: int
    in_study: float | None
    anew: float | None

    @property
    def kept(self) -> float | None:
        """The part of the advantage that remains anew: 1 = all, 0 = none, below 0 = it is a disadvantage.

        >>> Optimism(3, None, None, Finalist(1, {}, 50.0, (90.0,), (1,)), 1, in_study=0.5, anew=0.9).kept
        0.2
        """
        if self.in_study is None or self.anew is None or self.in_study >= 1:
            return None
        return round((1 - self.anew) / (1 - self.in_study), 12)


@dataclass(frozen=True)
class Results:
    """A study that is over, and its finals."""

    study: str
    model: str
    trials: tuple[FrozenTrial, ...]  # without those that were set aside
    finalists: tuple[Finalist, ...]  # the first is the recipe as it was
    steps: int  # of a trial that is not pruned
    settings: Mapping[str, Any]  # space, recipe, budget, sampler, pruner, seed
    budget: Mapping[str, Any]  # of the finals
    finals: tuple[FrozenTrial, ...] = ()

    @property
    def start(self) -> Finalist:
        """The recipe as it was."""
        return self.finalists[0]

    @property
    def ranked(self) -> list[Finalist]:
        """The finalists by their mean, the lowest first; behind them those that diverged with some seed, then all."""
        return sorted(self.finalists, key=order)

    @property
    def winner(self) -> Finalist:
        """The finalist with the lowest mean; one that diverged with a seed only where all did."""
        return self.ranked[0]

    @property
    def gain(self) -> Gain | None:
        """The winner against the recipe as it was; None where they are the same, or one has no final value."""
        return None if self.winner is self.start else gain(self.start, self.winner)

    @property
    def optimism(self) -> Optimism | None:
        """None where no finalist has a value in the study."""
        known = [finalist for finalist in self.finalists if finalist.proxy is not None]
        if not known:
            return None
        orders = sorted({order(finalist) for finalist in known})
        before, anew = [f.proxy for f in known], [orders.index(order(f)) for f in known]
        best = min(known, key=lambda finalist: finalist.proxy or 0.0)
        ranks = len(known) >= FEWEST_RANKED and len(set(before)) > 1 and len(orders) > 1
        place = 1 + sum(order(finalist) < order(best) for finalist in self.finalists)
        start, other = self.start, best is not self.start
        return Optimism(
            len(known),
            float(stats.spearmanr(before, anew).statistic) if ranks else None,
            float(stats.kendalltau(before, anew).statistic) if ranks else None,
            best,
            place,
            best.proxy / start.proxy if other and best.proxy is not None and start.proxy else None,
            best.mean / start.mean if other and best.finals and start.finals and start.mean > 0 else None,
        )

    @property
    def start_trial(self) -> FrozenTrial | None:
        """The trial of the recipe as it was."""
        return next((trial for trial in self.trials if trial.number == self.start.trial), None)

    @property
    def best(self) -> FrozenTrial | None:
        """The trial with the lowest value in the study."""
        return min(self.complete, key=lambda trial: (distance_of(trial), trial.number), default=None)

    @property
    def against(self) -> str | None:
        """The cost that was minimised too, "images" or "seconds"; None in a study of the distance alone."""
        return self.settings.get("against")

    @property
    def front(self) -> list[FrozenTrial]:
        """The trials that no other beats at both distance and cost, the cheapest first; none without `against`."""
        return front(self.trials)

    @property
    def complete(self) -> list[FrozenTrial]:
        return [trial for trial in self.trials if state_of(trial) == "complete"]

    @property
    def diverged(self) -> list[FrozenTrial]:
        return [trial for trial in self.trials if state_of(trial) == "diverged"]

    @property
    def pruned(self) -> list[FrozenTrial]:
        return [trial for trial in self.trials if state_of(trial) == "pruned"]

    @property
    def cost(self) -> float:
        """The steps that were trained, as a share of those of all trials without pruning."""
        return steps_of(self.trials) / (len(self.trials) * self.steps)

    def summary(self) -> str:
        """The Pareto front, if there is one, and the finals as tables of text, and what the study cost."""
        lines = [
            f"study {self.study}: {len(self.trials)} trials, {len(self.pruned)} pruned, {len(self.diverged)} diverged; "
            f"{self.cost:.0%} of the steps without pruning"
        ]
        if self.against:
            lines.append(f"{'front':>8}{'distance':>14}{self.against:>12}")
            lines += [f"{t.number:>8}{distance_of(t):>14.2f}{digits(cost_of(t) or 0):>12}" for t in self.front]
        head = f"{'mean ' + self.against:>15}" if self.against else ""
        lines.append(f"{'trial':>8}{'in the study':>14}{'anew: mean':>12}{'95% interval':>20}{head}  values")
        for finalist in self.ranked:
            proxy = "-" if finalist.proxy is None else f"{finalist.proxy:.2f}"
            mean = f"{finalist.mean:.2f}" if finalist.finals else "-"
            values = ", ".join(f"{name}={short(value)}" for name, value in finalist.values.items())
            mark = f"; diverged with {', '.join(map(str, finalist.diverged))}" if finalist.diverged else ""
            mark += " <- the recipe as it was" if finalist is self.start else ""
            cost = f"{digits(finalist.cost) if finalist.cost is not None else '-':>15}" if self.against else ""
            lines.append(f"{finalist.trial:>8}{proxy:>14}{mean:>12}{_interval(finalist):>20}{cost}  {values}{mark}")
        return "\n".join([*lines, gain_text(self)])


def results_of(at: Place, params: Params, model: str) -> Results:
    """What the study and its finals hold."""
    study, finals = at.load(), at.finals().load()
    settings, budget = json.loads(study.user_attrs["settings"]), json.loads(finals.user_attrs["settings"])
    trials = tuple(trial for trial in study.get_trials() if trial.state != TrialState.FAIL)
    complete = {trial.number for trial in trials if state_of(trial) == "complete"}
    again = tuple(trial for trial in finals.get_trials() if trial.state != TrialState.FAIL)
    finalists = []
    for index, told in enumerate(budget["finalists"]):
        own = sorted((t for t in again if t.params.get("finalist") == index), key=lambda trial: trial.params["seed"])
        done = [(value, trial) for trial in own if (value := distance_of(trial)) is not None]
        finalist = Finalist(
            told["trial"],
            told["values"],
            told["proxy"] if told["trial"] in complete else None,  # Optuna gives a pruned trial the value it had then
            tuple(value for value, _ in done),
            tuple(trial.params["seed"] for _, trial in done),
            tuple(trial.params["seed"] for trial in own if state_of(trial) == "diverged"),
            tuple(cost for _, trial in done if (cost := _final_cost(settings, told["values"], trial)) is not None),
        )
        finalists.append(finalist)
    return Results(
        study.study_name, model, trials, tuple(finalists), settings["steps"], settings, budget, again
    )  # fmt: skip


def _final_cost(settings: Mapping[str, Any], values: Mapping[str, Any], trial: FrozenTrial) -> float | None:
    """What a final cost, in what its study minimised; its recipe is the study's with the finalist's `values`."""
    if settings.get("against") == "images":
        return float(images_of({**settings["recipe"], **values}, trial))
    return trial.user_attrs["seconds"] if settings.get("against") == "seconds" else None


def gain(start: Finalist, winner: Finalist) -> Gain | None:
    """How far the mean of `winner` lies below that of `start`; None where one of them has none."""
    if not start.finals or not winner.finals:
        return None
    enough = len(start.finals) > 1 and len(winner.finals) > 1
    interval = welch_interval(winner.finals, start.finals) if enough else None
    ratio = winner.mean / start.mean if start.mean else math.nan
    return Gain(start.mean - winner.mean, ratio, interval)


def gain_text(results: Results) -> str:
    """The winner against the recipe as it was, in words.

    "better by 23.00 .. 61.00", "within noise", or why neither can be said.
    """
    found, winner, start = results.gain, results.winner, results.start
    if not winner.finals:
        return "every finalist diverged with every final seed: there is no winner"
    if winner is start:
        return "the recipe as it was is the winner: nothing that was tried is better"
    if found is None:
        return f"the winner is trial {winner.trial}; the recipe as it was diverged with every final seed"
    against = f"trial {winner.trial} against the recipe as it was"
    if found.interval is None:
        side = "better" if found.gap > 0 else "worse"
        return f"{against}: {side} by {abs(found.gap):.2f}; of noise one final seed says nothing"
    low, high = found.interval
    if not found.certain:
        return f"{against}: within noise ({low:.2f} .. {high:.2f}, 95% interval)"
    side, ends = ("better", (low, high)) if low > 0 else ("worse", (-high, -low))
    return f"{against}: {side} by {ends[0]:.2f} .. {ends[1]:.2f} (95% interval)"


def short(value: Any) -> str:
    """A value of a recipe as text: floats to three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def order(finalist: Finalist) -> tuple[int, float]:
    """What finalists are ranked by."""
    return -len(finalist.finals), finalist.mean


def _interval(finalist: Finalist) -> str:
    if finalist.interval is None:
        return "one seed" if finalist.finals else "diverged"
    low, high = finalist.interval
    return f"{low:.2f} .. {high:.2f}"
