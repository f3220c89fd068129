"""Formulas as MathML, made when the site is built: they show without a script, and offline.

Notebooks keep their ``$...$``, which Colab and Jupyter draw themselves. The package latex2mathml does the
work; this module puts right what it gets wrong, and warns of what it does not know, so that a strict build
fails instead of showing a wrong formula.
"""

import re
from html import escape
from xml.etree import ElementTree

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.locale import _
from sphinx.util import logging

logger = logging.getLogger(__name__)

# Signs that latex2mathml takes for variables. Only an operator has space around it.
_OPERATORS = "±∓×÷·⋅∘≈≤≥≠∼∝→←⌊⌋⌈⌉"
_CLOSE = "⌊⌋⌈⌉./"  # those around which there is none
_ENVIRONMENTS = {"aligned", "split", "cases", "matrix", "pmatrix", "bmatrix"}
_FUNCTIONS = {"exp", "lim", "ln", "log", "max", "min", "tanh"}


def to_mathml(latex: str, block: bool = False) -> str:
    r"""A formula in LaTeX, without its dollars, as a ``<math>`` element.

    Raises:
        ValueError: if it holds a command or a sign that is not understood.
    """
    if unknown := set(re.findall(r"\\begin\{([^}]*)\}", latex)) - _ENVIRONMENTS:
        raise ValueError(f"formula {latex!r} holds {unknown}, which is not understood")
    # The two mean the same here, and latex2mathml knows one of them.
    known = re.sub(r"\\(begin|end)\{aligned\}", r"\\\1{split}", latex.strip())
    text = convert(known, display="block" if block else "inline")
    try:
        root = ElementTree.fromstring(text.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', ""))
    except ElementTree.ParseError as error:
        raise ValueError(f"formula {latex!r} cannot be shown: {error}") from error
    for element in root.iter():
        if "\\" in (element.text or "") or element.tag == "merror":
            raise ValueError(f"formula {latex!r} holds {element.text!r}, which is not understood")
    _mend(root, script=False)
    return ElementTree.tostring(root, encoding="unicode")


def _mend(parent: ElementTree.Element, script: bool) -> None:
    """Space and align a formula as TeX does; ``script`` is true within an index or an exponent."""
    _join_upright(parent)
    children = list(parent)
    for place, child in enumerate(children):
        text = child.text or ""
        if child.tag == "mi" and text and text in _OPERATORS:
            child.tag = "mo"
            if text in _CLOSE:
                child.set("stretchy", "false")
        if child.tag == "mo" and text == "·":
            child.text = "⋅"  # the operator, and not the full stop in the middle
        if child.tag in ("mi", "mo") and text in _FUNCTIONS and parent.tag in ("mrow", "msqrt", "mtd"):
            child.tag = "mo"
            after = children[place + 1].text if place + 1 < len(children) else "("
            child.set("lspace", "0" if place == 0 or children[place - 1].tag == "mo" else "0.167em")
            child.set("rspace", "0" if after == "(" else "0.167em")
        elif child.tag == "mo" and text and (text in _CLOSE or (script and text in "+−=")):
            child.set("lspace", "0")
            child.set("rspace", "0")
        if parent.tag == "mover" and text == "¯":
            child.text = "‾"  # a bar as wide as the letter
        if child.tag == "mtd" and "columnalign" in child.attrib:  # browsers know the style alone
            child.set("style", f"text-align: {child.attrib.pop('columnalign')}")
        _mend(child, script or (parent.tag in ("msub", "msup", "msubsup") and place > 0))


def _join_upright(parent: ElementTree.Element) -> None:
    r"""Make one word of the letters of ``\mathrm{ReLU}``, which are read out one by one otherwise."""
    letters = [child for child in parent if child.get("mathvariant") == "normal" and child.tag == "mi"]
    if len(letters) > 1 and len(letters) == len(parent):
        word = "".join(letter.text or "" for letter in letters)
        for letter in letters:
            parent.remove(letter)
        ElementTree.SubElement(parent, "mi").text = word  # upright, as it has more than one letter


def _shown(node: nodes.math | nodes.math_block) -> str:
    block = isinstance(node, nodes.math_block)
    try:
        return to_mathml(node.astext(), block)
    except ValueError as error:
        logger.warning("%s", error, location=node)
        return f"<code>{escape(node.astext())}</code>"


def visit_inline(self, node: nodes.math) -> None:
    """Write a formula within a sentence."""
    self.body.append(self.starttag(node, "span", "", CLASS="math notranslate nohighlight"))
    self.body.append(f"{_shown(node)}</span>")
    raise nodes.SkipNode


def visit_block(self, node: nodes.math_block) -> None:
    """Write a formula on a line of its own, with its number if it has one."""
    # By the last class the theme makes what scrolls, on a phone, reachable with the keyboard.
    classes = "math notranslate nohighlight pst-scrollable-table-container"
    self.body.append(self.starttag(node, "div", CLASS=classes))
    if node["number"]:
        self.body.append(f'<span class="eqno">({node["number"]})')
        self.add_permalink_ref(node, _("Link to this equation"))
        self.body.append("</span>")
    self.body.append(f"{_shown(node)}</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Make this the renderer ``mathml`` (``html_math_renderer`` in ``_config.yml``)."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
