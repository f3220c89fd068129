"""The pages in other languages: their words are the glossary's, their numbers ours, their links whole."""

import re

import pytest
from test_claims_pages import read

import notebooks
from resnetbook import blocks, probes, runs

LANGUAGES = ("es", "zh", "ja")
_WORD = re.compile(r"\{word\}`(?P<text>[^<`]+?)\s*<(?P<term>[^>]+)>`")


def glossary(language: str) -> dict[str, str]:
    """What each term is called in a language."""
    found = re.findall(
        rf"^(\S[^\n]*)\n  [^\n]+\n\n  [^\n]*\[([^\]]+)\]\{{\.language-{language}\}}",
        read("book/glossary.md"),
        re.M,
    )
    return {term.lower(): words for term, words in found}


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_are_those_of_the_glossary(language):
    words = [found.groupdict() for found in _WORD.finditer(read(f"book/{language}.md"))]
    assert len(words) >= 15
    known = glossary(language)
    for word in words:
        name = known[word["term"]]
        # Spanish has a plural: each of its words must begin as one of the glossary's does.
        parts = word["text"].split() if language == "es" else [word["text"]]
        for part in parts:
            stem = part[:3] if language == "es" else part
            assert stem.lower() in name.lower(), f"{word['term']} is {name!r}, the page says {word['text']!r}"


def test_all_three_say_the_same():
    """The same terms in the same order, the same figures, records and chapters."""
    texts = {language: read(f"book/{language}.md") for language in LANGUAGES}
    for pattern in (
        r"\{word\}`[^<`]+<([^>]+)>`",
        r"\{mean-accuracy\}`([^`]+)`",
        r"\{chapter-figure\} (\S+ \S+)",
        r"\]\(([^)]+)\)",
        r"(?<!\$)\$([^$\n]+)\$(?!\$)",
    ):
        found = {language: re.findall(pattern, text) for language, text in texts.items()}
        assert sorted(found["zh"]) == sorted(found["ja"]) == sorted(found["es"]), pattern


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_chapter_is_linked(language):
    text = read(f"book/{language}.md")
    listed = text[text.rindex("\n## ") :]
    for path in notebooks.paths():
        number = int(path.name[:2])
        assert re.search(rf"\[{number}\. [^\]]+\]\({re.escape(path.name)}\)", listed), path.name


@pytest.mark.parametrize("language", LANGUAGES)
def test_numbers_are_those_of_the_networks(language):
    two = probes.count_parameters(blocks.conv3x3(256, 256)) * 2
    three = sum(
        probes.count_parameters(layer)
        for layer in (blocks.conv1x1(256, 64), blocks.conv3x3(64, 64), blocks.conv1x1(64, 256))
    )
    text = read(f"book/{language}.md").replace(",", ".").replace("\N{NO-BREAK SPACE}", " ")
    separator = " " if language == "es" else "."
    for number in (two, three):
        assert f"{number:,}".replace(",", separator) in text
    assert f"{two / three:.2f}" in text


def test_the_seeds_and_the_order_of_the_results_are_as_told():
    names = ("degradation-plain-20", "degradation-plain-56", "degradation-residual-56")
    found = [runs.load_seeds(name) for name in names]
    assert [len(records) for records in found] == [5, 5, 5]
    plain_20, plain_56, residual_56 = (runs.mean_std(runs.last(seeds, "test_accuracy"))[0] for seeds in found)
    assert plain_56 < plain_20
    assert plain_56 < residual_56
    losses = [runs.mean_std(runs.last(seeds, "slice_loss"))[0] for seeds in found]
    assert losses[1] > losses[0]
