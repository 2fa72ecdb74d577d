"""The pages of studies: they hold what the results say, need nothing but themselves, and bear every kind of study."""

import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState
from PIL import Image

from pipeline.experiment import Experiment
from pipeline.report.figures import LIGHT, scripts
from pipeline.search.__main__ import progress_reporter
from pipeline.search.pages import page
from pipeline.search.pages.charts import as_study, comparison_figure, importances, study_charts
from pipeline.search.pages.comparison import rank_studies
from pipeline.search.pages.outputs import publish, publish_comparison
from pipeline.search.pages.page import Subject, grids, render_comparison
from pipeline.search.study.mlflow_run import open_study_run, page_note, study_folder, study_page, track_progress
from pipeline.search.study.results import StudyResults
from pipeline.search.study.storage import FINALS
from pipeline.search.workers.worker import _tracker_of
from pipeline.tracking.tracker import Tracker
from pipeline.tracking.uploader import Uploader
from tests.studies import ABOUT, DESCRIPTION, finalist, in_memory, lively, study, study_params, trial, weighed

VOID = {"meta", "link", "img", "br", "wbr"}


def render(results: StudyResults, about: Subject) -> str:
    """The page without plotly's 4.8 MB."""
    return page.render_study(results, about).replace(scripts()[0], "")


def words(html: str) -> str:
    """The text of a page, blanks joined."""
    html = re.sub(r"<(style|script).*?</\1>", "", html, flags=re.S).replace("<wbr>", "")
    return unescape(" ".join(re.sub(r"<[^>]+>", " ", html).split()))


class Balance(HTMLParser):
    """Finds tags that are closed in another order than opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def one_final_seed() -> StudyResults:
    return study([trial(0, 100.0), trial(1, 50.0)], [finalist(0, 100.0, (90,)), finalist(1, 50.0, (80,))])


def nothing_ended() -> StudyResults:
    trials = [trial(0, None, 20), trial(1, None, 20, fault="nan at step 3")]
    return study(trials, [finalist(0, None, (), (101, 102))])


def only_choices() -> StudyResults:
    """A space of one categorical parameter."""
    trials = [trial(i, 100.0 - i) for i in range(9)]
    for index, each in enumerate(trials):
        each.params = {"loss": ("hinge", "bce")[index % 2]}
        each.distributions = {"loss": CategoricalDistribution(["hinge", "bce"])}
    found = study(trials, [finalist(0, 100.0, (90, 91)), finalist(1, 99.0, (80, 81))])
    return replace(found, settings={**found.settings, "space": {"loss": {"choices": ["hinge", "bce"]}}})


def equal_values() -> StudyResults:
    return study([trial(i, 100.0, lr_g=1e-3 * (i + 1)) for i in range(9)], [finalist(0, 100.0, (90.0, 90.0))])


def not_above_zero() -> StudyResults:
    return study([trial(0, 0.0), trial(1, -1e-9)], [finalist(0, 0.0, (0.0, 0.0)), finalist(1, -1e-9, (0.0, 0.0))])


def under_way() -> StudyResults:
    """A trial waits and one runs: the page does not fail on it."""
    waiting, running = trial(1, None), trial(2, None)
    for each, state in ((waiting, TrialState.WAITING), (running, TrialState.RUNNING)):
        each.state, each.datetime_complete = state, None
        each.user_attrs = {}
    waiting.datetime_start, waiting.params = None, {}
    return study([trial(0, 100.0), waiting, running], [finalist(0, 100.0, (90, 91))])


def against_nothing_ended() -> StudyResults:
    trials = [trial(0, None, 20, cost=0.0, fault="nan"), trial(1, None, 20, cost=0.0, fault="nan")]
    return study(trials, [finalist(0, None, (), (101, 102))], against="images")


def against_one_point() -> StudyResults:
    """Every trial at the same place, not above 0."""
    trials = [trial(i, 0.0, cost=0.0) for i in range(9)]
    return study(trials, [finalist(0, 0.0, (0.0, 0.0), costs=(0.0, 0.0))], against="seconds")


KINDS = [lively, one_final_seed, nothing_ended, only_choices, equal_values, not_above_zero, under_way]
KINDS += [weighed, against_nothing_ended, against_one_point]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_study_has_a_page(kind: Any) -> None:
    page = render(kind(), ABOUT)
    balance = Balance()
    balance.feed(page)
    assert balance.open == [] and "default-src 'none'" in page
    assert not re.findall(r'src="(?!data:|#)', page)
    links = re.findall(r'href="((?!data:|#)[^"]*)"(?:[^<]*<wbr>)*[^<]*</a>([^<]*)<', page)
    assert links == [("http://127.0.0.1:5000/#/experiments", " (while ")]
    run = f"trial 3 is the run dcgan trial 3 below study dcgan , in the experiment {ABOUT.group}"
    assert run in words(page)
    assert "inf" not in re.sub(r"[a-z]*inf[a-z]+|[a-z]+inf", "", words(page).lower())
    for text in re.findall(r'<script type="application/json">(.*?)</script>', page):
        assert json.loads(text)["data"], "an empty chart"


def test_a_study_has_the_charts_that_it_has_something_for() -> None:
    names = {"finals": ["Finals"],
             "trials": ["Best so far", "Learning curves", "Share of trials below a value", "When trials ran"],
             "space": ["Parameter importances", "fd against lr_g", "fd against beta1", "fd against n_critic",
                       "All parameters together"]}  # fmt: skip
    drawn = study_charts(lively(), "fd")
    assert {part: sorted(made) for part, made in drawn.items()} == {
        "finals": names["finals"], "trials": sorted(names["trials"]),
        "space": sorted([*names["space"], *(name for name in drawn["space"] if " and " in name)]),
    }  # fmt: skip
    assert len(drawn["space"]) == 7, "the two most important by value and by rank"
    assert {"Finals: distance and cost", "Distance and cost"} <= {
        name for made in study_charts(weighed(), "fd").values() for name in made
    }
    assert {part: list(made) for part, made in study_charts(nothing_ended(), "fd").items()} == {
        "finals": [], "trials": ["Learning curves"], "space": [],
    }  # fmt: skip
    one = study([trial(0, 100.0)], [finalist(0, 100.0, (90, 91))])
    assert {part: list(made) for part, made in study_charts(one, "fd").items()} == {
        "finals": ["Finals"], "trials": ["Learning curves"], "space": [],
    }  # fmt: skip


def test_optunas_charts_get_the_trials_by_their_numbers() -> None:
    trials = [trial(0, 100.0), trial(2, None, 20), trial(3, None, 20, fault="nan"), trial(5, 50.0)]
    held = as_study(study(trials, [])).trials
    states = ["COMPLETE", "FAIL", "PRUNED", "FAIL", "FAIL", "COMPLETE"]
    assert [(each.number, each.state.name) for each in held] == list(enumerate(states))
    assert held[5].value == 50 and held[5].intermediate_values == trials[3].intermediate_values
    both = as_study(weighed(), costs=True)
    assert [each.number for each in both.best_trials] == [1, 2, 4] and both.trials[2].values == [150.0, 1200.0]


def test_the_finals_are_drawn_with_their_seeds_and_intervals() -> None:
    found = lively()
    means, seeds = study_charts(found, "fd")["finals"]["Finals"].data
    assert list(means.y) == ["trial 2", "trial 3", "baseline", "trial 11"] and list(seeds.x[:3]) == [170, 176, 175]
    low, high = found.winner.interval  # type: ignore[misc]
    assert means.x[0] - means.error_x.arrayminus[0] == pytest.approx(low)
    assert means.x[0] + means.error_x.array[0] == pytest.approx(high)
    made = comparison_figure(rank_studies([found, lively(30, "sagan", -30.0)]), "fd")
    assert [len(trace.x) for trace in made.data] == [4, 12]
    assert list(made.data[0].y) == ["sagan, tuned", "sagan, untuned", "dcgan, tuned", "dcgan, untuned"]
    costs = study_charts(weighed(), "fd")["finals"]["Finals: distance and cost"].data[0]
    assert costs.cliponaxis is False, "the name beside the last dot is whole"


def test_of_all_parameters_together_the_best_trials_are_marked() -> None:
    drawn = study_charts(lively(), "fd")["space"]["All parameters together"]
    heights = [line.y[0] for line in drawn.data]
    assert len(heights) == 15 and heights == sorted(heights, reverse=True), "the best are on top"
    assert [line.line.color for line in drawn.data] == [LIGHT["soft"]] * 12 + [LIGHT["hue1"]] * 3
    assert drawn.layout.plot_bgcolor is None and drawn.layout.annotations[0].font.color == LIGHT["soft"]


def test_the_numbers_of_the_page() -> None:
    found = lively()
    text = words(render(found, ABOUT))
    assert "Trial 2 against the baseline: better by 58.20 to 98.47 (95% interval), over 3 fresh seeds." in text
    assert "In the finals the best trial of the study, trial 3, ranked 2 of 4 and kept 79% of its gain." in text
    assert "Of 30 trials, 3 failed (3 diverged)." in text
    assert "30 trials: 15 complete, 12 pruned, 3 failed (3 diverged)." in text
    # 15 complete ones of 60 steps, 3 diverged ones and 7 odd pruned ones of 20, 5 even ones of 40
    steps_trained = sum(t.user_attrs["steps"] for t in found.trials)
    assert f"{steps_trained:,} steps were trained, {steps_trained / 1800:.0%} of those without pruning" in text
    row = "1 2 173.7 165.7 to 181.7 3 0 222.9"  # mean, interval, seeds, diverged, study
    assert row in text
    assert "4 11 212.0" in text and "Spearman's rank correlation, study to finals 0.60" in text
    assert "This is not FID." in text and "This is not FID." not in words(render(found, Subject("x", "fid", "y")))
    assert f"--model dcgan --trials {len(found.trials)} --apply" in text


def test_all_text_is_escaped() -> None:
    evil = "<img src=x onerror=alert(1)>\"'&"
    found = study(
        [trial(0, 100.0), trial(1, None, 20, fault=evil)], [finalist(0, 100.0, (90, 91))], evil,
        model=evil, sampler=evil, recipe={"batch_size": 1, "n_critic": 1, evil: evil},
    )  # fmt: skip
    pages = render(found, Subject(evil, evil, evil))
    pages += render_comparison([found, found], Subject(evil, evil, evil)).replace(scripts()[0], "")
    assert "<img src=x" not in pages and "onerror=alert(1)>" not in pages
    assert evil in unescape(pages)


def test_importances_need_trials_that_differ() -> None:
    assert importances(one_final_seed()) is None and importances(equal_values()) is None
    assert "No importances: they need at least 8 complete trials" in words(render(one_final_seed(), ABOUT))
    shares = importances(lively())
    assert shares is not None and sum(shares.values()) == pytest.approx(1) and list(shares) == sorted(
        shares, key=lambda name: -shares[name]
    )  # fmt: skip


def test_importances_find_what_the_value_depends_on() -> None:
    draws = np.random.default_rng(0)
    trials = [trial(0, 500.0)]
    for number in range(1, 60):
        rate = float(10 ** draws.uniform(-4, -2))
        value = 100 + 100 * abs(np.log10(rate) + 3)
        trials.append(trial(number, value, lr_g=rate, n_critic=int(draws.integers(1, 4))))
    shares = importances(study(trials, []))
    assert shares is not None and next(iter(shares)) == "lr_g" and shares["lr_g"] > 0.6
    assert shares["beta1"] == 0, "it never varied"


def test_grids_are_inline_and_a_missing_one_is_said(workplace: Path) -> None:
    for step in ("00000000", "00000060"):
        path = workplace / ".work/dcgan-100-abc/grids" / f"{step}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((34, 34), int(step), np.uint8)).save(path)
    found = study(
        [trial(0, 100.0, work_folder="dcgan-100-abc"), trial(1, 50.0, work_folder="elsewhere"),
         trial(2, 60.0, work_folder="../../etc")], [finalist(0, 100.0, (90, 91))],
    )  # fmt: skip
    shown = grids(found)
    assert [(each["name"], each["value"]) for each in shown] == [
        ("baseline", "100.00"), ("best: trial 1", "50.00"), ("median: trial 2", "60.00"),
    ]  # fmt: skip
    assert shown[0]["path"].name == "00000060.png" and shown[1]["path"] is None and shown[2]["path"] is None
    page = render(found, ABOUT)
    assert page.count("data:image/webp;base64,") == 1 and words(page).count("Its grid is not on this machine.") == 2


def test_the_comparison_page() -> None:
    studies = [lively(), lively(30, "sagan", -30.0)]
    page = render_comparison(studies, ABOUT).replace(scripts()[0], "")
    text = words(page)
    assert "Tuned, sagan has the lowest mean (143.7 over 3 fresh seeds) of 2 models." in text
    assert "Its difference to dcgan, 30.0, is beyond the noise of seeds (95% interval 22.7 to 37.3)." in text
    assert "Here each model had the same budget: 30 trials of 60 steps, and finals of 100." in text
    assert "1 sagan 143.7 135.7 to 151.7 252.0 229.2 to 274.8 1 108.3" in text
    assert "this is not a fair comparison" not in text
    worse = words(render_comparison([lively(), lively(31, "sagan")], ABOUT))
    assert "The budgets differ in the number of trials, so this is not a fair comparison." in worse


# MLflow.


class Heard(Tracker):
    """A tracker that sends nothing and remembers what it got."""

    def __init__(self) -> None:
        super().__init__(Path("nowhere"), "", "", enabled=False)
        self.points: dict[tuple[str, int], float] = {}
        self.logged_tags: dict[str, str] = {}
        self.files: list[tuple[str, str]] = []

    def metrics(self, step: int, values: Any) -> None:
        self.points |= {(key, step): value for key, value in values.items()}

    def tags(self, values: Any) -> None:
        self.logged_tags |= values

    def artifact(self, path: Path, folder: str) -> None:
        assert path.stat().st_size > 0
        self.files.append((folder, path.name))


def make_data() -> None:
    Path("data/prepared").mkdir(parents=True)
    Path("data/reference").mkdir(parents=True)
    keys = {"name": "digits", "train": 9, "test": 9, "image_shape": [1, 16, 16], "skipped": {}, "classes": ["0"],
            "class_counts": [9], "source_size": [8, 8], "sha256": "d" * 64}  # fmt: skip
    Path("data/prepared/dataset.json").write_text(json.dumps(keys))
    Path("data/reference/floor.json").write_text(json.dumps({"metric": "fd_efficientnet_lite0", "value": 50.0}))


def test_a_study_is_published_and_tracked() -> None:
    make_data()
    heard, found = Heard(), lively(name="a/b")
    page = publish(found, heard)
    assert page.parent.parent == Path("reports/studies") and page.parent.name.startswith("a-b-")
    assert sorted(path.name for path in page.parent.iterdir()) == [
        "curves.csv", "finals.csv", "result.json", "study.html", "trials.csv",
    ]  # fmt: skip
    assert heard.logged_tags["winner"] == "trial 2" and heard.logged_tags["winner.n_critic"] == "1"
    assert heard.points["best", 1] == 300 and heard.points["best", 30] == found.best.value  # type: ignore[union-attr]
    assert heard.points["cost/seconds", 30] == 150 and heard.points["trials/failed", 30] == 3
    assert heard.points["finals/winner", 30] == found.winner.mean and heard.points["finals/baseline", 30] == 252
    assert ("study", "study.html") in heard.files and ("study", "trials.csv") in heard.files
    comparison = publish_comparison([found, lively(30, "sagan")])
    assert comparison == Path("reports/studies/comparison.html") and comparison.with_suffix(".csv").exists()


def test_a_study_and_its_finals_share_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ref = in_memory("dcgan")
    own = study_folder(ref)
    assert own.parent == Path.cwd() / ".work/search" and own.name.startswith("dcgan-")
    assert study_folder(replace(ref, name=f"dcgan{FINALS}")) == own
    assert study_folder(replace(ref, name="sagan")) != own != study_folder(replace(ref, url="b.journal"))
    note = page_note(ref)
    assert note == f"The page of the study: `{Path.cwd()}/reports/studies/dcgan/study.html`"
    assert page_note(replace(ref, name=f"dcgan{FINALS} 1f")) == note
    monkeypatch.setenv("DVC_ROOT", "/a/\u202eb")  # which would show the rest of the sentence backwards
    assert page_note(ref) == "The page of the study: `/a/\\u202eb/reports/studies/dcgan/study.html`"


def test_the_run_of_a_study_progresses_while_the_study_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Uploader, "send", lambda _: 0)
    ref = in_memory("dcgan")
    made = optuna.create_study(storage=ref.storage, study_name="dcgan")
    made.set_user_attr("settings", json.dumps(dict(lively().settings)))
    params = study_params(**{"runtime.tracking": True})

    def points() -> list[tuple[str, int, float]]:
        spool = (study_folder(ref) / "outbox.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in spool]
        return [(e["key"], e["step"], e["value"]) for e in entries if e["kind"] == "metric"]

    with open_study_run(ref, params, {"name": "digits", "image_shape": [1, 16, 16]}) as tracker:
        report = progress_reporter(ref, tracker)
        seen = []
        for each in (trial(0, 100.0), trial(1, None, 20), trial(2, 50.0)):
            made.add_trial(each)
            report()
            report()
            seen.append(len(points()))
        track_progress(tracker, made.get_trials())  # as at the end
    assert len(points()) == seen[-1] and seen[0] < seen[1] < seen[2]
    assert [p for p in points() if p[0] == "best"] == [("best", 1, 100), ("best", 2, 100), ("best", 3, 50)]
    costs = [p for p in points() if p[0] == "cost/steps"]
    assert costs == [("cost/steps", 1, 60), ("cost/steps", 2, 80), ("cost/steps", 3, 140)]
    assert capsys.readouterr().err.count("study dcgan: ") == 3


def test_the_run_of_a_study_holds_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Uploader, "send", lambda _: 0)
    found = lively()
    ref = in_memory("dcgan")
    made = optuna.create_study(storage=ref.storage, study_name="dcgan")
    made.set_user_attr("settings", json.dumps(dict(found.settings)))
    params = study_params(**{"runtime.tracking": True})
    with open_study_run(ref, params, {"name": "digits", "image_shape": [1, 16, 16]}) as tracker:
        track_progress(tracker, found.trials)
    spool = [json.loads(line) for line in (study_folder(ref) / "outbox.jsonl").read_text().splitlines()]
    logged = {(entry["kind"], entry["key"]): entry["value"] for entry in spool}
    assert logged["run", "digits-16px-search"]["name"] == "study dcgan" and logged["param", "sampler"] == "tpe"
    assert logged["param", "recipe.lr_g"] == "0.002" and '"log": true' in logged["param", "space.lr_g"]
    assert logged["metric", "cost/seconds"] == 150 and logged["tag", "study"] == "dcgan"
    assert logged["tag", "report"] == f"{Path.cwd()}/reports/studies/dcgan/study.html"


def test_the_run_of_a_trial_names_the_page_of_its_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Uploader, "send", lambda _: 0)
    experiment = Experiment(study_params(**{"runtime.tracking": True}), "dcgan", 100, DESCRIPTION)
    with _tracker_of(in_memory("a b"), "trial 3")(experiment):
        pass
    (spool,) = Path(".work").glob("dcgan-100-*/a-b/outbox.jsonl")
    entries = [json.loads(line) for line in spool.read_text().splitlines()]
    logged = {(entry["kind"], entry["key"]): entry["value"] for entry in entries}
    assert logged["run", "digits-16px-search"]["name"] == "a b trial 3", "as the study's page says"
    page = str(Path.cwd() / study_page("a b"))
    assert logged["tag", "report"] == page and f"`{page}`" in logged["tag", "mlflow.note.content"]
