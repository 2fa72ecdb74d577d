"""Tables of plain text."""

from collections.abc import Sequence


def table(rows: Sequence[Sequence[object]]) -> str:
    """Rows of text and numbers under their first as its headings: numbers to the right, with commas.

    A float has one decimal.
    """
    texts = [[_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    right = [any(isinstance(cell, int | float) for cell in column[1:]) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(t.rjust(w) if r else t.ljust(w) for t, w, r in zip(row, widths, right, strict=True)) for row in texts
    )
    return "\n".join(line.rstrip() for line in lines)


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:,.1f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
