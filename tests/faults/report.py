"""What came of the faults: one line for each kind."""

from dataclasses import dataclass, field


@dataclass
class Trial:
    """One attempt: faults of one kind, done one after another to the same stage, and what was wrong afterwards.

    kind: the line of the table; about: to what it was done, for the line that tells of it.
    tried: how many faults took place. differing, lost: files that differ, and their bytes.
    slowest: the most seconds from a signal to the end of the process.
    """

    kind: str
    about: str = ""
    tried: int = 0
    problems: list[str] = field(default_factory=list)
    differing: int = 0
    lost: int = 0
    slowest: float = 0.0

    def differ(self, found: list[tuple[str, int]], when: str) -> None:
        """Take in the files that differ at some point."""
        if found:
            self.differing += len(found)
            self.lost += sum(lost for _, lost in found)
            names = ", ".join(name for name, _ in found[:4])
            self.problems.append(f"{len(found)} files differ {when}: {names}")


HEAD = ("fault", "tried", "survived", "differing files", "bytes lost", "slowest exit")


def table(trials: list[Trial]) -> str:
    """One line a kind, in order of appearance, and their sum; an attempt with a problem survived none of its faults."""
    kinds = list(dict.fromkeys(trial.kind for trial in trials))
    rows = [HEAD, *(_row(kind, [t for t in trials if t.kind == kind]) for kind in kinds), _row("all", trials)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = [f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in rows]
    return "\n".join([lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]])


def _row(kind: str, trials: list[Trial]) -> tuple[str, ...]:
    tried = sum(trial.tried for trial in trials)
    survived = sum(trial.tried for trial in trials if not trial.problems)
    slowest = max((trial.slowest for trial in trials), default=0.0)
    numbers = tried, survived, sum(trial.differing for trial in trials), sum(trial.lost for trial in trials)
    return kind, *map(str, numbers), f"{slowest:.1f} s" if slowest else "-"
