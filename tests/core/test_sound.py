"""Findings that are kept: a change of any fact makes another digest, and a lost or torn file forgets them."""

from pathlib import Path

import pytest

from pipeline.core import sound


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)


def test_a_digest_changes_with_every_fact() -> None:
    facts = [{"a": 1, "b": [2]}, None, [(Path("x"), (1, 2))]]
    assert sound.digest_of(*facts) == sound.digest_of({"b": [2], "a": 1}, *facts[1:])
    others = [[{"a": 1, "b": [3]}, *facts[1:]], [facts[0], 0, facts[2]], [*facts[:2], [(Path("x"), (1, 3))]], facts[:2]]
    assert len({sound.digest_of(*other) for other in [facts, *others]}) == 5


def test_the_last_findings_are_kept() -> None:
    for number in range(sound.KEPT + 1):
        sound.remember(str(number))
    assert not sound.is_known("0") and sound.is_known("1") and sound.is_known(str(sound.KEPT))
    sound.remember("1")  # the newest again
    sound.remember("new")
    assert sound.is_known("1") and not sound.is_known("2")


@pytest.mark.parametrize("content", ["", "[1", "{}", "null"])
def test_a_torn_file_knows_nothing_and_is_written_anew(content: str) -> None:
    path = Path(".work/sound.json")
    path.parent.mkdir()
    path.write_text(content)
    assert not sound.is_known("a")
    sound.remember("a")
    assert sound.is_known("a")


def test_where_nothing_can_be_written_nothing_is_known() -> None:
    Path(".work").write_text("in the way")
    sound.remember("a")
    assert not sound.is_known("a")


def test_a_stamp_tells_files_apart(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert sound.stamp(path) == ()
    path.write_text("a")
    first = sound.stamp(path)
    path.write_text("ab")
    assert () != first != sound.stamp(path)


def test_the_installation_is_this_code_and_the_packages_beside_it() -> None:
    code, version, *packages = sound.installation()
    assert len(str(code)) == 64 and "3." in str(version)
    assert any(str(path).endswith("-packages") and len(stamp) == 3 for path, stamp in packages)  # type: ignore[misc]
