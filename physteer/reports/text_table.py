"""Tables as plain text: one way to lay out what a terminal shows."""

from __future__ import annotations

from collections.abc import Sequence

_GAP = "  "

Line = Sequence[str] | str
"""The cells of a row, or one text across all columns."""


def text_table(header: Sequence[str], lines: Sequence[Line], align: str = "", widths: Sequence[int] = ()) -> list[str]:
    """Lay rows out in columns as wide as their widest cell.

    Args:
        header: of each column; all empty for no header line.
        lines: rows with a cell per column, and texts between them.
        align: per column ``<`` or ``>``; columns beyond it are aligned as its last, or left without any.
        widths: least widths of the first columns.

    Returns:
        Lines without spaces at their ends.
    """
    rows = [header, *(line for line in lines if not isinstance(line, str))]
    align = (align or "<").ljust(len(header), (align or "<")[-1])
    least = [*widths, *[0] * (len(header) - len(widths))]
    wide = [max(least[i], *(len(row[i]) for row in rows)) for i in range(len(header))]

    def laid_out(cells: Sequence[str]) -> str:
        padded = (f"{cell:{side}{width}}" for cell, side, width in zip(cells, align, wide, strict=True))
        return _GAP.join(padded).rstrip()

    body = [line if isinstance(line, str) else laid_out(line) for line in lines]
    return [laid_out(header), *body] if any(header) else body
