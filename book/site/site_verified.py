"""Below every page: when the whole book was last verified, and with which versions."""

import datetime
import json
from html import escape
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config

NOTE = Path(__file__).with_name("verified.json")
_NAMES = {"python": "Python", "torch": "PyTorch", "keras": "Keras", "lightning": "Lightning"}


def sentence(note: dict) -> str:
    """What ``code/tools/verified.py`` noted, in words."""
    date = datetime.date.fromisoformat(note["date"])
    versions = ", ".join(f"{_NAMES.get(name, name)} {version}" for name, version in note["versions"].items())
    when = f"{date.day} {date:%B %Y}, at commit {note['commit'][:7]}"
    return f"Last verified as a whole on {when}, with {versions}."


def add_to_footer(app: Sphinx, config: Config) -> None:
    """Write it below the licence (``config-inited``); where nothing is noted, nothing is claimed."""
    footer = config.html_theme_options.get("extra_footer")  # where the licence is; other themes have none
    if footer and NOTE.exists():
        text = sentence(json.loads(NOTE.read_text(encoding="utf-8")))
        config.html_theme_options["extra_footer"] = f'{footer}\n<p class="verified">{escape(text)}</p>'


def setup(app: Sphinx) -> None:
    """Connect it."""
    app.connect("config-inited", add_to_footer)
