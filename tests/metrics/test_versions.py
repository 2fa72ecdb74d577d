"""Which code a metric's and an extractor's version depends on: its own, what that imports, and nothing else."""

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.versions import program_of, version
from pipeline.experiment import code_version
from pipeline.metrics import (
    EXTRACTORS,
    METRICS,
    Comparison,
    Estimate,
    Extractor,
    load_extractor,
    measure,
    metric_versions,
    protocol_of,
    sources_of,
)
from pipeline.metrics.versions import ROOT, sources, sources_of_file, version_of
from pipeline.params import MetricsParams
from tests.metrics.comparisons import comparison
from tests.recipes import tiny_recipe

PACKAGE = ROOT / "pipeline" / "metrics"
FUNCTIONS: dict[str, Callable[..., object]] = {**METRICS, **EXTRACTORS}
CODE, COMMENT = "\nEDITED = 1\n", "\n# edited\n"


def file_of(function: Callable[..., object]) -> Path:
    """Where a function is written, below the package."""
    return Path(function.__code__.co_filename).resolve().relative_to(PACKAGE)


@pytest.fixture
def versions_after(tmp_path: Path) -> Callable[[Callable[[Path], object]], dict[str, str]]:
    """The version of the code of every metric and extractor in a copy of the package that is edited first."""

    def after(edit: Callable[[Path], object]) -> dict[str, str]:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        package = root / "pipeline/metrics"
        shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
        edit(package)
        files = {name: sources_of_file(package / file_of(function), root) for name, function in FUNCTIONS.items()}
        assert all(place.is_relative_to(package) for found in files.values() for place in found)
        return {name: version(program_of(found)) for name, found in files.items()}

    return after


After = Callable[[Callable[[Path], object]], dict[str, str]]


def append(name: str, text: str) -> Callable[[Path], object]:
    return lambda package: (package / name).write_text((package / name).read_text() + text)


def test_a_copy_has_the_versions_of_what_runs(versions_after: After) -> None:
    found = versions_after(lambda package: None)
    assert found == {name: version_of(function) for name, function in FUNCTIONS.items()}
    assert len(set(found.values())) == len(FUNCTIONS) - 1  # fid and fid_infinity stand in one file


def test_comments_and_docstrings_change_no_version(versions_after: After) -> None:
    def edit(package: Path) -> None:
        for path in package.rglob("*.py"):
            text, docstrings = re.subn(r'"""(?=[\w`])', '"""Edited. ', path.read_text())
            assert docstrings
            path.write_text(text + COMMENT)

    assert versions_after(edit) == versions_after(lambda package: None)


FIDS = {"inception", "inception_tf", "inception_clean", "inception_torchmetrics"}
DINOV2 = {"dinov2_vitl14", "dinov2_vitb14", "dinov2_vits14"}
# Which versions change with the code of each file.
USED_BY: dict[str, set[str]] = {
    "kid.py": {"kid"},
    "cmmd.py": {"cmmd"},
    "mind.py": {"mind"},
    "vendi.py": {"vendi"},
    "rarity.py": {"rarity"},
    "authenticity.py": {"authenticity"},
    "floor.py": {"floor"},
    "fid.py": {"fid", "fid_infinity"},
    "prdc.py": {"prdc"},
    "classes.py": {"classes", "class_votes", "modes"},
    "class_votes.py": {"class_votes", "modes"},
    "modes.py": {"modes"},
    "applicable.py": {"cmmd", "modes"},
    "sampling_error.py": {
        "fid",
        "fid_infinity",
        "kid",
        "prdc",
        "rarity",
        "memorisation",
        "authenticity",
        "class_votes",
        "modes",
    },
    "memorisation.py": {"memorisation"},
    "inception_score.py": {"inception_score"},
    "frechet.py": {*METRICS},  # a set of features knows its Gaussian
    "neighbours.py": {*METRICS},  # and its neighbours
    "types.py": {*METRICS},
    "precision.py": {*METRICS, *EXTRACTORS},
    "extractors/base.py": {*EXTRACTORS},
    "extractors/fast.py": {*EXTRACTORS},
    "extractors/weights.py": {*EXTRACTORS},
    "extractors/inception.py": FIDS,
    "extractors/protocols.py": FIDS - {"inception"},
    "extractors/inception_tf.py": {"inception_tf"},
    "extractors/inception_clean.py": {"inception_clean"},
    "extractors/inception_torchmetrics.py": {"inception_torchmetrics"},
    "extractors/efficientnet_lite0.py": {"efficientnet_lite0"},
    "extractors/vit.py": DINOV2 | {"clip_vitl14_336"},
    "extractors/dinov2.py": DINOV2,
    "extractors/dinov2_vitl14.py": {"dinov2_vitl14"},
    "extractors/dinov2_vitb14.py": {"dinov2_vitb14"},
    "extractors/dinov2_vits14.py": {"dinov2_vits14"},
    "extractors/clip_vitl14_336.py": {"clip_vitl14_336"},
    "extractors/__init__.py": set(),
    "registry.py": set(),
    "reference.py": set(),
    "protocol.py": set(),
    "versions.py": set(),
    "further.py": set(),
    "shared.py": set(),
    "gaussian_file.py": set(),
    "npz.py": set(),
    "__init__.py": set(),
    "__main__.py": set(),
}


@pytest.mark.parametrize("edited", sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")))
@pytest.mark.slow
def test_code_changes_the_versions_of_what_uses_it(edited: str, versions_after: After) -> None:
    before, after = versions_after(lambda package: None), versions_after(append(edited, CODE))
    assert {name for name in FUNCTIONS if after[name] != before[name]} == USED_BY[edited]


def test_further_files_change_nothing(versions_after: After) -> None:
    def add(package: Path) -> None:
        (package / "toy.py").write_text("from pipeline.metrics.types import Comparison, Estimate\n\nSIZE = 3\n")
        (package / "extractors/toy.py").write_text("from pipeline.metrics.extractors.base import Extractor\n")
        append("registry.py", "\nfrom pipeline.metrics.toy import SIZE\n")(package)
        append("extractors/__init__.py", "\nfrom pipeline.metrics.extractors.toy import Extractor\n")(package)

    assert versions_after(add) == versions_after(lambda package: None)


def toy_metric(compared: Comparison) -> dict[str, Estimate]:
    return {"toy": Estimate(float(len(compared.generated)))}


def load_toy(params: MetricsParams, device: torch.device) -> Extractor:
    return Extractor("toy", "fd_toy", 3, torch.nn.Identity(), device, {"extractor": "toy"})


def test_another_metric_leaves_protocol_and_versions_alone(
    metrics_params: Callable[..., MetricsParams], monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor = load_extractor(metrics_params(), torch.device("cpu"))
    protocol, versions = protocol_of(extractor), metric_versions(extractor)
    assert versions.keys() == METRICS.keys()
    assert protocol["extractor_version"] == extractor.version == version_of(EXTRACTORS["efficientnet_lite0"])
    assert protocol["distance_version"] == versions["fid"]
    monkeypatch.setitem(METRICS, "toy", toy_metric)
    images = np.random.default_rng(0).normal(size=(9, 3))
    assert measure(comparison(images, images[:7]), ["toy"]).values == {"toy": 7.0}
    assert protocol_of(extractor) == protocol
    added = metric_versions(extractor)
    assert added.pop("toy") not in versions.values() and added == versions
    assert metric_versions(extractor, ["kid"]) == {"kid": versions["kid"]}


def test_another_extractor_leaves_protocol_versions_and_fingerprints_alone(
    metrics_params: Callable[..., MetricsParams], monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen() -> list[object]:
        extractor = load_extractor(metrics_params(), torch.device("cpu"))
        fingerprints = [code_version(tiny_recipe(), name) for name in ("inception", "efficientnet_lite0")]
        return [protocol_of(extractor), metric_versions(extractor), *fingerprints]

    before = seen()
    assert before[-1] != before[-2]
    monkeypatch.setitem(EXTRACTORS, "toy", load_toy)
    assert seen() == before
    toy = load_extractor(metrics_params("toy"), torch.device("cpu"))
    assert toy.version == version_of(load_toy) and toy.version not in before
    assert Path(__file__).resolve() in sources_of("toy")


def test_the_extractor_is_in_every_metrics_version() -> None:
    extractor = load_toy(None, torch.device("cpu"))  # type: ignore[arg-type]
    one, other = (metric_versions(dataclasses.replace(extractor, version=text)) for text in ("a", "b"))
    assert one.keys() == other.keys() == METRICS.keys()
    assert not set(one.values()) & set(other.values())
    assert one["kid"] == version_of(METRICS["kid"], "a")


def test_what_a_file_imports_is_followed(tmp_path: Path) -> None:
    package = tmp_path / "pipeline/metrics"
    written = {
        "own.py": "def f():\n    from pipeline.metrics import b\n    import pipeline.metrics.c, os\n",
        "b.py": "from pipeline.metrics.d.e import x\nfrom pipeline.core.errors import PipelineError\n",
        "c.py": "from pipeline.metrics.own import f\nfrom pipeline.metrics_of_others import g\n",
        "d/__init__.py": "from pipeline.metrics import other\n",
        "d/e.py": "import numpy\n",
        "other.py": "",
        "__init__.py": "from pipeline.metrics import other\n",
    }
    for name, text in written.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    found = sources_of_file(package / "own.py", tmp_path)
    assert [str(path.relative_to(package)) for path in found] == ["b.py", "c.py", "d/e.py", "own.py"]
    (package / "whole.py").write_text("from pipeline.metrics import Name\n")
    found = sources_of_file(package / "whole.py", tmp_path)
    assert [path.name for path in found] == ["__init__.py", "other.py", "whole.py"]  # what the package takes it from


def test_a_metrics_own_file_comes_with_what_it_imports() -> None:
    names = ["frechet.py", "kid.py", "neighbours.py", "precision.py", "sampling_error.py", "types.py"]
    assert [path.name for path in sources(METRICS["kid"])] == names
    names = ["base.py", "fast.py", "inception.py", "weights.py", "precision.py"]
    assert [path.name for path in sources_of("inception")] == names
