"""One command changes the book's address everywhere, and back."""

import re
import shutil
import subprocess
from urllib.parse import parse_qs, urlsplit

import pytest

import address
import notebooks

ROOT = notebooks.BOOK.parent
# In pieces: this file is among those that are rewritten there and back.
PATH = "/".join(["A-Teacher", "my.course"])
OTHER = f"https://github.com/{PATH}"


@pytest.mark.parametrize("given", [OTHER, f"{OTHER}/", f"{OTHER}.git"])
def test_addresses_of_a_repository_have_one_form(given):
    assert address.normal(given) == OTHER


@pytest.mark.parametrize("wrong", ["github.com/a/b", "https://gitlab.com/a/b", "https://github.com/a", "a/b"])
def test_what_is_no_repository_is_refused(wrong):
    with pytest.raises(ValueError, match="not an address"):
        address.normal(wrong)


@pytest.fixture
def checkout(tmp_path):
    """A copy of what git tracks, as it is now."""
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=True)
    for name in listed.stdout.decode("utf-8").split("\0"):
        if name and (ROOT / name).is_file() and "records" not in name and "weights" not in name:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tmp_path / name)
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    return tmp_path


def test_one_command_changes_every_address_and_back(checkout):
    first = address.read(checkout)
    files = address.tracked(checkout)
    before = {path: path.read_bytes() for path in files}
    changed = address.rewrite(OTHER, "autumn", checkout)
    assert address.read(checkout) == (OTHER, "autumn")
    names = {path.relative_to(checkout).as_posix() for path in changed}
    assert {"_config.yml", "CITATION.cff", "CONTRIBUTING.md", "book/01_plain_cnns.ipynb"} <= names
    colab = f"https://colab.research.google.com/github/{PATH}/blob/autumn/book/01_plain_cnns.ipynb"
    assert colab in (checkout / "README.md").read_text(encoding="utf-8")
    # No other place, in no other form: neither the whole path, nor the owner's pages.
    path = first[0].removeprefix("https://github.com/")
    owner = path.partition("/")[0]
    old = re.compile(rf"\b{re.escape(path)}(?![/\w])|github\.com/{owner}\b|{owner}\.github\.io")
    for file in files:
        found = old.search(file.read_text(encoding="utf-8"))
        assert found is None, f"{file.relative_to(checkout)}: {found[0]}"
    address.rewrite(*first, checkout)
    assert {path: path.read_bytes() for path in files} == before


def test_an_address_that_contains_the_old_one_is_written_once(checkout):
    repository, branch = address.read(checkout)
    address.rewrite(f"{repository}-2027", branch, checkout)
    assert address.read(checkout) == (f"{repository}-2027", branch)
    text = (checkout / "CITATION.cff").read_text(encoding="utf-8")
    assert f"repository-code: {repository}-2027\n" in text


def test_the_command_line(capsys):
    assert address.main([]) == 0
    assert address.read()[0] in capsys.readouterr().out
    assert address.main(["https://example.org"]) == 1
    assert "not an address" in capsys.readouterr().err


def test_links_for_a_jupyterhub(capsys):
    assert address.main(["--hub", "https://hub.example.org/"]) == 0
    links = capsys.readouterr().out.split()
    assert len(links) == len(notebooks.paths())
    repository, branch = address.read()
    for link, path in zip(links, notebooks.paths(), strict=True):
        parts = urlsplit(link)
        assert (parts.netloc, parts.path) == ("hub.example.org", "/hub/user-redirect/git-pull")
        folder = repository.rpartition("/")[2]
        assert parse_qs(parts.query) == {
            "repo": [repository],
            "branch": [branch],
            "urlpath": [f"lab/tree/{folder}/book/{path.name}"],
        }
    assert address.main(["--hub", "hub.example.org"]) == 1
    assert "not an address of a hub" in capsys.readouterr().err
