"""What a study found: its winner by the finals, how much of its best value was selection bias, and what it cost.

The baseline is the recipe before tuning: the study's first trial, and the first of its finalists. Values of the study
and of the finals are never subtracted from each other, because their budgets differ.
"""

import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from scipy import stats

from pipeline.report.formatting import digits
from pipeline.report.uncertainty import mean_interval, welch_interval
from pipeline.search.study.storage import StudyRef
from pipeline.search.study.trial_stats import (
    cost_of,
    distance_of,
    has_failed,
    images_of,
    pareto_front,
    state_of,
    steps_of,
)

FEWEST_RANKED = 3  # the order of two says nothing: it is right in half of all cases


@dataclass(frozen=True)
class Finalist:
    """The values of a trial that were trained again in the finals.

    proxy: the trial's distance in the study; None if it had none.
    costs: in images or seconds, for the same seeds as `finals`; empty if the study minimised the distance alone.
    """

    trial: int
    values: dict[str, Any]
    proxy: float | None
    finals: tuple[float, ...]  # of the final seeds that did not fail, at the full budget
    seeds: tuple[int, ...]
    failed: tuple[int, ...] = ()  # the final seeds that did
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
class SelectionBias:
    """How well the study's cheap values predicted the finals.

    spearman, kendall: correlations between the order of the finalists in the study and in the finals; None for less
        than 3.
    best: the finalist with the lowest value in the study, and `final_rank` its rank in the finals, from 1.
    ratio_in_study, ratio_in_finals: its value divided by the baseline's; None where one of the two has none, or where
        it is the baseline.
    """

    count: int
    spearman: float | None
    kendall: float | None
    best: Finalist
    final_rank: int
    ratio_in_study: float | None
    ratio_in_finals: float | None

    @property
    def retained_gain(self) -> float | None:
        """The part of the gain over the baseline that is left in the finals: 1 = all, 0 = none, below 0 = a loss.

        >>> best = Finalist(1, {}, 50.0, (90.0,), (1,))
        >>> SelectionBias(3, None, None, best, 1, ratio_in_study=0.5, ratio_in_finals=0.9).retained_gain
        0.2
        """
        if self.ratio_in_study is None or self.ratio_in_finals is None or self.ratio_in_study >= 1:
            return None
        return round((1 - self.ratio_in_finals) / (1 - self.ratio_in_study), 12)


@dataclass(frozen=True)
class StudyResults:
    """A study that is over, and its finals."""

    study: str
    model: str
    trials: tuple[FrozenTrial, ...]  # without those that were marked as failed
    finalists: tuple[Finalist, ...]  # the first is the baseline
    steps: int  # of a trial that is not pruned
    settings: Mapping[str, Any]  # space, recipe, budget, sampler, pruner, seed
    budget: Mapping[str, Any]  # of the finals
    finals: tuple[FrozenTrial, ...] = ()

    @property
    def baseline(self) -> Finalist:
        return self.finalists[0]

    @property
    def ranked(self) -> list[Finalist]:
        """The finalists by their mean, the lowest first; behind them those that failed with some seed, then all."""
        return sorted(self.finalists, key=rank_key)

    @property
    def winner(self) -> Finalist:
        """The finalist with the lowest mean; one that failed with a seed only where all did."""
        return self.ranked[0]

    @property
    def gain(self) -> Gain | None:
        """The winner against the baseline; None where they are the same, or one has no final value."""
        return None if self.winner is self.baseline else gain(self.baseline, self.winner)

    @property
    def selection_bias(self) -> SelectionBias | None:
        """None where no finalist has a value in the study."""
        known = [finalist for finalist in self.finalists if finalist.proxy is not None]
        if not known:
            return None
        ranks = sorted({rank_key(finalist) for finalist in known})
        in_study, in_finals = [f.proxy for f in known], [ranks.index(rank_key(f)) for f in known]
        best = min(known, key=lambda finalist: finalist.proxy or 0.0)
        ordered = len(known) >= FEWEST_RANKED and len(set(in_study)) > 1 and len(ranks) > 1
        final_rank = 1 + sum(rank_key(finalist) < rank_key(best) for finalist in self.finalists)
        start, other = self.baseline, best is not self.baseline
        return SelectionBias(
            len(known),
            float(stats.spearmanr(in_study, in_finals).statistic) if ordered else None,
            float(stats.kendalltau(in_study, in_finals).statistic) if ordered else None,
            best,
            final_rank,
            best.proxy / start.proxy if other and best.proxy is not None and start.proxy else None,
            best.mean / start.mean if other and best.finals and start.finals and start.mean > 0 else None,
        )

    @property
    def baseline_trial(self) -> FrozenTrial | None:
        return next((trial for trial in self.trials if trial.number == self.baseline.trial), None)

    @property
    def best(self) -> FrozenTrial | None:
        """The trial with the lowest value in the study."""
        return min(self.complete, key=lambda trial: (distance_of(trial), trial.number), default=None)

    @property
    def cost_objective(self) -> str | None:
        """The cost that was minimised too, "images" or "seconds"; None in a study of the distance alone."""
        return self.settings.get("against")

    @property
    def front(self) -> list[FrozenTrial]:
        """The Pareto front, the cheapest first; empty in a study of the distance alone."""
        return pareto_front(self.trials)

    @property
    def complete(self) -> list[FrozenTrial]:
        return [trial for trial in self.trials if state_of(trial) == "complete"]

    @property
    def failed(self) -> list[FrozenTrial]:
        return [trial for trial in self.trials if has_failed(trial)]

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
            f"study {self.study}: {len(self.trials)} trials, {len(self.pruned)} pruned, {failures_text(self.failed)}; "
            f"{self.cost:.0%} of the steps without pruning"
        ]
        cost = self.cost_objective
        if cost:
            lines.append(f"{'front':>8}{'distance':>14}{cost:>12}")
            lines += [f"{t.number:>8}{distance_of(t):>14.2f}{digits(cost_of(t) or 0):>12}" for t in self.front]
        head = f"{'mean ' + cost:>15}" if cost else ""
        lines.append(f"{'trial':>8}{'in the study':>14}{'finals: mean':>14}{'95% interval':>20}{head}  values")
        for finalist in self.ranked:
            proxy = "-" if finalist.proxy is None else f"{finalist.proxy:.2f}"
            mean = f"{finalist.mean:.2f}" if finalist.finals else "-"
            values = ", ".join(f"{name}={short(value)}" for name, value in finalist.values.items())
            note = f"; failed with {', '.join(map(str, finalist.failed))}" if finalist.failed else ""
            note += " <- the baseline" if finalist is self.baseline else ""
            costs = f"{digits(finalist.cost) if finalist.cost is not None else '-':>15}" if cost else ""
            lines.append(f"{finalist.trial:>8}{proxy:>14}{mean:>14}{_interval(finalist):>20}{costs}  {values}{note}")
        return "\n".join([*lines, gain_text(self)])


def load_results(ref: StudyRef, finals: StudyRef, model: str) -> StudyResults:
    """What a study and its finals hold."""
    study, last = ref.load(), finals.load()
    settings, budget = json.loads(study.user_attrs["settings"]), json.loads(last.user_attrs["settings"])
    trials = tuple(trial for trial in study.get_trials() if trial.state != TrialState.FAIL)
    final_trials = tuple(trial for trial in last.get_trials() if trial.state != TrialState.FAIL)
    finalists = []
    for index, chosen in enumerate(budget["finalists"]):
        own = sorted((t for t in final_trials if t.params.get("finalist") == index), key=lambda t: t.params["seed"])
        done = [(value, trial) for trial in own if (value := distance_of(trial)) is not None]
        finalist = Finalist(
            chosen["trial"],
            chosen["values"],
            chosen["proxy"],
            tuple(value for value, _ in done),
            tuple(trial.params["seed"] for _, trial in done),
            tuple(trial.params["seed"] for trial in own if has_failed(trial)),
            tuple(cost for _, trial in done if (cost := _final_cost(settings, chosen["values"], trial)) is not None),
        )
        finalists.append(finalist)
    return StudyResults(
        study.study_name, model, trials, tuple(finalists), settings["steps"], settings, budget, final_trials
    )


def _final_cost(settings: Mapping[str, Any], values: Mapping[str, Any], trial: FrozenTrial) -> float | None:
    """What a final cost, in what its study minimised; its recipe is the study's with the finalist's `values`."""
    if settings.get("against") == "images":
        return float(images_of({**settings["recipe"], **values}, trial))
    return trial.user_attrs["seconds"] if settings.get("against") == "seconds" else None


def gain(baseline: Finalist, winner: Finalist) -> Gain | None:
    """How far the mean of `winner` lies below that of `baseline`; None where one of them has none."""
    if not baseline.finals or not winner.finals:
        return None
    enough = len(baseline.finals) > 1 and len(winner.finals) > 1
    interval = welch_interval(winner.finals, baseline.finals) if enough else None
    ratio = winner.mean / baseline.mean if baseline.mean else math.nan
    return Gain(baseline.mean - winner.mean, ratio, interval)


def gain_text(results: StudyResults) -> str:
    """The winner against the baseline, in words.

    "better by 23.00 to 61.00", "within noise", or why neither can be said.
    """
    found, winner, start = results.gain, results.winner, results.baseline
    if not winner.finals:
        return "every finalist failed with every final seed: there is no winner"
    if winner is start:
        return "the baseline is the winner: no trial is better"
    if found is None:
        return f"the winner is trial {winner.trial}; the baseline failed with every final seed"
    against = f"trial {winner.trial} against the baseline"
    if found.interval is None:
        side = "better" if found.gap > 0 else "worse"
        return f"{against}: {side} by {abs(found.gap):.2f}; one final seed says nothing about noise"
    low, high = found.interval
    if not found.certain:
        return f"{against}: within noise ({low:.2f} to {high:.2f}, 95% interval)"
    side, ends = ("better", (low, high)) if low > 0 else ("worse", (-high, -low))
    return f"{against}: {side} by {ends[0]:.2f} to {ends[1]:.2f} (95% interval)"


def failures_text(failed: Sequence[FrozenTrial]) -> str:
    """How many trials failed, and how: "3 failed (2 diverged, 1 invalid)"."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(map(state_of, failed)).items()))
    return f"{len(failed)} failed" + (f" ({kinds})" if kinds else "")


def short(value: Any) -> str:
    """A value of a recipe as text: floats to three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def rank_key(finalist: Finalist) -> tuple[int, float]:
    """What finalists are ranked by."""
    return -len(finalist.finals), finalist.mean


def _interval(finalist: Finalist) -> str:
    if finalist.interval is None:
        return "one seed" if finalist.finals else "failed"
    low, high = finalist.interval
    return f"{low:.2f} to {high:.2f}"
