"""A stick for a room without network: wheels, data, students' notebooks, the site, and exact commands.

The wheels fit the machine, its system and the Python that make the stick, and others like it.
"""

import ast
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import nbformat

import notebooks
from kit import handouts
from publish import build
from resnetbook import data

# What a notebook imports under another name than that of its package.
_PACKAGES = {"PIL": "pillow"}
# What opens the notebooks.
_FRONT_END = ("ipykernel", "jupyterlab")

README = """\
# The ResNet book, without a network

Everything here works offline. It was made for **{system}, Python {python}**, and holds {size} MB:

- `notebooks/`: the chapters with their exercises, without solutions
- `data/`: Fashion-MNIST
- `wheels/`: Python packages for {system} and Python {python} (other systems need a stick of their own)
- `site/`: the book as a website; open `site/index.html`. Its pages show solutions, folded.

Copy this folder to the disk of each machine, open a terminal in the copy, and type what follows once.

## Linux, macOS

```bash
python{python} -m venv .venv
.venv/bin/python -m pip install --no-index --find-links wheels -r requirements.txt
RESNETBOOK_CACHE="$PWD/data" .venv/bin/python -m resnetbook data --offline
```

The last line says that Fashion-MNIST is ready. To work, each time:

```bash
RESNETBOOK_CACHE="$PWD/data" .venv/bin/jupyter lab notebooks
```

## Windows, in PowerShell

```powershell
py -{python} -m venv .venv
.venv\\Scripts\\python -m pip install --no-index --find-links wheels -r requirements.txt
$env:RESNETBOOK_CACHE = "$PWD\\data"; .venv\\Scripts\\python -m resnetbook data --offline
```

To work, each time:

```powershell
$env:RESNETBOOK_CACHE = "$PWD\\data"; .venv\\Scripts\\jupyter lab notebooks
```

If pip says that nothing matches, your system or your Python is not the one that the wheels are for.
"""


def packages(chapters: list[str] | None = None) -> list[str]:
    """What the notebooks of some chapters need besides ``resnetbook``, pinned as in ``requirements.txt``.

    Raises:
        ValueError: if a notebook imports a package that is not pinned there.
    """
    lines = (handouts.ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = {line.partition("==")[0].lower(): line for line in lines if "==" in line and line[0] != "#"}
    settings = tomllib.loads((handouts.ROOT / "code" / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = {re.match(r"[\w-]+", line)[0].lower() for line in settings["project"]["dependencies"]}
    for path in notebooks.paths(chapters):
        wanted |= {_PACKAGES.get(name, name).lower() for name in _imports(path)}
    # matplotlib_inline and IPython come with ipykernel.
    wanted = {name.replace("_", "-") for name in wanted} - {"resnetbook", "matplotlib-inline", "ipython"}
    if lacking := sorted(wanted - set(pins)):
        raise ValueError(f"requirements.txt does not pin what a notebook imports: {', '.join(lacking)}")
    return [pins.get(name, name) for name in sorted(wanted | set(_FRONT_END))]


def _imports(path: Path) -> set[str]:
    """The top packages that a notebook's cells import, without Python's own and those that it writes."""
    found, cells = set(), nbformat.read(path, as_version=4).cells
    written = {name for cell in cells for name in re.findall(r"(\w+)\.py\b", cell.source)}
    for cell in cells:
        if cell.cell_type == "code":
            source = re.sub(r"^(\s*)[%!].*", r"\1pass", cell.source, flags=re.M)
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.partition(".")[0])
    return found - written - sys.stdlib_module_names


def _pip(*arguments: str) -> None:
    """Run pip.

    Raises:
        ValueError: with pip's last line, if it fails.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ValueError(f"pip {arguments[0]} failed: {last}")


def _wheels(folder: Path, wanted: list[str], index: str | None) -> None:
    """The book's own wheel, and those of what it needs."""
    with tempfile.TemporaryDirectory() as copy:
        # setuptools leaves its traces beside what it builds.
        ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__", "tests", "tools")
        shutil.copytree(handouts.ROOT / "code", Path(copy) / "code", ignore=ignored)
        options = ["--quiet", "--no-deps", "--no-build-isolation"]
        _pip("wheel", *options, "--wheel-dir", str(folder), str(Path(copy) / "code"))
    if wanted:
        more = ["--extra-index-url", index] if index else []
        _pip("download", "--quiet", "--only-binary", ":all:", "--dest", str(folder), *more, *wanted)


def make(
    out: Path,
    chapters: list[str] | None = None,
    index: str | None = None,
    wanted: list[str] | None = None,
    site: Path | None = None,
) -> None:
    """Fill the folder of the stick.

    Args:
        out: an empty folder.
        chapters: such as ``["02", "04"]``; default: all.
        index: the address of one more index for pip, such as that of PyTorch's builds for the CPU.
        wanted: requirements in place of what the notebooks need.
        site: a built site to copy; default: it is built.

    Raises:
        ValueError: if pip fails, or the site does not build.
        resnetbook.data.DataError: if there is no Fashion-MNIST to copy.
    """
    wanted = packages(chapters) if wanted is None else wanted
    data.fashion_mnist(out / "data")
    (out / "notebooks").mkdir()
    handouts.write(out / "notebooks", handouts.STUDENT, chapters, site="../site")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(site or build(Path(folder)), out / "site")
    _wheels(out / "wheels", wanted, index)
    (out / "requirements.txt").write_text("\n".join([*wanted, "resnetbook", ""]), encoding="utf-8")
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / 1e6
    text = README.format(
        system=f"{platform.system()} on {platform.machine()}",
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        size=f"{size:,.0f}",
    )
    (out / "README.md").write_text(text, encoding="utf-8")
