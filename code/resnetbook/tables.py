"""Rows as a real table: HTML where a page can show it, plain text in a terminal and in tests."""

from __future__ import annotations

import html
import math
import numbers
import re
import statistics
from collections.abc import Mapping, Sequence

from resnetbook import compare

# What counts as a number when a column is aligned: a number, perhaps with more behind ±, ×, "to" or a
# bracket, perhaps with a unit. 0.9031 ± 0.0033 (5), 64×7×7, +1.2 %, 2e-04, 16.94×, 3 min; and the dash.
_ONE = r"[-+−]?(\d[\d,.]*(e[-+]?\d+)?|inf)"
_NUMBER = re.compile(rf"{_ONE}( ?(±|×|to|\() ?{_ONE}\)?)*( ?(×|%|px|ms|s|min|h|k|M|G))?|–")
_MISSING = "–"


class Table:
    """A table that a notebook shows as HTML and a terminal as text; made by :func:`table`."""

    def __init__(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        caption: str = "",
        groups: Sequence[str] | None = None,
        highlight: int | None = None,
    ) -> None:
        self.columns = list(columns)
        self.rows = [list(row) for row in rows]
        self.caption = caption
        # The heading above a row, where another group begins with it.
        above = [None, *groups][:-1] if groups else []
        self._headings = [new if new != old else None for old, new in zip(above, groups or [], strict=True)]
        self._headings = self._headings or [None] * len(self.rows)
        self._grouped = bool(groups)
        self._bold = None if highlight is None else range(len(self.rows))[highlight]
        self._right = [
            all(_NUMBER.fullmatch(row[i]) for row in self.rows) and any(row[i] for row in self.rows)
            for i in range(len(self.columns))
        ]

    def _repr_html_(self) -> str:
        # Alignment stands in the cells: Colab and GitHub drop style sheets, the site adds its own.
        def cell(tag: str, text: str, i: int, scope: str = "", style: str = "") -> str:
            align = "right" if self._right[i] else "left"
            if self._right[i] and tag == "td":  # on a phone, 0.9031 ± 0.0033 (5) breaks in one place only
                text = re.sub(r"(?<!±)(?<!to) ", "\N{NO-BREAK SPACE}", text)
            return f'<{tag}{scope} style="text-align: {align}{style}">{html.escape(text)}</{tag}>'

        head = "".join(cell("th", text, i, ' scope="col"') for i, text in enumerate(self.columns))
        lines = ['<table class="rows">']
        if self.caption:
            lines.append(f"<caption>{html.escape(self.caption)}</caption>")
        lines += [f"<thead><tr>{head}</tr></thead>", "<tbody>"]
        for number, (row, heading) in enumerate(zip(self.rows, self._headings, strict=True)):
            if heading is not None:
                lines += ["</tbody>", "<tbody>"] if number else []
                across = f'scope="rowgroup" colspan="{len(row)}" style="text-align: left; font-weight: bold"'
                lines.append(f"<tr><th {across}>{html.escape(heading)}</th></tr>")
            style = "; font-weight: bold" if number == self._bold else ""
            first = cell("th", row[0], 0, ' scope="row"', style)
            rest = "".join(cell("td", text, i, "", style) for i, text in enumerate(row[1:], start=1))
            lines.append(f"<tr>{first}{rest}</tr>")
        lines += ["</tbody>", "</table>"]
        return "\n".join(lines)

    def __str__(self) -> str:
        indent = "  " * self._grouped
        rows = [[indent + row[0], *row[1:]] for row in self.rows]
        widths = [max(len(row[i]) for row in [self.columns, *rows]) for i in range(len(self.columns))]

        def line(cells: Sequence[str]) -> str:
            placed = (
                text.rjust(width) if right else text.ljust(width)
                for text, width, right in zip(cells, widths, self._right, strict=True)
            )
            return "  ".join(placed).rstrip()

        lines = [self.caption] if self.caption else []
        lines.append(line(self.columns))
        for row, heading in zip(rows, self._headings, strict=True):
            lines += [line(row)] if heading is None else [heading, line(row)]
        return "\n".join(lines)

    __repr__ = __str__


def table(
    rows: Sequence[Mapping[str, object] | Sequence[object]],
    columns: Sequence[str] | None = None,
    formats: Mapping[str, str] | None = None,
    caption: str = "",
    group: str | None = None,
    highlight: int | None = None,
) -> Table:
    """Show rows as a table; the last line of a notebook's cell, or an argument of ``display``.

    Numbers stand on the right of their column, words on the left, and what is ``None`` is a dash.

    Args:
        rows: one mapping from column to value for each row, or one sequence of values.
        columns: the headings in their order; default: the keys of the first row.
        formats: how the numbers of a column are written, such as ``{"loss": ".3f", "MACs": ","}``;
            default: whole numbers with commas, others with four digits. Text is taken as it is.
        caption: one line that says what is shown.
        group: a column that is not shown as one: its words stand as a heading above their rows.
        highlight: the number of a row to print in bold, such as -1 for a total.

    Raises:
        ValueError: if there are no rows, a row has other columns, or a format or the group names no column.
        IndexError: if there is no row to highlight.
    """
    if not rows:
        raise ValueError("a table needs at least one row")
    if columns is None:
        if not isinstance(rows[0], Mapping):
            raise ValueError("rows without names need columns=[…]")
        columns = list(rows[0])
    formats = formats or {}
    for name in [*formats, *([] if group is None else [group])]:
        if name not in columns:
            raise ValueError(f"no column {name!r}; there are: {', '.join(columns)}")
    cells = []
    for number, row in enumerate(rows):
        if isinstance(row, Mapping):
            if set(row) != set(columns):
                raise ValueError(f"row {number} has the columns {list(row)}, the table has {list(columns)}")
            row = [row[name] for name in columns]
        if len(row) != len(columns):
            raise ValueError(f"row {number} has {len(row)} values for {len(columns)} columns")
        cells.append([_text(value, formats.get(name)) for name, value in zip(columns, row, strict=True)])
    groups = None
    if group is not None:
        place = list(columns).index(group)
        columns = [name for name in columns if name != group]
        groups = [row.pop(place) for row in cells]
    return Table(columns, cells, caption, groups, highlight)


def differences(
    found: Mapping[str | tuple[str, str], compare.Difference],
    digits: int = 4,
    caption: str = "",
    holm: bool = False,
) -> Table:
    """A row for each difference: its size, standard error, 95 percent interval, and whether it is clear.

    Args:
        found: the differences by what is said of them; a pair of texts is a heading, and the row below it.
        digits: behind the point.
        caption: one line that says what is compared.
        holm: add a column that says which of them still stand when all are looked at together
            (:func:`resnetbook.compare.holm`).

    Raises:
        ValueError: if there are none.
    """
    stands = compare.holm([each.p_value for each in found.values()])
    rows = []
    for (label, each), stand in zip(found.items(), stands, strict=True):
        heading, label = label if isinstance(label, tuple) else (None, label)
        row = {"group": heading, "compared": label, "difference": f"{each.mean:+.{digits}f}"}
        if math.isinf(each.error):
            row |= {"std. error": None, "95 % interval": None, "verdict": "one seed"}
        else:
            low, high = each.interval
            row["std. error"] = f"{each.error:.{digits}f}"
            row["95 % interval"] = f"{low:+.{digits}f} to {high:+.{digits}f}"
            row["verdict"] = each.verdict
        if holm:
            row["Holm"] = "stands" if stand else None
        rows.append(row)
    if any(row["group"] for row in rows):
        return table(rows, caption=caption, group="group")
    return table([{k: v for k, v in row.items() if k != "group"} for row in rows], caption=caption)


def summary(values: Sequence[float], digits: int = 4) -> str:
    """Mean ± sample standard deviation and, in brackets, the number of values: ``0.9031 ± 0.0033 (5)``.

    A single value has no deviation: ``0.9031 (1)``.

    Raises:
        statistics.StatisticsError: if there are none.
    """
    mean = f"{statistics.fmean(values):.{digits}f}"
    if len(values) > 1:
        mean += f" ± {statistics.stdev(values):.{digits}f}"
    return f"{mean} ({len(values)})"


def duration(seconds: float) -> str:
    """Seconds in a unit that fits, with one digit behind the point: 19.8 s, 72.3 min, 3.4 h, 12.5 ms."""
    if seconds >= 7200:
        return f"{seconds / 3600:,.1f} h"
    if seconds >= 120:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def _text(value: object, how: str | None) -> str:
    if value is None:
        return _MISSING
    if isinstance(value, str | bool):
        return str(value)
    if how is None:
        whole, real = isinstance(value, numbers.Integral), isinstance(value, numbers.Real)
        how = "," if whole else ".4g" if real else ""
    return format(value, how)
