"""The theme's script, mended where it makes a browser lay out what nobody sees."""

from pathlib import Path

# What can be scrolled is to be reached by keys, so the theme asks each block how wide it is. One in a closed
# fold would be laid out for that question alone: it is asked when its fold is opened.
_MENDED = [
    (
        ".forEach(e=>{e.tabIndex=e.scrollWidth",
        '.forEach(e=>{if(!e.closest("details:not([open])"))e.tabIndex=e.scrollWidth',
    ),
    (
        'window.addEventListener("resize",t),new Mutation',
        'window.addEventListener("resize",t),document.addEventListener("toggle",t,!0),new Mutation',
    ),
]


def spare_folds(site: Path) -> None:
    """Mend the theme's script in a built site. A script that is mended stays as it is.

    Raises:
        ValueError: if the script is in neither form, so that it must have changed.
    """
    path = site / "_static" / "scripts" / "pydata-sphinx-theme.js"
    script = path.read_text(encoding="utf-8")
    for old, new in _MENDED:
        if new not in script and script.count(old) != 1:
            raise ValueError(f"{path.name} does not hold {old!r} once, which this book mends")
        script = script if new in script else script.replace(old, new)
    path.write_text(script, encoding="utf-8")
