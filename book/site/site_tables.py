"""Tables of texts, and results as text, as the site's directives write them."""

from collections.abc import Iterable

from docutils import nodes

from resnetbook import runs, tables

Cell = str | list[nodes.Node]


def table(header: Iterable[str], rows: Iterable[Iterable[Cell]], css_class: str = "runs") -> nodes.table:
    """A table of texts or of inline nodes, whose first column holds the rows' headings."""
    header = list(header)
    group = nodes.tgroup("", cols=len(header))
    for number in range(len(header)):
        column = nodes.colspec("", colwidth=1)
        if number == 0:
            column["stub"] = 1
        group += column

    def row(cells: Iterable[Cell]) -> nodes.row:
        entries = []
        for cell in cells:
            inlines = [nodes.Text(cell)] if isinstance(cell, str) else cell
            entries.append(nodes.entry("", nodes.paragraph("", "", *inlines)))
        return nodes.row("", *entries)

    if any(header):
        group += nodes.thead("", row(header))
    group += nodes.tbody("", *map(row, rows))
    return nodes.table("", group, classes=[css_class])


def accuracy_text(records: list[dict], digits: int = 4) -> str:
    """Mean ± sample standard deviation of the test accuracy, or the one value there is."""
    return tables.summary(runs.last(records, "test_accuracy"), digits).rpartition(" (")[0]
