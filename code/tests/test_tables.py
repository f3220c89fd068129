"""Tables: the same rows as HTML and as text, aligned, escaped, and refused where they do not fit."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from resnetbook import compare
from resnetbook.tables import differences, duration, summary, table

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
        ["ResNet-18", "11,689,512", "0.9438\N{NO-BREAK SPACE}± 0.0012", "–"],
        ["plain & <small>", "272,474", "0.91", "0.01234"],
    ]
    assert [row[0].tag for row in rows] == ["th", "th"] and rows[0][0].get("scope") == "row"
    assert ["right" in cell.get("style") for cell in rows[0]] == [False, True, True, True]


def test_columns_choose_and_formats_write():
    shown = table([("a", 0.5, 3), ("b", 0.25, 4)], ["name", "share", "count"], {"share": ".1%"})
    assert str(shown).splitlines()[1] == "a     50.0%      3"


GROUPED = [
    {"kind": "plain", "layers": 20, "loss": 0.151},
    {"kind": "plain", "layers": 56, "loss": 0.464},
    {"kind": "residual", "layers": 56, "loss": 0.116},
]


def test_a_group_stands_as_a_heading_above_its_rows():
    shown = table(GROUPED, group="kind", highlight=-1)
    assert str(shown).splitlines() == [
        "layers   loss",
        "plain",
        "    20  0.151",
        "    56  0.464",
        "residual",
        "    56  0.116",
    ]
    tree = ET.fromstring(shown._repr_html_())
    bodies = tree.findall("tbody")
    assert [[row[0].text for row in body] for body in bodies] == [["plain", "20", "56"], ["residual", "56"]]
    for body in bodies:
        heading = body[0][0]
        assert heading.get("scope") == "rowgroup" and int(heading.get("colspan")) == len(
            tree.find("thead/tr")
        )
    # A row is counted without the headings.
    bold = [["bold" in cell.get("style") for cell in row] for row in tree.findall("tbody/tr")]
    assert bold == [[True], [False, False], [False, False], [True], [True, True]]


def test_one_row_can_stand_out():
    rows = ET.fromstring(table(ROWS, highlight=1)._repr_html_()).findall("tbody/tr")
    assert [{"bold" in cell.get("style") for cell in row} for row in rows] == [{False}, {True}]
    with pytest.raises(IndexError):
        table(ROWS, highlight=2)


def test_numbers_of_numpy_are_written_like_pythons():
    shown = table([(np.int64(12_345), np.float32(0.123456))], ["count", "share"])
    assert str(shown).splitlines()[1].split() == ["12,345", "0.1235"]


def test_differences_have_what_belongs_to_them():
    clear = compare.unpaired_difference([0.90, 0.91, 0.89], [0.95, 0.96, 0.94])
    same = compare.unpaired_difference([0.90, 0.91, 0.89], [0.90, 0.92, 0.89])
    low, high = clear.interval
    lines = [" ".join(line.split()) for line in str(differences({"a → b": clear, "c": same})).splitlines()]
    assert lines[0] == "compared difference std. error 95 % interval verdict"
    assert lines[1] == f"a → b +0.0500 {clear.error:.4f} {low:+.4f} to {high:+.4f} clear"
    assert lines[2].endswith("not clear")
    alone = compare.unpaired_difference([0.9], [0.95])
    shown = str(differences({("test", "a"): clear, ("test", "b"): alone}, digits=2, caption="Two", holm=True))
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert lines[0] == "Two" and lines[2] == "test"
    assert lines[3] == f"a +0.05 {clear.error:.2f} {low:+.2f} to {high:+.2f} clear stands"
    assert lines[4] == "b +0.05 – – one seed –"


def test_holm_takes_back_what_stands_alone():
    barely = compare.Difference(1.0, 0.4, 20)
    assert barely.clear
    many = differences({f"{i}": barely for i in range(9)}, holm=True)
    assert "stands" not in str(many) and "stands" in str(differences({"0": barely}, holm=True))


@pytest.mark.parametrize(
    ("values", "digits", "text"),
    [
        ([0.90, 0.91, 0.92], 4, "0.9100 ± 0.0100 (3)"),
        ([0.90, 0.91, 0.92], 2, "0.91 ± 0.01 (3)"),
        ([0.5], 3, "0.500 (1)"),
    ],
)
def test_a_mean_says_its_spread_and_of_how_many(values, digits, text):
    assert summary(values, digits) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0125, "12.5 ms"), (19.84, "19.8 s"), (90, "90.0 s"), (4338, "72.3 min"), (12_240, "3.4 h")],
)
def test_seconds_come_in_a_unit_that_fits(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "at least one row"),
        ([(1, 2)], {}, "need columns"),
        ([(1, 2)], {"columns": ["a"]}, "row 0 has 2 values for 1 columns"),
        ([{"a": 1}, {"b": 1}], {}, "row 1 has the columns"),
        ([{"a": 1}], {"formats": {"b": ","}}, "no column 'b'; there are: a"),
        ([{"a": 1}], {"group": "c"}, "no column 'c'; there are: a"),
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
        ("2e-04", True),
        ("1.5e+14", True),
        ("inf", True),
        ("64×7×7", True),
        ("212 × 212", True),
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
