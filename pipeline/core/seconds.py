"""How long each stage took when it last ran: `python -m pipeline.core.seconds`, which `make run` ends with.

What is said of a stage is about its last process: one that was killed before it ended is not counted.
"""

import os
import time
from pathlib import Path

from pipeline.core import paths
from pipeline.core.errors import exit_cleanly
from pipeline.core.files import read_json, write_json
from pipeline.core.tables import table

BEGAN = time.monotonic()  # of this process, but for the start of Python itself


def note_seconds() -> None:
    """Keep the wall time and the CPU time of the stage that ends; nothing if it was not started by DVC."""
    if stage := os.environ.get("DVC_STAGE"):
        spent = {"ended": time.time(), "seconds": time.monotonic() - BEGAN, "cpu": time.process_time()}
        write_json(_folder() / f"{stage}.json", spent)


@exit_cleanly
def main() -> None:
    """Print a table of all stages in the order in which they ended."""
    spent = {path.stem: read_json(path) for path in _folder().glob("*.json")}
    rows: list[tuple[object, ...]] = [("stage", "seconds", "of which training", "CPU seconds", "ended at")]
    for stage, times in sorted(spent.items(), key=lambda item: item[1]["ended"]):
        ended = time.strftime("%m-%d %H:%M", time.localtime(times["ended"]))
        rows.append((stage, times["seconds"], _training(stage), times["cpu"], ended))
    seconds, cpu = (sum(times[key] for times in spent.values()) for key in ("seconds", "cpu"))
    print(table([*rows, ("sum", float(seconds), "", float(cpu), "")]))


def _training(stage: str) -> float | str:
    """The seconds that the steps of a leg's training took, without imports, checkpoints and measuring."""
    kind, _, leg = stage.partition("@")
    timing = paths.RUNS / leg / "timing.csv"
    if kind != "train" or not timing.is_file():
        return ""
    lines = timing.read_text(encoding="utf-8").splitlines()
    return float(lines[-1].split(",")[2]) if len(lines) > 1 else ""


def _folder() -> Path:
    return paths.root() / ".work" / "seconds"


if __name__ == "__main__":
    main()
