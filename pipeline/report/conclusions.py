"""Conclusions in sentences: which model leads, which differences exceed noise, and what needs caution."""

import itertools
import statistics

from pipeline.core.metric_names import kernel_name
from pipeline.report.formatting import decimals, interval, listed, mean_and_std, number
from pipeline.report.results import ProtocolGroup, RankedModel, Results, RunResult, differing
from pipeline.report.uncertainty import sampling_noise, welch_interval

FAILED = ("has collapsed or learnt next to nothing", "have collapsed or learnt next to nothing")
ONE_SEED = "One training seed per model: nothing can be concluded about training variance."


def conclusions(results: Results) -> list[str]:
    """Sentences: which model leads each ranking, and whether its lead exceeds the noise."""
    groups = results.groups
    seeds = max(map(len, results.models.values()))
    sentences = []
    if len(groups) > 1:
        names = ", ".join(differing([group.protocol for group in groups]))
        sentences.append(
            f"The experiments were measured with {len(groups)} protocols, which differ in {names}. Each protocol has "
            "its own ranking; values of different protocols are not comparable."
        )
    for group in groups:
        sentences += _one_class(results, group)
        sentences.append(_leader(results, group))
        sentences += _noise(group, results.places)
        sentences += _other_order(results, group)
        sentences += _no_floor(group)
    if seeds == 1:
        sentences.append(ONE_SEED)
    return sentences


def doubt(group: ProtocolGroup, places: int) -> str:
    """How sure the first place of a ranking is, in one sentence; empty if no two models can be compared."""
    standing = _standing(group)
    behind = [ranked for ranked in standing if ranked.rank > standing[0].rank]
    single = "one training seed per model says nothing about training variance"
    one_seed = all(len(ranked.runs) == 1 for ranked in group.ranking)
    if not behind:
        return ONE_SEED if one_seed else ""
    finding, detail = _difference(standing[0], behind[0], places)
    lead = f"{standing[0].model}'s lead over {behind[0].model} is {finding} ({detail})"
    if not finding.startswith("beyond"):
        return f"Not certain: {lead}{f', and {single}' if one_seed else ''}."
    return f"Not quite certain: {lead}, but {single}." if one_seed else f"{lead}."


def cautions(results: Results) -> list[str]:
    """Sentences about results that are not ordinary: collapsed models and diverged trainings."""
    sentences = []
    for model, runs in results.models.items():
        several = len(runs) > 1
        fallen = [_of_seed(run, ", ".join(run.scores.collapsed), several) for run in runs if run.scores.collapsed]
        if fallen:
            mean = "; its mean over seeds includes this" if several else ""
            sentences.append(f"{model} {FAILED[0]}: {listed(fallen)}{mean}.")
        back = [_of_seed(run, f"{len(run.info['rollbacks'])} times", several) for run in runs if run.info["rollbacks"]]
        if back:
            sentences.append(
                f"{model} diverged and was rolled back to an earlier step with lower learning rates: {listed(back)}."
            )
    return sentences


def _of_seed(run: RunResult, text: str, several: bool) -> str:
    return f"seed {run.seed} ({text})" if several else text


def has_failed(ranked: RankedModel) -> bool:
    """Whether a model is no winner: half of its runs or more have collapsed, or learnt next to nothing."""
    return 2 * sum(bool(run.scores.collapsed) for run in ranked.runs) >= len(ranked.runs)


def best_run(results: Results) -> RunResult | None:
    """A run of the model that is named the best, the first that has not collapsed; None where no model is."""
    named = _standing(results.groups[0])[:1]
    return next((run for ranked in named for run in ranked.runs if not run.scores.collapsed), None)


def _standing(group: ProtocolGroup) -> list[RankedModel]:
    """The models that can be named winner, by rank."""
    return [ranked for ranked in group.ranking if not has_failed(ranked)]


def _one_class(results: Results, group: ProtocolGroup) -> list[str]:
    """That a ranking is about a single class."""
    if group.one_class is None:
        return []
    shown = results.class_name(str(group.one_class))
    return [f"All samples are of class {shown}, and so are the real images that they are measured against."]


def _leader(results: Results, group: ProtocolGroup) -> str:
    standing, metric, count = _standing(group), results.metric, len(group.ranking)
    failed = [ranked.model for ranked in group.ranking if has_failed(ranked)]
    said = f"{listed(failed)} {FAILED[len(failed) > 1]}" if failed else ""
    if not standing:
        return f"No model is named the best: {said}."
    leaders = [ranked for ranked in standing if ranked.rank == standing[0].rank]
    best = leaders[0]
    runs = len(best.values)
    seeds = f" over {runs} training seeds" if runs > 1 else ""
    floor = "" if best.ratio is None else f"; {best.ratio:.1f} times the floor at equal numbers of images"
    value = f"{mean_and_std(best.values, results.places)}{seeds}{floor}"
    if count == 1:
        return f"{best.model} reaches a {metric} of {value}; no other model was measured with the same protocol."
    if len(standing) == 1:
        return f"{said}; the only other model, {best.model}, reaches a {metric} of {value}."
    names, verb = listed([ranked.model for ranked in leaders]), "are" if len(leaders) > 1 else "is"
    among = f"the {len(standing)} models that have learnt" if failed else f"{count} models"
    lowest = f"with the lowest {'mean ' if runs > 1 else ''}{metric} ({value})"
    return f"{names} {verb} the best of {among}, {lowest}{f'; {said}' if failed else ''}."


def _other_order(results: Results, group: ProtocolGroup) -> list[str]:
    """Whether the kernel distance, which has no bias by the number of images, orders models otherwise."""
    name = kernel_name(results.metric)
    measured = [ranked for ranked in group.ranking if all(name in run.scores.metrics for run in ranked.runs)]
    means = [statistics.fmean(run.scores.metrics[name] for run in ranked.runs) for ranked in measured]
    pairs = itertools.combinations(zip(measured, means, strict=True), 2)
    if not any(first.rank < second.rank and one > other for (first, one), (second, other) in pairs):
        return []
    places = decimals(means)
    order = sorted(zip(means, (ranked.model for ranked in measured), strict=True))
    shown = listed([f"{model} ({number(mean, places)})" for mean, model in order])
    return [f"By {name}, which has no bias from the number of images, the order is different: {shown}."]


def _no_floor(group: ProtocolGroup) -> list[str]:
    """Why a ranking says nothing of the floor."""
    reason = group.ranking[0].runs[0].scores.not_available.get("floor")
    return [f"No model is compared with the floor: {reason}."] if reason and group.floor is None else []


def _noise(group: ProtocolGroup, places: int) -> list[str]:
    """For the leader against each model behind it that has learnt too: whether the difference exceeds noise."""
    leader, *rivals = _standing(group) or [group.ranking[0]]
    findings: dict[str, list[str]] = {}
    for rival in rivals:
        if rival.rank > leader.rank:
            finding, detail = _difference(leader, rival, places)
            findings.setdefault(finding, []).append(f"{rival.model} ({detail})")
    return [
        f"{leader.model}'s difference{'s' if len(named) > 1 else ''} to {listed(named)} "
        f"{'are' if len(named) > 1 else 'is'} {finding}."
        for finding, named in findings.items()
    ]


def _difference(leader: RankedModel, rival: RankedModel, places: int) -> tuple[str, str]:
    """Whether a difference exceeds noise, in words, and its numbers."""
    gap = statistics.fmean(rival.values) - statistics.fmean(leader.values)
    if len(leader.values) > 1 and len(rival.values) > 1:
        low, high = welch_interval(leader.values, rival.values)
        side = "within" if low <= 0 <= high else "beyond"
        detail = f"{number(gap, places)}, 95% interval {interval((low, high), places)}"
        return f"{side} the noise of training seeds", detail
    noise = sampling_noise(*([run.scores.error for run in ranked.runs] for ranked in (leader, rival)))
    if noise is None:
        return "not compared with sampling noise, because the sampling error was not estimated", number(gap, places)
    side = "within" if gap < noise else "beyond"
    return f"{side} sampling noise", f"{number(gap, places)}, sampling noise up to {number(noise, places)}"
