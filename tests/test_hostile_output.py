"""Pages in which foreign text is only text, messages without passwords, downloads that are checked, local servers."""

import dataclasses
import gzip
import hashlib
import io
import json
import re
import tarfile
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from pipeline.core.errors import PipelineError
from pipeline.data import downloads
from pipeline.data.datasets import DATASETS, expected_names
from pipeline.data.prepared import prepare
from pipeline.evaluate.images import open_images
from pipeline.params import DataParams
from pipeline.report import read_results, render
from pipeline.report.figures import MARKS, chart, figure, line, scripts
from pipeline.search.pages.page import Subject, render_study
from pipeline.search.study.storage import open_storage, redacted
from pipeline.tracking import addresses
from pipeline.tracking.addresses import LOCAL, model_pages
from pipeline.tracking.uploader import Uploader
from tests.report.files import compare, make_data, make_experiment
from tests.studies import lively
from tests.test_fuzz import assert_clear, fuzz

ROOT = Path(__file__).resolve().parent.parent
EVIL = '"><script>document.title="owned"</script><img src=x onerror=alert(1)>\'</text></style>'


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


# --- pages ---


class Tags(HTMLParser):
    """What a browser would make of a page: its elements and their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def assert_harmless(text: str) -> None:
    """EVIL is there, and only as text: no script but the page's own, no handler, no picture from elsewhere."""
    for script in scripts():
        assert text.count(f"<script>{script}</script>") == 1
        text = text.replace(f"<script>{script}</script>", "")
    assert text.count("&lt;script&gt;") >= 2 and "<script>" not in text and "<img src=x" not in text
    for tag, attributes in Tags(text).found:
        assert tag not in ("iframe", "object", "embed", "base", "form") and len(tag) < 20
        assert tag != "script" or attributes["type"] == "application/json"
        assert not any(name.startswith("on") or name == "srcdoc" for name in attributes)
        targets = [attributes.get(name) or "data:" for name in ("src", "href", "xlink:href")]
        assert all(target.startswith(("data:", "#", *[f"{LOCAL}/#/"] * (tag == "a"))) for target in targets)
    assert "default-src 'none'" in text
    for held in re.findall(r'<script type="application/json">(.*?)</script>', text):
        assert_plain(json.loads(held))


def assert_plain(value: Any) -> None:
    """No label of a chart has a tag of its own: plotly makes links of <a href=..>."""
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        assert_plain(item)
    if isinstance(value, str):
        for mark in MARKS:
            value = value.replace(mark, "")
        assert "<" not in value


def report() -> str:
    """A report of files in which every text is EVIL."""
    make_data(classes=[EVIL, "b"])
    protocol: dict[str, Any] = {"extractor": EVIL, EVIL: EVIL}
    scores = {
        EVIL: 1.0,
        "not_available": {"kid": EVIL},
        "fd_efficientnet_lite0_class/0": 3.0,
        "kd_efficientnet_lite0": 1.0,
    }
    for model in ("dcgan", "sagan"):
        make_experiment(model, 0, 100.0, scores=scores, **protocol)
    for path in Path("runs").glob("*/generator.json"):
        path.write_text(path.read_text().replace('"hinge"', json.dumps(EVIL)).replace('"f0"', json.dumps(EVIL)))
    dataset = Path("data/prepared/dataset.json")
    dataset.write_text(dataset.read_text().replace('"digits"', json.dumps(EVIL)))
    params = compare(["dcgan", "sagan"], [0])
    results = read_results(params)
    return render(results, model_pages(params, [{"init_from": None}], results.dataset))


def test_the_report_shows_foreign_text_as_text() -> None:
    assert_harmless(report())


def test_a_study_shows_foreign_text_as_text() -> None:
    results, names = lively(), {"lr_g": EVIL}
    results = dataclasses.replace(results, study=EVIL, model=EVIL)
    settings = {**results.settings, "metric": EVIL, "recipe": {**results.settings["recipe"], EVIL: EVIL}}
    results = dataclasses.replace(results, settings=settings)
    for trial in results.trials:
        trial.user_attrs.update({"device": EVIL, "fault": EVIL, names["lr_g"]: EVIL})
    assert_harmless(render_study(results, Subject(EVIL, EVIL, EVIL)))


def test_a_chart_of_its_own_shows_foreign_text_as_text() -> None:
    link = '<a href="https://x">&amp;</a><br>'
    made = str(chart(figure([line([(0, 1), (1, 2)], link, "#000000")], EVIL, link), EVIL, 300, EVIL))
    assert "<a " not in made and made.count("<script") == 1 and "&lt;script&gt;" in made
    held = json.loads(re.findall(r'<script type="application/json">(.*?)</script>', made)[0])
    assert held["data"][0]["name"] == '&lt;a href="https://x"&gt;&amp;amp;&lt;/a&gt;<br>'


def test_class_folders_of_any_name_are_prepared(workplace: Path) -> None:
    shown = {"<script>alert(1)<": "<script>alert(1)<", "a\nb\x1b[2J": r"a\nb\x1b[2J", 'x" onerror="y': 'x" onerror="y',
             "ü": "ü", " ": " ", "\u202egnp.\u2069": r"\u202egnp.\u2069", "u\u0308\u200b": r"ü\u200b",
             "\u0645\u06cc\u200c\u062e": "\u0645\u06cc\u200c\u062e"}  # fmt: skip
    for name in shown:
        (workplace / "images" / name).mkdir(parents=True)
        for index in range(4):
            Image.new("L", (8, 8), index).save(workplace / "images" / name / f"{index}.png")
    settings = DataParams(dataset="folder", root="images", image_size=8, channels=1, test_fraction=0.5, limit=None,
                          bad_images="refuse", max_megapixels=1.0, seed=0)  # fmt: skip
    assert prepare(settings, Path("out"))["classes"] == sorted(shown.values())
    assert open_images(Path("images"), 1.0, "refuse", None).classes == tuple(sorted(shown.values()))
    assert expected_names(settings) == tuple(sorted(shown.values()))


def test_what_a_folder_is_said_to_hold_steers_no_terminal(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.png", "b.png"):
        Image.new("L", (8, 8)).save(workplace / name)
    for name in ("x.\x1b[31m", "y.\r\nerror: done", "z.\u202egnp"):
        (workplace / name).write_bytes(b"")
    open_images(workplace, 1.0, "refuse", None)
    (said,) = capsys.readouterr().err.splitlines()
    assert said.isprintable() and "3 other files" in said


# --- secrets ---

SECRETS = st.text("abcXYZ0189:/?#[]@!$&'()*+,;=%~-._ \\é", min_size=4, max_size=20).map(lambda text: f"S3{text}")
FORMS = st.sampled_from(["{kind}://me:{secret}@host.example:99x/s", "{kind}://me:{secret}@/s", "{kind}://me:{secret}",
                         "{kind}://host.example/s?user=me&password={secret}",
                         "{kind}://h/s?passwd={secret}&x=1"])  # fmt: skip


@pytest.mark.slow
@fuzz(200)
@given(secret=SECRETS, form=FORMS, kind=st.sampled_from(["nodb", "postgresql+nodriver", "grpc", "redis"]))
def test_no_password_of_a_storage_is_shown(secret: str, form: str, kind: str) -> None:
    assume("&" not in secret or "=" not in form)
    assume(not (kind == "grpc" and form.endswith("{secret}")))  # would be looked up as a host
    url = form.format(kind=kind, secret=secret)
    with pytest.raises(PipelineError) as caught:
        open_storage(url)
    for text in (str(caught.value), redacted(url)):
        assert secret not in text and secret.partition("@")[0] not in text
    assert_clear(str(caught.value))


@fuzz(200)
@given(secret=SECRETS, told=st.sampled_from(["{uri}/api: refused", "bad password {secret}", "{quoted}", "for {uri}"]))
def test_no_password_of_mlflow_is_shown(secret: str, told: str) -> None:
    uri = f"http://me:{secret}@host.example:5000"
    text = told.format(uri=uri, secret=secret, quoted=urllib.request.quote(secret, safe=""))
    assert secret not in Uploader(Path("none"), uri).reason(ValueError(text))


def test_what_a_server_answers_turns_no_text_around() -> None:
    told = Uploader(Path("none"), "http://\u202ex").reason(ValueError("no http://\u202ex\x1b[2J\nmore"))
    assert told == r"ValueError: no http://\u202ex\x1b[2J"


# --- downloads and servers ---

ARCHIVES = [*downloads.MNIST, *downloads.FASHION_MNIST, *downloads.CIFAR10]


def test_every_download_is_by_https_and_has_a_sha256() -> None:
    assert len(ARCHIVES) == 9 and len({archive.sha256 for archive in ARCHIVES}) == 9
    for archive in ARCHIVES:
        assert archive.url.startswith("https://") and re.fullmatch("[0-9a-f]{64}", archive.sha256)
        assert not Path(archive.path).is_absolute() and ".." not in archive.path


class Answer(io.BytesIO):
    def __init__(self, content: bytes, url: str) -> None:
        super().__init__(content)
        self.url = url


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
@pytest.mark.parametrize("fault", ["other", "http"])
def test_another_file_is_never_kept(workplace: Path, monkeypatch: pytest.MonkeyPatch, name: str, fault: str) -> None:
    asked = []

    def urlopen(url: str, **_: Any) -> Answer:
        asked.append(url)
        return Answer(gzip.compress(b"forged"), url if fault == "other" else url.replace("https:", "http:"))

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    settings = DataParams(dataset=name, root="raw", image_size=8, channels=1, test_fraction=0.5, limit=None,
                          bad_images="refuse", max_megapixels=1.0, seed=0)  # fmt: skip
    with pytest.raises(PipelineError) as caught:
        DATASETS[name](settings)
    assert ("has sha256" if fault == "other" else "is not https") in str(caught.value)
    assert_clear(str(caught.value))
    assert len(asked) == 1 and asked[0].startswith("https://")  # and it does not try http
    assert not [path for path in Path("raw").rglob("*") if path.is_file()]


def test_a_download_is_kept_and_unpacked_once(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, asked = gzip.compress(b"values"), []
    archive = downloads.Archive("https://host/a.gz", "x/a.gz", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, **_: asked.append(url) or Answer(content, url))
    (workplace / "x").mkdir()
    (workplace / "x" / "a.gz").write_bytes(b"another one")
    for _ in range(2):
        downloads.fetch(archive, workplace)
        assert (workplace / "x" / "a").read_bytes() == b"values"
    assert len(asked) == 1 and len(list((workplace / "x").iterdir())) == 2


@pytest.mark.parametrize("name", ["../out", "/tmp/hostile-out", "link/out"])
def test_an_archive_cannot_write_outside_its_place(workplace: Path, name: str) -> None:
    path = workplace / "place" / "a.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as packed:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(workplace)
        packed.addfile(link)
        packed.addfile(tarfile.TarInfo(name))
    archive = downloads.Archive(
        "https://host/a.tar.gz", "place/a.tar.gz", hashlib.sha256(path.read_bytes()).hexdigest()
    )
    with pytest.raises(tarfile.TarError):
        downloads.fetch(archive, workplace)
    assert not (workplace / "out").exists() and not Path("/tmp/hostile-out").exists()


@pytest.mark.slow
def test_servers_are_for_this_machine() -> None:
    """Every address in commands and code is 127.0.0.1, but for the proxy of a cluster, which the text introduces."""
    files = [ROOT / "Makefile", ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.rglob("pipeline/**/*.py")]
    open_to_all = [(path.name, line) for path in files for line in path.read_text().splitlines() if "0.0.0.0" in line]
    assert [name for name, _ in open_to_all] == ["studies.md"] and "run_grpc_proxy_server" in open_to_all[0][1]
    assert addresses.HOST == "127.0.0.1"
    served = {name: (ROOT / "pipeline" / "tracking" / name).read_text() for name in ("ui.py", "serve.py", "play.py")}
    assert all('"--host", HOST' in served[name] for name in ("ui.py", "serve.py")) and "host=HOST" in served["play.py"]
