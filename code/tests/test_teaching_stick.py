"""The stick: what it holds, and that its commands work with the network cut off."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest

import notebooks
from kit import stick

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory, dataset):
    """A stick with the book's own wheel only: PyTorch's are too large for a test."""
    site = tmp_path_factory.mktemp("site")
    (site / "index.html").write_text("<title>The site</title>", encoding="utf-8")
    out = tmp_path_factory.mktemp("stick")
    stick.make(out, ["02", "04"], wanted=[], site=site)
    return out


def test_what_the_notebooks_import_is_on_the_list():
    everything = stick.packages()
    pinned = (notebooks.BOOK.parent / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert set(everything) - {"jupyterlab"} <= set(pinned)
    names = {line.partition("==")[0] for line in everything}
    assert {"torch", "torchvision", "keras", "d2l", "torchinfo", "ipykernel", "jupyterlab"} <= names
    few = {line.partition("==")[0] for line in stick.packages(["04"])}
    assert "torch" in few and not few & {"d2l", "torchinfo"}


def test_it_holds_what_its_text_says(made):
    words = (made / "README.md").read_text(encoding="utf-8")
    assert not re.search(r"\{\w+\}", words)
    for name in re.findall(r"^- `(\w+)/`", words, re.M):
        assert any((made / name).iterdir()), name
    assert {path.name[:2] for path in (made / "notebooks").iterdir()} == {"02", "04"}
    assert (made / "site" / "index.html").exists()
    (wheel,) = (made / "wheels").iterdir()
    inside = zipfile.ZipFile(wheel).namelist()
    assert any(name.startswith("resnetbook/records/") for name in inside)
    assert any(name.startswith("resnetbook/weights/") for name in inside)
    # Both forms do the same.
    forms = re.findall(r"```(\w+)\n(.*?)```", words, re.S)
    assert [name for name, _ in forms] == ["bash", "bash", "powershell", "powershell"]
    for shared in (
        "-m venv .venv",
        "install --no-index --find-links wheels -r requirements.txt",
        "--offline",
    ):
        assert [shared in text for _, text in forms] == [True, False, True, False]
    assert all("lab notebooks" in forms[i][1] for i in (1, 3))


def test_links_of_its_notebooks_lead_to_the_site_beside_them(made):
    for path in (made / "notebooks").iterdir():
        text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
        targets = [t for t in re.findall(r"\]\(([^)\s]+)\)", text) if not t.startswith(("http", "#"))]
        for target in targets:
            page = target.partition("#")[0]
            stem = page.removeprefix("../site/book/").removesuffix(".html")
            source = any((notebooks.BOOK / f"{stem}{suffix}").exists() for suffix in (".md", ".ipynb"))
            assert (path.parent / page).exists() or (page.startswith("../site/book/") and source), target


def without_network() -> list[str]:
    """How a command begins that has no network, where the system can do that."""
    for attempt in (["unshare", "--net"], ["unshare", "--user", "--map-root-user", "--net"]):
        if (
            shutil.which("unshare")
            and subprocess.run([*attempt, "true"], capture_output=True).returncode == 0
        ):
            return attempt
    return []


def test_the_book_is_installed_and_finds_its_data_with_the_network_cut_off(made, tmp_path):
    cut = without_network()
    settings = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHONPATH"))}
    settings |= {"PIP_CONFIG_FILE": os.devnull, "RESNETBOOK_CACHE": str(made / "data")}
    install = [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", "wheels"]
    # What the book needs is the environment's own; the book itself comes from the stick.
    install += ["--quiet", "--no-deps", "--target", str(tmp_path), "-r", "requirements.txt"]
    subprocess.run([*cut, *install], cwd=made, env=settings, check=True)
    ask = (
        "import resnetbook, resnetbook.__main__ as m, sys; print(resnetbook.__file__); "
        "sys.exit(m.main(['data', '--offline']))"
    )
    done = subprocess.run(
        [*cut, sys.executable, "-c", ask],
        cwd=made,
        env=settings | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    where, said = done.stdout.splitlines()
    assert Path(where).is_relative_to(tmp_path)
    assert said.startswith("Fashion-MNIST is ready")
