"""Several studies side by side: each model untuned and tuned, by the same final seeds and at an equal budget."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.formatting import decimals, interval, listed, number
from pipeline.report.uncertainty import welch_interval
from pipeline.search.study.results import Finalist, StudyResults, rank_key

EQUAL = {  # the settings in which studies must agree to be comparable, and their names on the page
    "space": "the space",
    "steps": "the steps of a trial",
    "samples": "the samples of a point of a curve",
    "score_every": "the points of a curve",
    "sampler": "the sampler",
    "pruner": "the pruner",
    "against": "the second objective",
    "seed": "the seed",
    "train": "the trials' training",
    "extractor": "the extractor",
    "weights": "the extractor's weights",
    "data_sha256": "the data",
}
EQUAL_FINALS = {
    "final_seeds": "the final seeds",
    "train": "the finals' training",
    "samples": "the finals' samples",
    "generator": "the finals' generator",
}


@dataclass(frozen=True)
class Entry:
    """A model's study, and its ranks among the others: 1 is the lowest mean, None where nothing has a value."""

    results: StudyResults
    index: int  # the model's colour
    rank_untuned: int | None
    rank_tuned: int | None


def rank_studies(studies: Sequence[StudyResults]) -> list[Entry]:
    """The studies by the rank of their winners, then in the order given."""
    untuned, tuned = _ranks([s.baseline for s in studies]), _ranks([s.winner for s in studies])
    entries = [Entry(*each) for each in zip(studies, range(len(studies)), untuned, tuned, strict=True)]
    return sorted(entries, key=lambda entry: entry.rank_tuned or len(entries) + 1)


def unequal(studies: Sequence[StudyResults]) -> list[str]:
    """The settings of budget and protocol in which the studies differ; none where the comparison is fair."""
    found = []
    if len({len(study.trials) for study in studies}) > 1:
        found.append("the number of trials")
    found += [words for key, words in EQUAL.items() if _differ([study.settings.get(key) for study in studies])]
    found += [words for key, words in EQUAL_FINALS.items() if _differ([study.budget.get(key) for study in studies])]
    return found


def comparison_verdict(entries: Sequence[Entry]) -> list[str]:
    """Sentences: who leads tuned, against whom that is more than noise, and whether tuning changed the order."""
    known = [entry for entry in entries if entry.rank_tuned is not None]
    if len(known) < 2:
        return ["Fewer than two models have a winner, so there is nothing to compare."]
    leader = known[0]
    first = [entry for entry in known if entry.rank_tuned == 1]
    places = decimals(value for entry in known for value in entry.results.winner.finals)
    best = leader.results.winner
    names, seeds = listed([entry.results.model for entry in first]), len(best.finals)
    sentences = [
        f"Tuned, {names} {'share' if len(first) > 1 else 'has'} the lowest mean ({number(best.mean, places)} over "
        f"{seeds} fresh seed{'s' if seeds > 1 else ''}) of {len(known)} models."
    ]
    for rival in known[len(first) :]:
        sentences.append(_against(leader.results.model, best, rival.results.model, rival.results.winner, places))
    orders = [(entry.rank_untuned, entry.rank_tuned) for entry in known]
    if all(untuned is not None for untuned, _ in orders):
        changed = [entry.results.model for entry in known if entry.rank_untuned != entry.rank_tuned]
        sentences.append(f"Tuning changed the rank of {listed(changed)}." if changed else "Tuning changed no rank.")
    return sentences


def _against(leader: str, best: Finalist, rival: str, other: Finalist, places: int) -> str:
    gap = number(other.mean - best.mean, places)
    if len(best.finals) < 2 or len(other.finals) < 2:
        return f"Its difference to {rival} is {gap}; one seed says nothing about noise."
    ends = welch_interval(best.finals, other.finals)
    side = "within" if ends[0] <= 0 <= ends[1] else "beyond"
    return f"Its difference to {rival}, {gap}, is {side} the noise of seeds (95% interval {interval(ends, places)})."


def _ranks(finalists: Sequence[Finalist]) -> list[int | None]:
    return [1 + sum(rank_key(other) < rank_key(f) for other in finalists) if f.finals else None for f in finalists]


def _differ(values: Sequence[Any]) -> bool:
    return any(value != values[0] for value in values)
