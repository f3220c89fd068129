"""The book on paper: the command, on a small book with everything that a page may hold."""

import contextlib
import re

import pytest
from pypdf import PdfReader

import pdf

LINE = "def bottleneck(in_channels: int, out_channels: int, stride: int = 1) -> nn.Module:  # eighty"
PAGE = """<!DOCTYPE html><html lang="en" data-theme="dark"><head><meta charset="utf-8"><title>x</title>
<style>html[data-theme=dark] body {{ background: #000 }} @media print {{ button {{ display: none }} }}</style>
</head><body><nav>the site's menu</nav><article>
<section id="book"><h1>The book<a class="headerlink" href="#book">#</a></h1>
<p>Begin with <a href="book/intro.html#exercise-1-1">the exercise</a>, or with
<a href="#document-book/02_two">chapter 2</a>. <a href="https://example.org/">Elsewhere</a>.</p>
<div class="toctree-wrapper"><p class="caption">The idea</p>
<span id="document-book/01_one"></span><section id="one"><h2>1. One</h2>
<section id="first"><h3>1. First</h3><p id="exercise-1-1">Exercise 1.1: Count.</p>
<div class="highlight"><pre>{line}</pre></div>
<details class="hide"><summary>Code: the figure</summary><pre>plt.plot(secret_of_the_figure)</pre></details>
<details><summary>Solution of exercise 1.1</summary><p>It is forty-two.</p></details></section>
<section id="quiz"><h3>Quiz</h3><p>Why?</p><a href="#quiz">This quiz</a>
<details><summary>Answer to question 1</summary><p>Because.</p></details></section></section>
<span id="document-book/02_two"></span><section id="two"><h2>2. Two</h2>
<section id="quiz"><h3>Quiz</h3><p>And why not?</p>
<div class="lab"><noscript><p>Chapter 2 has the same as a table.</p></noscript><p>Move the slider!</p></div>
<noscript><p>A drawing on paper.</p></noscript></section></section>
</div></section></article></body></html>"""


@pytest.fixture(scope="module")
def book(browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pdf")
    page = folder / "whole.html"
    page.write_text(PAGE.format(line=LINE), encoding="utf-8")
    pdf.print_book(browser, page, folder / "book.pdf")
    return PdfReader(folder / "book.pdf")


def words(page) -> str:
    return " ".join(page.extract_text().split())


def page_of(book: PdfReader, heading: str) -> int:
    """The page, counted from 1, that has a heading; the contents are on page 2."""
    return next(number for number, page in enumerate(book.pages, 1) if number > 2 and heading in words(page))


def test_it_is_tagged_and_has_title_and_language(book):
    assert book.root_object["/MarkInfo"]["/Marked"]
    assert "/StructTreeRoot" in book.root_object
    assert book.root_object["/Lang"] == "en"
    assert book.metadata.title == pdf.TITLE


def test_the_outline_has_every_heading_once_and_in_order(book):
    titles = [str(item["/Title"]) for item in pdf.outline_items(book)]
    assert titles == [
        "Contents",
        "The book",
        "1. One",
        "1. First",
        "Quiz",
        "2. Two",
        "Quiz",
        "Hints, solutions and answers",
        "1. One",
    ]


def test_the_contents_name_the_pages_on_which_the_sections_begin(book):
    contents = words(book.pages[1])
    for heading in ("1. One", "2. Two", "Hints, solutions and answers"):
        assert f"{heading} {page_of(book, heading)}" in contents
    # And every page has its number at its foot.
    for number, page in enumerate(book.pages, 1):
        assert re.search(rf"\b{number}$", words(page)), words(page)


def test_solutions_stand_at_the_end_and_set_up_code_nowhere(book):
    everything = [words(page) for page in book.pages]
    first = everything[page_of(book, "1. First") - 1]
    assert "Solution of exercise 1.1" in first
    assert "forty-two" not in first
    assert "forty-two" in everything[-1]
    assert "Because." in everything[-1]
    assert "secret_of_the_figure" not in " ".join(everything)
    assert "the site's menu" not in " ".join(everything)


def test_what_needs_a_screen_is_replaced_by_what_stands_there_without_scripts(book):
    everything = " ".join(words(page) for page in book.pages)
    assert "Chapter 2 has the same as a table." in everything
    assert "A drawing on paper." in everything
    assert "something stands here that you can operate" in everything
    assert "slider" not in everything


def test_no_line_of_code_is_cut(book):
    assert LINE.replace(" ", "") in "".join("".join(words(page).split()) for page in book.pages)


def test_links_lead_to_places_in_the_book_or_to_other_hosts(book):
    targets = []
    for page in book.pages:
        for annotation in page.get("/Annots", []):
            link = annotation.get_object()
            targets.append(link["/A"].get("/URI", "") if "/A" in link else "inside")
    assert targets.count("https://example.org/") == 1
    assert set(targets) == {"https://example.org/", "inside"}
    # Both chapters have a quiz; each is a place of its own.
    places = [name for name in book.named_destinations if "quiz" in name]
    assert len(places) == 2


def test_paper_is_white(book):
    """The page was dark; nothing paints its background."""
    content = book.pages[2].get_contents().get_data().decode("latin-1")
    assert not re.search(r"^0 0 0 rg\s+[-\d. ]+ re\s+f", content, re.M)


def test_without_a_browser_it_says_what_to_do(monkeypatch, capsys, tmp_path):
    @contextlib.contextmanager
    def none():
        raise ValueError("a PDF needs Chromium or Chrome")
        yield

    monkeypatch.setattr(pdf, "chromium", none)
    assert pdf.main(["--out", str(tmp_path / "book.pdf")]) == 1
    assert capsys.readouterr().err == "pdf: a PDF needs Chromium or Chrome\n"


def test_the_title_page_says_where_it_comes_from():
    lines = "\n".join(pdf.note())
    assert "commit" in lines and "CC BY 4.0" in lines and "https://github.com/" in lines
    assert lines.startswith("As of ")
