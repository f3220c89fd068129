"""The theme's scripts, mended where they make a browser style or lay out a whole page a second time."""

import re
from pathlib import Path

# In the head: "auto" is no theme and has no colours. Once the page is there, a script of the theme puts the
# right one in its place, upon which every element is styled anew.
_FIRST_THEME = re.compile(
    r'(document\.documentElement\.dataset\.theme = )localStorage\.getItem\("theme"\) \|\| "auto";'
)
_CHOICE = (
    '({ light: "light", dark: "dark" })[localStorage.getItem("mode")]'
    ' || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");'
)


def choose_theme(html: str) -> str:
    """A page that has its theme, the chosen one or the system's, before anything is drawn."""
    return _FIRST_THEME.sub(rf"\1{_CHOICE}", html)


# What the theme's script holds, and what stands in its place.
_SCRIPT = [
    # The same value, set again, would style every element anew.
    (
        "document.documentElement.dataset.theme=n,",
        "document.documentElement.dataset.theme!==n&&(document.documentElement.dataset.theme=n),",
    ),
    # Whatever can be scrolled is to be reached by keys. The theme asks each block whether it can and tells
    # it so before it asks the next, also where the block lies in a fold, which is laid out for the question.
    # Here all that can be seen are asked first, and the rest when their fold is opened.
    ('document.querySelectorAll(["pre",', 'Array.from(document.querySelectorAll(["pre",'),
    (
        '.pst-scrollable-table-container"].join(", ")).forEach(e=>{e.tabIndex=e.scrollWidth>e.clientWidth||'
        "e.scrollHeight>e.clientHeight?0:-1})",
        '.pst-scrollable-table-container"].join(", "))).filter(e=>!e.closest("details:not([open])")).map(e=>'
        "[e,e.scrollWidth>e.clientWidth||e.scrollHeight>e.clientHeight?0:-1])"
        ".forEach(([e,n])=>{e.tabIndex!==n&&(e.tabIndex=n)})",
    ),
    (
        'window.addEventListener("resize",t),new Mutation',
        'window.addEventListener("resize",t),document.addEventListener("toggle",t,!0),new Mutation',
    ),
]


def lighten_script(site: Path) -> None:
    """Mend the theme's script in a built site. A script that is mended stays as it is.

    Raises:
        ValueError: if the script is in neither form, so that it must have changed.
    """
    path = site / "_static" / "scripts" / "pydata-sphinx-theme.js"
    script = path.read_text(encoding="utf-8")
    for old, new in _SCRIPT:
        if new not in script and script.count(old) != 1:
            raise ValueError(f"{path.name} does not hold {old!r} once, which this book mends")
        script = script if new in script else script.replace(old, new)
    path.write_text(script, encoding="utf-8")
