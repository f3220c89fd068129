"""The slides: each figure that they name is there, nothing overflows, and no other host is asked."""

import hashlib
import re

import pytest
from conftest import require

import teaching
from kit import slides
from resnetbook import data

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    try:
        slides.reveal_wheel()
    except ValueError as error:
        require(False, str(error))
    out = tmp_path_factory.mktemp("kit")
    assert teaching.main(["--out", str(out), "--part", "slides", "--no-pdf"]) == 0
    return out / "slides"


PAPERS = ("2_degradation.pdf", "2_degradation-notes.pdf")


def test_a_deck_for_the_argument_and_one_for_each_of_chapters_2_to_5():
    decks = slides.decks()
    assert [deck.name[0] for deck in decks] == ["0", "2", "3", "4", "5"]
    for deck in decks:
        assert deck.minutes == 90
        assert all(slide.minutes >= 2 and len(slide.notes) > 40 for slide in deck.slides)
        assert sum("> **Predict.**" in slide.text for slide in deck.slides) >= 3
        assert any(one.kind == "image" for slide in deck.slides for one in slide.shown)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("![](02#no-such-cell)", "no such code cell or figure"),
        ("![](02#curves/9)", "number 9 is asked for"),
        ("![code NoClass](04#basic-code)", "no definition NoClass"),
        ("![a copy](figure.png)", "not of the form"),
    ],
)
def test_a_slide_that_shows_what_there_is_not_is_refused(tmp_path, reference, message):
    path = tmp_path / "deck.md"
    path.write_text(
        f"---\ntitle: T\nsubtitle: S\nminutes: 2\n---\n## A slide\n\n{reference}\n\nNote (2 min): Ask.\n",
        encoding="utf-8",
    )
    with pytest.raises(ValueError, match=message):
        slides.deck(path)


def test_minutes_add_up(tmp_path):
    path = tmp_path / "deck.md"
    path.write_text(
        "---\ntitle: T\nsubtitle: S\nminutes: 5\n---\n## A slide\n\nWords.\n\nNote (2 min): Ask.\n",
        encoding="utf-8",
    )
    with pytest.raises(ValueError, match="take 2 minutes, and it says 5"):
        slides.deck(path)


# What juts out of the slide, or over the line at its foot; and how large its pictures are.
_LOOK = """() => {
  const slide = Reveal.getCurrentSlide().querySelector('.slide');
  while (Reveal.availableFragments().next) Reveal.nextFragment();
  const frame = slide.getBoundingClientRect(), scale = frame.width / WIDTH, found = [];
  for (const part of slide.querySelectorAll('h1, h2, p, li, table, pre, math, blockquote, img')) {
    if (part.closest('.from')) continue;
    const box = part.getBoundingClientRect();
    const out = box.right > frame.right - 8 * scale || box.bottom > frame.bottom - 40 * scale
      || box.left < frame.left || box.top < frame.top || part.scrollWidth > part.clientWidth + 1
         && part.tagName == 'PRE';
    if (out) found.push(`${part.tagName} ends at ${Math.round(box.right)}, ${Math.round(box.bottom)}`);
    if (['TABLE', 'PRE'].includes(part.tagName) && parseFloat(getComputedStyle(part).fontSize) < 17)
      found.push(`${part.tagName} in type of ${getComputedStyle(part).fontSize}`);
    if (part.tagName == 'IMG') {
      const drawn = Math.min(part.clientWidth / part.naturalWidth, part.clientHeight / part.naturalHeight);
      if (!(drawn * part.naturalHeight >= 240)) found.push(`a picture ${drawn * part.naturalHeight} high`);
    }
  }
  const words = slide.querySelector('.body > .text')?.getBoundingClientRect();
  for (const part of slide.querySelectorAll('.shown > *')) {
    const box = part.getBoundingClientRect();
    if (words && box.left < words.right && box.right > words.left
        && box.top < words.bottom && box.bottom > words.top) found.push('words and what is shown overlap');
  }
  return found;
}""".replace("WIDTH", str(slides.WIDTH))


@pytest.mark.parametrize("name", [path.stem for path in sorted(slides.DECKS.glob("*.md"))])
def test_no_slide_overflows_and_no_other_host_is_asked(folder, browser, name):
    tab = browser.new_page(viewport={"width": slides.WIDTH, "height": slides.HEIGHT})
    asked, errors, problems = [], [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(f"{(folder / name).as_uri()}.html")
    tab.wait_for_function("Reveal.isReady() && [...document.images].every(i => i.complete)")
    count = tab.evaluate("Reveal.getTotalSlides()")
    for number in range(count):
        tab.evaluate(f"Reveal.slide({number})")
        problems += [f"slide {number + 1}: {problem}" for problem in tab.evaluate(_LOOK)]
    tab.close()
    deck = slides.deck(slides.DECKS / f"{name}.md")
    assert count == 1 + len(deck.slides)
    assert not problems, "\n".join(problems)
    assert not errors
    assert [url for url in asked if not url.startswith((folder.as_uri(), "data:", "blob:"))] == []


def test_a_step_of_a_slide_is_a_page_on_paper(folder, browser):
    deck = slides.deck(slides.DECKS / "2_degradation.md")
    slides.print_decks(folder, browser, [deck])
    steps = sum(1 + any(one.later for one in slide.shown) for slide in deck.slides)
    pages = [len(re.findall(rb"/Type\s*/Page\b", (folder / name).read_bytes())) for name in PAPERS]
    assert pages == [1 + steps, 1 + steps + len(deck.slides)]


def test_the_speaker_sees_the_notes(folder, browser):
    tab = browser.new_page()
    tab.goto(f"{(folder / '2_degradation').as_uri()}.html")
    tab.wait_for_function("Reveal.isReady()")
    with tab.expect_popup() as opened:
        tab.keyboard.press("s")
    opened.value.wait_for_function("document.title.includes('Speaker')")
    tab.evaluate("Reveal.slide(2)")
    opened.value.wait_for_selector("text=Count hands for each depth")
    opened.value.close()
    tab.close()


def test_pictures_have_alt_text_and_are_the_notebooks_own(folder):
    for deck in slides.decks():
        page = (folder / f"{deck.name}.html").read_text(encoding="utf-8")
        for tag in re.findall(r"<img [^>]*>", page):
            assert re.search(r'alt="[^"]{20,}"', tag)
        for slide in deck.slides:
            for one in slide.shown:
                assert not one.file or (folder / one.file).read_bytes() == one.content


def test_without_a_network_the_message_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "cache_root", lambda: tmp_path / "cache")
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": "x"}.items():
        monkeypatch.setenv(name, value)
    assert teaching.main(["--out", str(tmp_path / "kit"), "--part", "slides", "--no-pdf"]) == 1
    said = capsys.readouterr().err
    assert "need reveal.js" in said and "bring the file sphinx_revealjs-" in said

    wheel = tmp_path / "cache" / "reveal" / re.search(r"sphinx_revealjs-\S+\.whl", said)[0]
    wheel.write_bytes(b"another file")
    with pytest.raises(ValueError, match="not the file that the book knows"):
        slides.reveal_wheel()
    assert hashlib.sha256(b"another file").hexdigest() not in slides._PINNED.read_text(encoding="utf-8")
