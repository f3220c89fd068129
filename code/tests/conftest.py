"""What several tests need, and how the tests are shared out among processes."""

import os

# One of several test processes has one core, and so have the programs that it starts: more threads than cores
# only wait for each other. PyTorch reads this once, when it is loaded.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
import nbformat
import pytest
import torch
from torch import nn

from resnetbook import checks, data, runs

# The authors' tools and the site's extension are tested, but not installed with the package.
sys.path.append(str(Path(__file__).resolve().parents[1] / "tools"))
sys.path.append(str(Path(__file__).resolve().parents[2] / "book" / "site"))

import notebooks
import publish

matplotlib.use("Agg")

# A process takes about 1 GB, and a container may show the cores of a machine that it may not use.
MOST_PROCESSES = 8


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Without pytest-xdist everything runs in one process, and the settings' options for it mean nothing."""
    if not pluginmanager.hasplugin("xdist"):
        for option in ("--numprocesses", "--dist"):
            parser.addoption(option, help="ignored without pytest-xdist")
        parser.addoption("--no-loadscope-reorder", action="store_true", help="ignored without pytest-xdist")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """As many as cores that this process may use; xdist would halve them where cores have two threads."""
    asked = os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(asked) if asked else min(usable, MOST_PROCESSES)


# What takes long and shares nothing, so that any process may take one.
ALONE = "test_it_gives_the_committed_outputs_and_bears_being_run_again_in_any_order["


def unit(nodeid: str) -> str:
    """What one process runs without a break: a file, for its fixtures' sake, or a test by itself."""
    file, _, test = nodeid.partition("::")
    return nodeid if test.startswith(ALONE) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Hand out one :func:`unit` after the other, unless ``--dist`` says else."""
    from xdist.scheduler import LoadScopeScheduling

    class Units(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit(nodeid)

    return Units(config, log) if config.getvalue("dist") == "loadscope" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Among several processes units with slow tests begin first: none ends alone with a long one."""
    if hasattr(config, "workerinput"):
        slow = {unit(item.nodeid) for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: unit(item.nodeid) not in slow)


def require(condition: bool, reason: str) -> None:
    """Skip unless the condition holds; with ``RESNETBOOK_STRICT=1``, as in CI, fail instead."""
    if not condition:
        if os.environ.get("RESNETBOOK_STRICT") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def dataset() -> data.FashionMNIST:
    """The real data."""
    try:
        return data.fashion_mnist()
    except data.DataError as error:
        require(False, f"no Fashion-MNIST: {error}")


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """Chromium, driven by Playwright: one for all tests of a process, which may not start a second one."""
    try:
        with publish.chromium() as found:
            yield found
    except (ImportError, ValueError) as error:
        require(False, str(error))


@pytest.fixture
def toy(monkeypatch) -> data.FashionMNIST:
    """Noise in place of the data, 120 and 40 images of 28×28, wherever the package asks for it."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (160, 1, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (160,), generator=generator)
    loaded = data.FashionMNIST(images[:120], labels[:120], images[120:], labels[120:])
    monkeypatch.setattr(data, "fashion_mnist", lambda root=None, download=True: loaded)
    return loaded


@pytest.fixture
def few() -> tuple[torch.Tensor, torch.Tensor]:
    """70 tiny images of noise, uint8 (70, 1, 8, 8), and labels of 10 classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (70, 1, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (70,), generator=generator)
    return images, labels


# What this machine has: a test for the others is not collected, so that none is skipped.
DEVICES = ["cpu"]
DEVICES += ["cuda"] if torch.cuda.is_available() else []
DEVICES += ["mps"] if torch.backends.mps.is_available() else []


def passes(check: Callable, solution: object, capsys: pytest.CaptureFixture) -> None:
    """A check says that a right solution is right."""
    check(solution)
    assert capsys.readouterr().out.startswith("Right")


def fails(
    check: Callable, solution: object, message: str, capsys: pytest.CaptureFixture | None = None
) -> None:
    """A check names the mistake; with ``capsys``, it also says "Right" of nothing."""
    with pytest.raises(checks.CheckFailed, match=message):
        check(solution)
    if capsys is not None:
        assert "Right" not in capsys.readouterr().out


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For tiny tensors: several threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def page_text(chapter: str) -> str:
    """What a reader may read of a chapter or page, in one line: prose, what cells print, alt texts.

    Args:
        chapter: ``"06"`` for the notebook of that number, else the name of a page such as ``"glossary"``.
    """
    if not chapter.isdecimal():
        return " ".join((notebooks.BOOK / f"{chapter}.md").read_text(encoding="utf-8").split())
    (path,) = notebooks.paths([chapter])
    notebook = nbformat.read(path, as_version=4)
    parts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    parts += notebooks.text_outputs(notebook)
    parts += [str(cell.metadata.get("mystnb", "")) for cell in notebook.cells]
    return " ".join(" ".join(parts).split())


def stir_norms(model: nn.Module) -> nn.Module:
    """Give batch norms weights and statistics that are no identities, behind which a mistake could hide."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 1.5)
    return model


def claim(chapter: str, words: str, holds: bool = True) -> None:
    """The page says these words, and what they say is so.

    Args:
        chapter: as for :func:`page_text`.
        words: quoted from the page; line breaks and runs of spaces do not count.
        holds: what the words say, computed from records or from a trusted source.
    """
    assert " ".join(words.split()) in page_text(chapter), f"{chapter} does not say: {words}"
    assert holds, f"{chapter} says, and it is not so: {words}"


def last_of_seeds(experiment: str, key: str) -> list[float]:
    """A value of the record, or of its last epoch, for every recorded seed."""
    return runs.last(runs.load_seeds(experiment), key)
