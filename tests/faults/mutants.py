"""Ways to break the pipeline, each of which the suite must find: a text of a file, and what stands there instead."""

from pathlib import Path

MUTANTS: dict[str, tuple[str, str, str]] = {
    "files written in place": (
        "pipeline/core/files.py",
        '        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")\n',
        "        temporary = path\n",
    ),
    "no fsync": (
        "pipeline/core/files.py",
        "            fsync(temporary)\n            os.replace",
        "            os.replace",
    ),
    "checkpoints unchecked": (
        "pipeline/gan/checkpoint.py",
        'if _digest(content) != path.stem.split("-")[2]:',
        "if False:",
    ),
    "optimisers not restored": (
        "pipeline/gan/checkpoint.py",
        "            tensor.copy_(saved[name])",
        '            name.startswith("optimiser") or tensor.copy_(saved[name])',
    ),
    "signals ignored": ("pipeline/stages/train.py", "stopping=world.is_to_stop", "stopping=lambda: False"),
    "points sent under new times": (
        "pipeline/tracking/uploader.py",
        'Metric(e["key"], e["value"], e["time"], e["step"])',
        'Metric(e["key"], e["value"], int(__import__("time").time() * 1000), e["step"])',
    ),
    "errors of MLflow raised": (
        "pipeline/tracking/tracker.py",
        "            warn_once(self._folder",
        "            raise\n            warn_once(self._folder",
    ),
    "checksums unchecked": ("pipeline/core/checksums.py", "if found != known[name]:", "if False:"),
    "pictures not fsynced": ("pipeline/tracking/tracker.py", 'fsync(self._folder / "outbox.jsonl")', "pass"),
    "stores made in place": (
        "pipeline/tracking/mlflow_client.py",
        "    if path.exists():\n        return\n    _import_mlflow",
        "    if True:\n        return\n    _import_mlflow",
    ),
    "refusals of disks raised": ("pipeline/core/files.py", "if error.errno not in full | forbidden:", "if True:"),
    "swapped data unnoticed": ("pipeline/stages/__init__.py", "if not _holds(folder / SUMS, sums)]", "if False]"),
    "the cache unchecked": (
        "pipeline/repository.py",
        "if path.is_file() and _md5(path) == name:",
        "if path.is_file():",
    ),
}


def mutate(name: str, repo: Path) -> None:
    """Break the pipeline in `repo`."""
    file, old, new = MUTANTS[name]
    code = (repo / file).read_text()
    assert code.count(old) == 1, f"{name}: {file} holds {code.count(old)} times {old!r}"
    (repo / file).write_text(code.replace(old, new))
