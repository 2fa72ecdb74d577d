"""The files by which strangers find, install and carry on the project agree with the project."""

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TARGETS = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))


def read(name: str) -> Any:
    return YAML(typ="safe").load((ROOT / name).read_text(encoding="utf-8"))


def test_the_version_is_the_same_everywhere() -> None:
    assert read("CITATION.cff")["version"] == PROJECT["version"]
    assert f"## {PROJECT['version']} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert read("CITATION.cff")["license"] == PROJECT["license"]


def test_the_workflow_runs_what_there_is() -> None:
    jobs = read(".github/workflows/checks.yml")["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert {"make lint", "make quick", ".ci/run", "make docs"} <= set(commands)
    assert {command.split()[1] for command in commands if command.startswith("make ")} <= TARGETS
    assert all("timeout-minutes" in job for job in jobs.values())
    tested = jobs["quick"]["strategy"]["matrix"]["python"]
    assert tested == ["3.11", "3.12", "3.13"] and PROJECT["requires-python"] == f">={tested[0]}"


def test_the_site_has_every_page() -> None:
    def pages(entries: list[Any]) -> set[str]:
        values = [value for entry in entries for value in entry.values()]
        inner = [pages(value) for value in values if isinstance(value, list)]
        return {value for value in values if isinstance(value, str)}.union(*inner)

    there = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} | {path.name for path in ROOT.glob("*.md")}
    assert pages(read("mkdocs.yml")["nav"]) == there


def test_the_container_is_not_root_and_installs_what_make_installs() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    users = re.findall(r"(?m)^USER (\S+)$", text)
    assert users == ["1000"] and text.index("USER 1000") < text.index("ENTRYPOINT")
    assert "pip install --no-cache-dir -r requirements.txt" in text
    entry = re.search(r'ENTRYPOINT \["/home/gan/code/(.*?)"\]', text)
    assert entry and os.access(ROOT / entry[1], os.X_OK)
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {".venv", ".work", "data/raw", "runs"} <= set(ignored)


def test_composed_services_are_reached_from_this_machine_alone_and_hold_no_password() -> None:
    compose = read("compose.yaml")
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 2 and all(port.startswith("127.0.0.1:") for port in ports)
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    given = re.findall(r"(?:PASSWORD: |//gan:)(\S+?)(?:@|\s)", text)
    assert len(given) >= 3 and all(value.startswith("${POSTGRES_PASSWORD:?") for value in given)
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (ROOT / source).exists()
        assert set(service.get("depends_on", [])) <= set(compose["services"])


def test_the_hooks_are_those_of_make_lint() -> None:
    hooks = read(".pre-commit-config.yaml")["repos"][0]["hooks"]
    assert [hook["entry"].split("/")[-1].split()[0] for hook in hooks] == ["ruff", "ruff", "mypy"]
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert container["postCreateCommand"] == "make .venv/installed-dev"
