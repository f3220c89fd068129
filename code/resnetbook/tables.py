"""Rows as a real table: HTML where a page can show it, plain text in a terminal and in tests."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence

# What counts as a number when a column is aligned: a number, perhaps with more behind ±, "to" or a bracket,
# perhaps with a unit. 0.9031 ± 0.0033 (5), +1.2 %, 16.94×, 3 min, and the dash for nothing.
_NUMBER = re.compile(r"[-+−]?\d[\d,.]*( ?(±|to|\() ?[-+−]?\d[\d,.]*\)?)*( ?(×|%|px|ms|s|min|h|k|M|G))?|–")
_MISSING = "–"


class Table:
    """A table that a notebook shows as HTML and a terminal as text; made by :func:`table`."""

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> None:
        self.columns = list(columns)
        self.rows = [list(row) for row in rows]
        self.caption = caption
        self._right = [
            all(_NUMBER.fullmatch(row[i]) for row in self.rows) and any(row[i] for row in self.rows)
            for i in range(len(self.columns))
        ]

    def _repr_html_(self) -> str:
        # Alignment stands in the cells: Colab and GitHub drop style sheets, the site adds its own.
        def cell(tag: str, text: str, i: int, scope: str = "") -> str:
            align = "right" if self._right[i] else "left"
            return f'<{tag}{scope} style="text-align: {align}">{html.escape(text)}</{tag}>'

        head = "".join(cell("th", text, i, ' scope="col"') for i, text in enumerate(self.columns))
        lines = ['<table class="rows">']
        if self.caption:
            lines.append(f"<caption>{html.escape(self.caption)}</caption>")
        lines += [f"<thead><tr>{head}</tr></thead>", "<tbody>"]
        for row in self.rows:
            first = cell("th", row[0], 0, ' scope="row"')
            rest = "".join(cell("td", text, i) for i, text in enumerate(row[1:], start=1))
            lines.append(f"<tr>{first}{rest}</tr>")
        lines += ["</tbody>", "</table>"]
        return "\n".join(lines)

    def __str__(self) -> str:
        widths = [max(len(row[i]) for row in [self.columns, *self.rows]) for i in range(len(self.columns))]

        def line(cells: Sequence[str]) -> str:
            placed = (
                text.rjust(width) if right else text.ljust(width)
                for text, width, right in zip(cells, widths, self._right, strict=True)
            )
            return "  ".join(placed).rstrip()

        lines = [self.caption] if self.caption else []
        return "\n".join([*lines, line(self.columns), *map(line, self.rows)])

    __repr__ = __str__


def table(
    rows: Sequence[Mapping[str, object] | Sequence[object]],
    columns: Sequence[str] | None = None,
    formats: Mapping[str, str] | None = None,
    caption: str = "",
) -> Table:
    """Show rows as a table; the last line of a notebook's cell, or an argument of ``display``.

    Numbers stand on the right of their column, words on the left, and what is ``None`` is a dash.

    Args:
        rows: one mapping from column to value for each row, or one sequence of values.
        columns: the headings in their order; default: the keys of the first row.
        formats: how the numbers of a column are written, such as ``{"loss": ".3f", "MACs": ","}``;
            default: whole numbers with commas, others with four digits. Text is taken as it is.
        caption: one line that says what is shown.

    Raises:
        ValueError: if there are no rows, a row has other columns, or a format names no column.
    """
    if not rows:
        raise ValueError("a table needs at least one row")
    if columns is None:
        if not isinstance(rows[0], Mapping):
            raise ValueError("rows without names need columns=[…]")
        columns = list(rows[0])
    formats = formats or {}
    for name in formats:
        if name not in columns:
            raise ValueError(f"no column {name!r} to format; there are: {', '.join(columns)}")
    cells = []
    for number, row in enumerate(rows):
        if isinstance(row, Mapping):
            if set(row) != set(columns):
                raise ValueError(f"row {number} has the columns {list(row)}, the table has {list(columns)}")
            row = [row[name] for name in columns]
        if len(row) != len(columns):
            raise ValueError(f"row {number} has {len(row)} values for {len(columns)} columns")
        cells.append([_text(value, formats.get(name)) for name, value in zip(columns, row, strict=True)])
    return Table(columns, cells, caption)


def _text(value: object, how: str | None) -> str:
    if value is None:
        return _MISSING
    if isinstance(value, str | bool):
        return str(value)
    if how is None:
        how = "," if isinstance(value, int) else ".4g" if isinstance(value, float) else ""
    return format(value, how)
