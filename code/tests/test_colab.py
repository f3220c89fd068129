"""Installing the helpers in Colab must not move a single package that Colab ships."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

TESTS = Path(__file__).parent
CODE = TESTS.parent
PACKAGE = CODE / "resnetbook"
# A package whose module has another name.
MODULES = {"pillow": "PIL"}


def colab() -> dict[str, str]:
    """Colab's versions by name, ``python`` among them."""
    text = (TESTS / "colab_versions.txt").read_text(encoding="utf-8")
    lines = re.findall(r"^(?:# (?=python==))?([A-Za-z0-9._-]+)==(\S+)$", text, re.M)
    return {canonicalize_name(name): version for name, version in lines}


def moved(project: dict, listed: dict[str, str]) -> list[str]:
    """What pip would have to install or change to satisfy ``[project]`` of a pyproject.toml."""
    problems = []
    python = listed["python"]
    if not SpecifierSet(project.get("requires-python", "")).contains(python, prereleases=True):
        problems.append(f"python {python} is excluded by {project['requires-python']}")
    environment = {"python_version": python.rpartition(".")[0], "python_full_version": python}
    environment |= {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
    for line in project.get("dependencies", []):
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate(environment):
            continue
        version = listed.get(canonicalize_name(requirement.name))
        if requirement.url or requirement.extras:
            problems.append(f"{line}: an address or an extra can bring anything")
        elif version is None:
            problems.append(f"{line}: Colab has no {requirement.name}")
        elif not requirement.specifier.contains(version, prereleases=True):
            problems.append(f"{line}: Colab has {version}")
    return problems


def pyproject() -> dict:
    return tomllib.loads((CODE / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_nothing_moves_in_colab():
    assert moved(pyproject(), colab()) == []


def test_colabs_setuptools_can_build_it_without_a_network():
    # As a word it needs setuptools 77, as a table it is refused from 2027 on.
    assert int(colab()["setuptools"].partition(".")[0]) < 77
    assert "license" not in pyproject() and "license-files" not in pyproject()


def test_the_list_is_the_published_one():
    listed = colab()
    assert (listed["python"], listed["torch"], listed["torchvision"]) == ("3.13.15", "2.11.0", "0.26.0")
    assert (listed["numpy"], listed["matplotlib"]) == ("2.1.3", "3.10.0")
    lines = (TESTS / "colab_versions.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line) for line in pins)
    assert len(listed) == len(pins) + 1  # none twice; Python is a comment


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"dependencies": ["numpy>=2.2"]}, "numpy>=2.2: Colab has 2.1.3"),
        ({"dependencies": ["torch>=2.5", "torch<2.11"]}, "torch<2.11: Colab has 2.11.0"),
        ({"dependencies": ["torch==2.15.0"]}, "torch==2.15.0: Colab has 2.11.0"),
        ({"dependencies": ["matplotlib~=3.11.0"]}, "matplotlib~=3.11.0: Colab has 3.10.0"),
        ({"dependencies": ["numpy!=2.1.3"]}, "numpy!=2.1.3: Colab has 2.1.3"),
        ({"dependencies": ["torchinfo"]}, "torchinfo: Colab has no torchinfo"),
        ({"dependencies": ["d2l==0.17.0"]}, "d2l==0.17.0: Colab has no d2l"),
        ({"dependencies": ["numpy>=9; python_version >= '3.13'"]}, "Colab has 2.1.3"),
        ({"dependencies": ["numpy @ https://example.org/numpy.whl"]}, "an address"),
        ({"dependencies": ["jax[cuda]"]}, "an extra"),
        ({"requires-python": ">=3.14"}, "python 3.13.15 is excluded by >=3.14"),
        ({"requires-python": ">=3.11,<3.13"}, "python 3.13.15 is excluded"),
    ],
)
def test_what_would_move_is_noticed(change, problem):
    (found,) = moved({**pyproject(), **change}, colab())
    assert problem in found


@pytest.mark.parametrize(
    "dependencies",
    [
        [],
        ["Torch>=2.5"],
        ["typing-extensions", "python_dateutil>=2"],  # names are compared as pip compares them
        ["numpy>=9; python_version < '3.12'", "nothing; sys_platform == 'win32'"],
    ],
)
def test_what_would_not_move_is_left_in_peace(dependencies):
    assert moved({**pyproject(), "dependencies": dependencies}, colab()) == []


def imports(tree: ast.Module) -> list[tuple[str, bool]]:
    """``(module, guarded)`` of every import; guarded by ``except ImportError``."""
    found = []

    def visit(node: ast.AST, guarded: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend((alias.name, guarded) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            found.append((node.module, guarded))
            # ``from resnetbook import bench`` imports a module, too.
            found.extend((f"{node.module}.{alias.name}", guarded) for alias in node.names)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return  # for readers and type checkers; never executed
        if isinstance(node, ast.Try):
            caught = {
                name.id for h in node.handlers if h.type for name in ast.walk(h.type) if hasattr(name, "id")
            }
            for child in node.body:
                visit(child, guarded or bool(caught & {"ImportError", "ModuleNotFoundError"}))
            for child in [*node.handlers, *node.orelse, *node.finalbody]:
                visit(child, guarded)
            return
        for child in ast.iter_child_nodes(node):
            visit(child, guarded)

    visit(tree, False)
    return found


def undeclared(source: str, declared: set[str]) -> list[str]:
    """Imports that a machine with the declared dependencies alone may not have."""
    problems = []
    for module, guarded in imports(ast.parse(source)):
        name = module.partition(".")[0]
        if not (name in sys.stdlib_module_names or name in declared | {"resnetbook"} or guarded):
            problems.append(module)
    return problems


def modules_declared() -> set[str]:
    names = {canonicalize_name(Requirement(line).name) for line in pyproject()["dependencies"]}
    return {MODULES.get(name, name) for name in names}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_what_is_imported_is_declared(path):
    assert undeclared(path.read_text(encoding="utf-8"), modules_declared()) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import numpy.linalg\nfrom os import path\nimport resnetbook.data", []),
        ("import pandas", ["pandas"]),
        ("from pandas.core import frame", ["pandas.core", "pandas.core.frame"]),
        ("def f():\n    import pandas as pd", ["pandas"]),
        ("try:\n    import pandas\nexcept ImportError:\n    pandas = None", []),
        ("try:\n    import pandas\nexcept (KeyError, ModuleNotFoundError):\n    pandas = None", []),
        ("try:\n    import pandas\nexcept KeyError:\n    pandas = None", ["pandas"]),
        ("try:\n    pass\nexcept ImportError:\n    import pandas", ["pandas"]),
        ("if TYPE_CHECKING:\n    import pandas", []),
        ("if CHECKING:\n    import pandas", ["pandas"]),
        ("from resnetbook import bench", []),
        ("import notebooks", ["notebooks"]),  # an author's tool, which is not installed
    ],
)
def test_an_undeclared_import_is_noticed(source, found):
    assert undeclared(source, {"numpy"}) == found


def test_every_declared_dependency_is_used():
    used = {
        module.partition(".")[0]
        for path in PACKAGE.rglob("*.py")
        for module, _ in imports(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert modules_declared() - used == set()
