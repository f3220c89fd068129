"""Code on the pages, with an element for each word that has a colour of its own, and for no other."""

import re
from pathlib import Path

# A rule of Pygments, as the theme writes it: html[data-theme="light"] .highlight .n { color: #080808 }
_RULE = re.compile(r'html\[data-theme="(\w+)"\] \.highlight(?: \.(\w+))? \{ ([^}]*?);? *\}')
_CODE = re.compile(r'<div class="highlight"><pre>.*?</pre></div>', re.DOTALL)


def plain_tokens(site: Path) -> frozenset[str]:
    """Classes of Pygments that look like the code around them in every theme, such as names.

    Args:
        site: the folder of the built pages.

    Raises:
        ValueError: if the style sheet holds no colours in the form that this book knows.
    """
    css = (site / "_static" / "pygments.css").read_text(encoding="utf-8")
    around: dict[str, str] = {}
    looks: dict[str, list[tuple[str, str]]] = {}
    for theme, token, look in _RULE.findall(css):
        color = re.search(r"(?<![\w-])color: #\w+", look)
        if token:
            looks.setdefault(token, []).append((theme, look))
        elif color:
            around[theme] = color[0]
    if not around or not looks:
        raise ValueError("the style sheet of Pygments has no colours in the form that this book knows")
    return frozenset(
        token for token, found in looks.items() if all(look == around.get(theme) for theme, look in found)
    )


def unwrap(html: str, tokens: frozenset[str]) -> str:
    """A page whose code has no elements for these classes: up to two in five that a phone has to style."""
    if not tokens:
        return html
    wrapped = re.compile(rf'<span class="(?:{"|".join(sorted(tokens))})">([^<]*)</span>')
    return _CODE.sub(lambda code: wrapped.sub(r"\1", code[0]), html)
