"""Make book/site/static/math.woff2, the font of the site's formulas, from STIX Two Math.

    python code/tools/math_font.py STIXTwoMath-Regular.ttf

STIX Two Math is under the SIL Open Font Licence 1.1 (https://github.com/stipub/stixfonts). Kept are Latin and
Greek letters, and the signs that a book like this may use; a test tells if a page uses another one.
"""

import argparse
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

TARGET = Path(__file__).resolve().parents[2] / "book" / "site" / "static" / "math.woff2"
NAME = "Book Math"

SIGNS = [
    *range(0x20, 0x7F),
    *(0xA0, 0xAC, 0xAF, 0xB1, 0xB2, 0xB3, 0xB7, 0xD7, 0xF7),
    *(code for code in range(0x393, 0x3CA) if code != 0x3A2),
    *(0x3D1, 0x3D5, 0x3F5),
    *(code for code in range(0x1D434, 0x1D468) if code != 0x1D455),  # italic Latin letters; their h is 210E
    0x210E,
    *range(0x1D6FC, 0x1D71C),  # italic Greek letters
    *(0x211D, 0x1D53C, 0x2112, 0x1D4A9, 0x2113),
    *map(
        ord,
        "–‖‘’…′‾⁡⁢←→↦⇒∂∇∈∉∏∑−∕∗∘√∝∞∣∥∼≈≠≡≤≥≪≫⊕⊗⊙⊤⋅⋮⋯⋱⌈⌉⌊⌋⟨⟩ˆ˜",
    ),
    *range(0x302, 0x306),  # accents
]


def make(source: Path, target: Path) -> None:
    """Write the subset of the font ``source`` to ``target``, as WOFF2."""
    font = TTFont(source)
    options = subset.Options(hinting=False, layout_features=[], notdef_outline=True)
    options.name_IDs = [0, 1, 2, 4, 5, 6, 13, 14]
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=SIGNS)
    subsetter.subset(font)
    _narrow_roots(font)
    for number, name in ((1, NAME), (4, NAME), (6, NAME.replace(" ", ""))):
        font["name"].setName(name, number, 3, 1, 0x409)
    font.flavor = "woff2"
    font.save(target)


def _narrow_roots(font: TTFont) -> None:
    """Make the larger root signs as wide as the smallest.

    Chromium leaves as much room as the widest needs, behind every root.
    """
    variants = font["MATH"].table.MathVariants
    root = font.getBestCmap()[0x221A]
    construction = variants.VertGlyphConstruction[variants.VertGlyphCoverage.glyphs.index(root)]
    construction.GlyphAssembly = None
    width = font["hmtx"][root][0]
    for name in {record.VariantGlyph for record in construction.MathGlyphVariantRecord} - {root}:
        advance, _ = font["hmtx"][name]
        glyph = font["glyf"][name]
        glyph.coordinates.scale((width / advance, 1))
        glyph.coordinates.toInt()
        glyph.recalcBounds(font["glyf"])
        font["hmtx"][name] = (width, glyph.xMin)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="STIXTwoMath-Regular.ttf")
    make(parser.parse_args().source, TARGET)
