"""The commit that a result was made with, also where there is none."""

from pathlib import Path

import pytest

from pipeline.core import provenance
from pipeline.core.provenance import commit


def test_commit_without_a_repository_and_with_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit().startswith("none")
    changed: list[str] = []
    monkeypatch.setattr(
        provenance, "_git", lambda *words: "abc" if words[0] == "rev-parse" else " M x" * (words[-1] in changed)
    )
    assert commit() == "abc"
    changed += ["params.yaml"]
    assert commit() == "abc, with uncommitted changes in params.yaml"
    changed += ["pipeline"]
    assert commit() == "abc, with uncommitted changes in pipeline, params.yaml"
