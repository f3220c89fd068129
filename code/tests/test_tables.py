"""Tables: the same rows as HTML and as text, aligned, escaped, and refused where they do not fit."""

import xml.etree.ElementTree as ET

import pytest

from resnetbook.tables import table

ROWS = [
    {"network": "ResNet-18", "parameters": 11_689_512, "accuracy": "0.9438 ± 0.0012", "gain": None},
    {"network": "plain & <small>", "parameters": 272_474, "accuracy": "0.91", "gain": 0.01234},
]


def test_text_has_a_line_for_each_row_and_aligned_columns():
    lines = str(table(ROWS, caption="Two networks")).splitlines()
    assert lines == [
        "Two networks",
        "network          parameters         accuracy     gain",
        "ResNet-18        11,689,512  0.9438 ± 0.0012        –",
        "plain & <small>     272,474             0.91  0.01234",
    ]


def test_html_is_a_table_with_headings_and_a_caption_that_says_the_same():
    tree = ET.fromstring(table(ROWS, caption="Two networks")._repr_html_())
    assert tree.tag == "table" and tree.findtext("caption") == "Two networks"
    headings = tree.findall("thead/tr/th")
    assert [h.text for h in headings] == list(ROWS[0]) and {h.get("scope") for h in headings} == {"col"}
    rows = tree.findall("tbody/tr")
    assert [[cell.text for cell in row] for row in rows] == [
        ["ResNet-18", "11,689,512", "0.9438 ± 0.0012", "–"],
        ["plain & <small>", "272,474", "0.91", "0.01234"],
    ]
    assert [row[0].tag for row in rows] == ["th", "th"] and rows[0][0].get("scope") == "row"
    assert ["right" in cell.get("style") for cell in rows[0]] == [False, True, True, True]


def test_columns_choose_and_formats_write():
    shown = table([("a", 0.5, 3), ("b", 0.25, 4)], ["name", "share", "count"], {"share": ".1%"})
    assert str(shown).splitlines()[1] == "a     50.0%      3"


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "at least one row"),
        ([(1, 2)], {}, "need columns"),
        ([(1, 2)], {"columns": ["a"]}, "row 0 has 2 values for 1 columns"),
        ([{"a": 1}, {"b": 1}], {}, "row 1 has the columns"),
        ([{"a": 1}], {"formats": {"b": ","}}, "no column 'b' to format; there are: a"),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows, options, message):
    with pytest.raises(ValueError, match=message):
        table(rows, **options)


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        ("16.94×", True),
        ("+0.0012", True),
        ("−0.4", True),
        ("1,024", True),
        ("0.903 ± 0.003 (5)", True),
        ("3 min", True),
        ("12 ms", True),
        ("3×3, 64", False),
        ("batch 64", False),
        ("option A", False),
    ],
)
def test_what_counts_as_a_number(cell, number):
    style = (
        ET.fromstring(table([("x", cell)], ["name", "value"])._repr_html_()).find("tbody/tr/td").get("style")
    )
    assert ("right" in style) == number
