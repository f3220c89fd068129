"""Give the book another address: the one command for whoever forks or publishes it.

``python code/tools/address.py https://github.com/NAME/REPOSITORY`` writes it into ``_config.yml`` and
wherever else it stands, in whatever form: notebooks, README, CITATION.cff, tests. The addresses of the site,
and of the notebooks in Colab and in Binder, follow from it. Without an argument it prints the present ones.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "book" / "site"))

import site_links  # noqa: E402

from resnetbook._command import run_command  # noqa: E402

_GITHUB = re.compile(r"https://github\.com/(?P<path>[\w.-]+/[\w.-]+?)(\.git)?/?")
_CONFIG = re.compile(r"(?m)^repository:\n  url: (?P<url>\S+)\n  branch: (?P<branch>\S+)$")


def read(root: Path = ROOT) -> tuple[str, str]:
    """The repository's address and its branch, as ``_config.yml`` has them.

    Raises:
        ValueError: if they do not stand there.
    """
    found = _CONFIG.search((root / "_config.yml").read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f"{root / '_config.yml'} has no repository with url and branch")
    return found["url"], found["branch"]


def normal(repository: str) -> str:
    """``https://github.com/OWNER/NAME``, without ``.git`` or a slash at the end.

    Raises:
        ValueError: if it is no address of a repository on GitHub.
    """
    found = _GITHUB.fullmatch(repository)
    if found is None:
        raise ValueError(f"not an address of the form https://github.com/NAME/REPOSITORY: {repository}")
    return f"https://github.com/{found['path']}"


def _forms(repository: str, branch: str) -> list[str]:
    """The forms in which the address stands in files, each before what it contains."""
    path = repository.removeprefix("https://github.com/")
    return [
        site_links.site_address(repository),
        f"{repository}/raw/{branch}/",
        f"{repository}/tree/{branch}/",
        f"{repository}/blob/{branch}/",
        f"colab.research.google.com/github/{path}/blob/{branch}/",
        f"mybinder.org/v2/gh/{path}/{branch}",
        repository,
    ]


def tracked(root: Path = ROOT) -> list[Path]:
    """The text files of the checkout; records tell what was, and stay as they are."""
    listed = subprocess.run(["git", "-C", str(root), "grep", "-lIz", ""], capture_output=True, check=True)
    paths = [root / name for name in listed.stdout.decode("utf-8").split("\0") if name]
    return [path for path in paths if "records" not in path.parts]


def rewrite(repository: str, branch: str, root: Path = ROOT) -> list[Path]:
    """Write another address wherever the present one stands; returns the files that changed.

    Raises:
        ValueError: if there is no present address, or the new one is none.
    """
    old, new = read(root), (normal(repository), branch)
    written = dict(zip(_forms(*old), _forms(*new), strict=True))
    # In one pass: what is written is not read again, so that one address may contain the other.
    known = re.compile("|".join(map(re.escape, written)))
    changed = []
    for path in tracked(root):
        before = path.read_bytes().decode("utf-8")
        after = before
        if path == root / "_config.yml":
            after = _CONFIG.sub(f"repository:\n  url: {old[0]}\n  branch: {branch}", after)
        after = known.sub(lambda found: written[found[0]], after)
        if after != before:
            path.write_bytes(after.encode("utf-8"))
            changed.append(path)
    return changed


def hub_link(hub: str, notebook: str, repository: str, branch: str) -> str:
    """A link that opens a notebook on a JupyterHub: it fetches or updates the book there first.

    The hub needs nbgitpuller, and the book's packages; the form is that of nbgitpuller's own generator
    (https://nbgitpuller.readthedocs.io/en/latest/link.html).

    Args:
        hub: the hub's address.
        notebook: the file's name.
        repository: the book's address.
        branch: of the repository.

    Raises:
        ValueError: if the hub's address is none.
    """
    if not re.fullmatch(r"https?://[^\s?#]+", hub):
        raise ValueError(f"not an address of a hub: {hub}")
    folder = repository.rpartition("/")[2]
    query = {"repo": repository, "branch": branch, "urlpath": f"lab/tree/{folder}/book/{notebook}"}
    return f"{hub.rstrip('/')}/hub/user-redirect/git-pull?{urlencode(query)}"


def _run(given: argparse.Namespace) -> None:
    repository, branch = read()
    if given.hub:
        for path in sorted((ROOT / "book").glob("[0-9][0-9]_*.ipynb")):
            print(hub_link(given.hub, path.name, repository, branch))
        return
    if given.repository or given.branch:
        changed = rewrite(given.repository or repository, given.branch or branch)
        for path in changed:
            print(path.relative_to(ROOT).as_posix())
        print(f"{len(changed)} files changed")
        repository, branch = read()
    print(f"{repository}, branch {branch}; the site is {site_links.site_address(repository)}")


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python code/tools/address.py",
        description="Print the addresses of the repository and the site, or write others everywhere.",
    )
    parser.add_argument("repository", nargs="?", help="https://github.com/NAME/REPOSITORY")
    parser.add_argument("--branch", help="that Colab opens (default: the present one)")
    parser.add_argument(
        "--hub", help="print links that open each chapter on this JupyterHub, and change nothing"
    )
    parser.set_defaults(run=_run)
    return run_command("address", parser, argv)


if __name__ == "__main__":
    sys.exit(main())
