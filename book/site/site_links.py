"""Links of the notebooks: absolute in the file, for Colab, and relative on the site.

A notebook that is opened alone, in Colab or from a mail, has no pages beside it. So its links to other pages
are the site's full addresses, and below its title stands a link that opens it in Colab. All of them follow
from ``repository`` in ``_config.yml``. Authors may write ``[chapter 4](04_blocks.ipynb)``: storing a
notebook's outputs (``code/tools/notebooks.py``) writes the address.
"""

import re
from pathlib import Path
from typing import Any

import yaml

BOOK = Path(__file__).resolve().parents[1]
BUTTON = "Open in Colab"
# What stands below the title. Any repository: whoever copies the book has another one.
_BUTTON = re.compile(rf"\n\n\[{BUTTON}\]\(https://colab\.research\.google\.com/[^)\s]*\)(?=\n|$)")
_COLAB = "https://colab.research.google.com/github"
# A link to a page of the book as an author writes it, as a site says it, and to a script, or what it
# printed, in a repository.
_WRITTEN = re.compile(r"\]\(([\w/-]+)\.(ipynb|md|py|txt)(#[^)\s]*)?\)")
_ON_A_SITE = re.compile(r"\]\(https://[^)\s]+/book/([\w/-]+)\.html(#[^)\s]*)?\)")
_IN_A_REPOSITORY = re.compile(
    r"\]\(https://github\.com/[\w.-]+/[\w.-]+/blob/[^)\s]+/book/([\w/-]+\.(?:py|txt))\)"
)


def site_address(repository: str) -> str:
    """Where GitHub Pages serves a repository: ``https://owner.github.io/name/``."""
    owner, _, name = repository.removeprefix("https://github.com/").partition("/")
    return f"https://{owner}.github.io/{name}/" if name else ""


def addresses(repository: str, branch: str) -> dict[str, str]:
    """The addresses that follow from the repository's: of its files, of the site, of notebooks in Colab."""
    path = repository.removeprefix("https://github.com/")
    return {
        "repository": repository,
        "tree": f"{repository}/tree/{branch}",
        "files": f"{repository}/blob/{branch}",
        "colab": f"{_COLAB}/{path}/blob/{branch}/book",
        "site": site_address(repository),
    }


def own_addresses() -> dict[str, str]:
    """This book's :func:`addresses`, from ``_config.yml``."""
    settings: dict[str, Any] = yaml.safe_load((BOOK.parent / "_config.yml").read_text(encoding="utf-8"))
    return addresses(settings["repository"]["url"], settings["repository"]["branch"])


def _page(stem: str) -> str | None:
    """The file of a page of the book, relative to the book's folder."""
    return next((f"{stem}{end}" for end in (".ipynb", ".md") if (BOOK / f"{stem}{end}").is_file()), None)


def absolute(text: str, own: dict[str, str]) -> str:
    """Markdown whose links to the book's pages and scripts are this book's full addresses.

    A link that leads nowhere stays as it is, for a test to find.
    """

    def written(link: re.Match[str]) -> str:
        stem, end, anchor = link[1], link[2], link[3] or ""
        if end in ("py", "txt"):
            return f"]({own['files']}/book/{stem}.{end})" if (BOOK / f"{stem}.{end}").is_file() else link[0]
        return f"]({own['site']}book/{stem}.html{anchor})" if _page(stem) == f"{stem}.{end}" else link[0]

    def on_a_site(link: re.Match[str]) -> str:
        return f"]({own['site']}book/{link[1]}.html{link[2] or ''})" if _page(link[1]) else link[0]

    def in_a_repository(link: re.Match[str]) -> str:
        return f"]({own['files']}/book/{link[1]})" if (BOOK / link[1]).is_file() else link[0]

    text = _WRITTEN.sub(written, text)
    return _IN_A_REPOSITORY.sub(in_a_repository, _ON_A_SITE.sub(on_a_site, text))


def relative(text: str, own: dict[str, str]) -> str:
    """The same links as an author writes them; works on a notebook's JSON, too."""

    def on_a_site(link: re.Match[str]) -> str:
        page = _page(link[1]) if link[0].startswith(f"]({own['site']}book/") else None
        return f"]({page}{link[2] or ''})" if page else link[0]

    def in_a_repository(link: re.Match[str]) -> str:
        ours = link[0].startswith(f"]({own['files']}/book/") and (BOOK / link[1]).is_file()
        return f"]({link[1]})" if ours else link[0]

    return _IN_A_REPOSITORY.sub(in_a_repository, _ON_A_SITE.sub(on_a_site, text))


def without_button(text: str) -> str:
    """A chapter's first cell without the link to Colab."""
    return _BUTTON.sub("", text, count=1)


def with_button(text: str, name: str, own: dict[str, str]) -> str:
    """A chapter's first cell with the link that opens the notebook ``name`` in Colab, below its title."""
    title, _, rest = without_button(text).partition("\n\n")
    return f"{title}\n\n[{BUTTON}]({own['colab']}/{name})\n\n{rest}".rstrip()
