"""What a result was made with: package versions, platform and git commit."""

import os
import platform
import subprocess
from importlib import metadata

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "mlflow", "dvc", "pandas")
SOURCES = ("pipeline", "params.yaml", "dvc.yaml")  # what decides a result; dvc.lock changes while a stage runs


def provenance() -> dict[str, str]:
    """Versions, platform and commit, by name."""
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "platform": f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} CPUs",
        "git commit": commit(),
    }


def commit() -> str:
    """The commit of the current folder, and which of `SOURCES` have uncommitted changes."""
    head = _git("rev-parse", "--verify", "HEAD")
    if not head:
        return "none (no git, not a repository, or nothing committed)"
    changed = [source for source in SOURCES if _git("status", "--porcelain", "--", source) != ""]
    return f"{head}, with uncommitted changes in {', '.join(changed)}" if changed else head


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _git(*arguments: str) -> str | None:
    """What git prints; None if it fails or is not installed. It only reads, so it is asked to take no lock."""
    command = ["git", "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
