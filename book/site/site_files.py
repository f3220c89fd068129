"""What is written beside the pages: icons, a sitemap, robots.txt and the page for an address that is none."""

import io
import re
from html import escape
from pathlib import Path
from xml.sax.saxutils import escape as xml_escape

from fontTools import subset
from fontTools.ttLib import TTFont

# A rule of Font Awesome that gives icons their sign: .fa-list:before,.fa-list-squares:before{content:"\f03a"}
_ICON_RULE = re.compile(r'((?:\.fa-[\w-]+:+before,?)+)\{content:"\\([0-9a-f]+)"\}')
_SIGN = re.compile(r"[\"']\\([ef][0-9a-f]{3})\b")


def subset_icons(site: Path) -> None:
    """Leave in the icon fonts, and in the theme's style sheet, only the icons that the site shows.

    Raises:
        ValueError: if the theme's style sheet holds no icons, so that it must have changed its form.
    """
    static = site / "_static"
    sheet = static / "styles" / "pydata-sphinx-theme.css"
    names = set()
    for path in [*site.rglob("*.html"), *static.rglob("*.js")]:
        names |= set(re.findall(r"\bfa-([a-z0-9-]+)", path.read_text(encoding="utf-8", errors="replace")))
    signs: set[int] = set()
    css = sheet.read_text(encoding="utf-8")
    if not _ICON_RULE.search(css):
        raise ValueError(f"{sheet.name} has no icons in the form that this book knows")

    def keep(rule: re.Match) -> str:
        used = [name for name in re.findall(r"\.fa-([\w-]+):", rule[1]) if name in names]
        if not used:
            return ""
        signs.add(int(rule[2], 16))
        return ",".join(f".fa-{name}:before" for name in used) + f'{{content:"\\{rule[2]}"}}'

    css = _ICON_RULE.sub(keep, css)
    css = re.sub(r",url\([^)]*fontawesome[^)]*\.ttf\) format\(\"truetype\"\)", "", css)
    sheet.write_text(css, encoding="utf-8")
    # Signs that style sheets name themselves: the theme's, and the book's callouts.
    for path in static.rglob("*.css"):
        text = _ICON_RULE.sub("", path.read_text(encoding="utf-8"))
        signs |= {int(sign, 16) for sign in _SIGN.findall(text)}
    for path in (static / "vendor" / "fontawesome" / "webfonts").iterdir():
        if path.suffix == ".woff2":
            path.write_bytes(_subset(path.read_bytes(), signs))
        else:
            path.unlink()


def _subset(font: bytes, signs: set[int]) -> bytes:
    options = subset.Options(flavor="woff2", hinting=False, layout_features=[], notdef_outline=True)
    opened = TTFont(io.BytesIO(font))
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=signs)
    subsetter.subset(opened)
    opened.flavor = "woff2"
    result = io.BytesIO()
    opened.save(result)
    return result.getvalue()


_UNITS = {"": 1.0, "px": 1.0, "pt": 4 / 3, "in": 96.0}
_IMAGE = re.compile(r'<img (?![^>]*\b(?:width|height)="\d)[^>]*\bsrc="([^"]+\.svg)"[^>]*?(?=\s*/?>)')


def svg_size(text: str) -> tuple[int, int] | None:
    """Width and height in pixels that an SVG asks for, or ``None`` if it does not say."""
    root = re.search(r"<svg\b[^>]*>", text)
    sides = []
    for side in ("width", "height"):
        found = root and re.search(rf'\b{side}="([\d.]+)(px|pt|in|)"', root[0])
        if not found:
            view = root and re.search(r'viewBox="[\d.-]+ [\d.-]+ ([\d.]+) ([\d.]+)"', root[0])
            return (round(float(view[1])), round(float(view[2]))) if view else None
        sides.append(round(float(found[1]) * _UNITS[found[2]]))
    return sides[0], sides[1]


def size_images(html: str, folder: Path) -> str:
    """Tell the browser how large each SVG of a page will be, so that nothing moves once it is there."""

    def sized(image: re.Match) -> str:
        path = folder / image[1]
        size = svg_size(path.read_text(encoding="utf-8")) if path.is_file() else None
        return f'{image[0]} width="{size[0]}" height="{size[1]}"' if size else image[0]

    return _IMAGE.sub(sized, html)


def sitemap(address: str, pages: list[str]) -> str:
    """The sitemap of the pages, given as paths below the site's address."""
    entries = "".join(f"  <url><loc>{xml_escape(address + page)}</loc></url>\n" for page in pages)
    namespace = "http://www.sitemaps.org/schemas/sitemap/0.9"
    return f'<?xml version="1.0" encoding="utf-8"?>\n<urlset xmlns="{namespace}">\n{entries}</urlset>\n'


_NOT_FOUND = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8" />
<meta name="viewport" content="width=device-width, initial-scale=1" />
<meta name="robots" content="noindex" />
<meta name="color-scheme" content="light dark" />
<title>No such page - {title}</title>
<style>
body {{ background: #fff; color: #222; font: 1.1rem/1.6 system-ui, sans-serif; margin: 15vh auto;
  max-width: 34rem; padding: 0 1rem; }}
@media (prefers-color-scheme: dark) {{
  body {{ background: #14181e; color: #ced6dd; }}
  a {{ color: #9cc3ff; }}
}}
</style>
</head>
<body><main>
<h1>There is no such page</h1>
<p>The page has moved, or the address has a slip. You may want
<a href="{root}{home}">the beginning of the book</a> or <a href="{root}search.html">the search</a>.</p>
</main></body>
</html>
"""


def not_found(address: str, title: str, home: str) -> str:
    """The page for an address that is none. It is shown at any depth, so its links begin at the host."""
    root = "/" + address.split("//", 1)[-1].partition("/")[2]
    return _NOT_FOUND.format(title=escape(title), root=root, home=home)
