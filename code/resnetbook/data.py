"""Fashion-MNIST, found or fetched, and checked byte by byte.

The data set is Zalando's (Xiao et al. 2017, https://arxiv.org/abs/1708.07747), MIT licence.
"""

import contextlib
import gzip
import hashlib
import os
import queue
import shutil
import struct
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from resnetbook._arguments import is_whole

CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)

# Over the 60,000 training images, pixels scaled to [0, 1]; a test computes both again.
MEAN = 0.2860
STD = 0.3530

# SHA-256 of the uncompressed files: a .gz may be packed differently, its content may not.
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
SHAPES = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

# A mirror is given up when it has sent nothing for so many seconds,
_SILENCE = 15.0
# or, in any stretch of so many seconds, fewer bytes than this: at that rate the data would take hours.
_STRETCH = 30.0
_LEAST = 100_000


class DataError(RuntimeError):
    """A data file is missing or wrong; the message names the file and says what to do."""


@dataclass(frozen=True)
class FashionMNIST:
    """Images are uint8 ``(N, 1, 28, 28)``; labels are int64 ``(N,)``, indices into ``CLASSES``."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def cache_root() -> Path:
    """The folder for data and checkpoints: ``$RESNETBOOK_CACHE``, else ``~/.cache/resnetbook``."""
    return Path(os.path.expanduser(os.environ.get("RESNETBOOK_CACHE") or "~/.cache/resnetbook"))


def fashion_mnist(root: str | Path | None = None, download: bool = True) -> FashionMNIST:
    """Load Fashion-MNIST from the first source that has it.

    With ``root`` only ``root/FashionMNIST/raw`` is read: it is filled if it is empty, and
    refused if what it holds is wrong. Without ``root`` the cache is used likewise. An empty
    folder is filled from this machine if that is possible: from the cache, else from Debian's and
    Ubuntu's package ``dataset-fashion-mnist``. Only then, and if ``download``, the mirrors are asked
    that torchvision knows. One that is silent for 15 seconds, or hardly sends anything, is given up.

    Raises:
        DataError: if a file is wrong, or no source has the data.
    """
    folder = _raw(Path(os.path.expanduser(root)) if root is not None else cache_root())
    missing = [name for name in SHA256 if _find(folder, name) is None]
    if missing:
        _fill(folder, missing, download)
    arrays = {name: _read(_find(folder, name), name) for name in SHA256}
    images = {k: torch.from_numpy(v).unsqueeze(1) for k, v in arrays.items() if "images" in k}
    labels = {k: torch.from_numpy(v.astype(np.int64)) for k, v in arrays.items() if "labels" in k}
    return FashionMNIST(
        images["train-images-idx3-ubyte"],
        labels["train-labels-idx1-ubyte"],
        images["t10k-images-idx3-ubyte"],
        labels["t10k-labels-idx1-ubyte"],
    )


def split(images: Tensor, labels: Tensor, held_out: int = 10_000) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Split training data into (images, labels, held-out images, held-out labels).

    The split is always the same, so that every recipe is chosen on the same images.

    Raises:
        ValueError: if ``held_out`` is not between 1 and one less than the number of images, or there
            are not as many labels as images.
    """
    if len(labels) != len(images):
        raise ValueError(f"{len(images)} images need {len(images)} labels, got {len(labels)}")
    if not is_whole(held_out) or not 1 <= held_out < len(images):
        raise ValueError(f"held_out must be between 1 and {len(images) - 1}, got {held_out!r}")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(2015))
    train, valid = order[held_out:], order[:held_out]
    return images[train], labels[train], images[valid], labels[valid]


def of_classes(images: Tensor, labels: Tensor, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The images of some classes, in their order, with labels from 0 on, as the classes are listed.

    Args:
        images: ``(N, C, H, W)``.
        labels: int64 ``(N,)``, indices into ``CLASSES``.
        classes: such indices, each once.

    Raises:
        ValueError: if a class is named twice, or there is no class of that number.
    """
    if len(set(classes)) != len(classes):
        raise ValueError(f"a class stands twice in {tuple(classes)}")
    for number in classes:
        if not is_whole(number) or not 0 <= number < len(CLASSES):
            raise ValueError(f"there is no class {number!r}; they are 0 to {len(CLASSES) - 1}")
    new = torch.full((len(CLASSES),), -1)
    new[list(classes)] = torch.arange(len(classes))
    chosen = new[labels] >= 0
    return images[chosen], new[labels[chosen]]


def _raw(root: Path) -> Path:
    return root / "FashionMNIST" / "raw"


def _find(folder: Path, name: str) -> Path | None:
    """The file, or its compressed form, whichever the folder has."""
    for path in (folder / name, folder / f"{name}.gz"):
        # lexists: a link that leads nowhere is somebody's, too; reading it says what is wrong.
        if os.path.lexists(path):
            return path
    return None


def _content(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, gzip.zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}. Delete it and try again.") from error


def _size(name: str) -> int:
    """Bytes of the uncompressed file."""
    shape = SHAPES[name]
    return 4 + 4 * len(shape) + int(np.prod(shape))


def _problem(name: str, content: bytes) -> str | None:
    """In words, why ``content`` is not exactly the file ``name`` of Fashion-MNIST; ``None`` if it is."""
    digest = hashlib.sha256(content).hexdigest()
    if digest == SHA256[name]:
        return None
    magic = 0x0800 + len(SHAPES[name])  # IDX format: 0x08 for unsigned bytes, then the number of axes
    size = _size(name)
    other = next((n for n, d in SHA256.items() if d == digest), None)
    if other is not None:
        return f"it holds {other}: the files were swapped"
    if len(content) < size:
        return f"it is cut short: {len(content):,} bytes instead of {size:,}"
    if struct.unpack(">I", content[:4])[0] != magic:
        return f"its magic number is {struct.unpack('>I', content[:4])[0]} instead of {magic}"
    if len(content) > size:
        return f"it is too long: {len(content):,} bytes instead of {size:,}"
    return "its SHA-256 is not that of Fashion-MNIST: some byte has changed"


def _check(path: Path, name: str, content: bytes) -> None:
    if problem := _problem(name, content):
        advice = "Delete it and try again, or name another folder."
        raise DataError(f"{path} is not {name}: {problem}. {advice}")


def _read(path: Path, name: str) -> np.ndarray:
    content = _content(path)
    _check(path, name, content)
    shape = SHAPES[name]
    # A copy, because torch wants memory that may be written to.
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape).copy()


@contextlib.contextmanager
def _folder_aside(folder: Path) -> Iterator[Path]:
    """A temporary folder beside the final one, on the same disk, so that a rename is atomic."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".incoming-", dir=folder))
    except OSError as error:
        raise DataError(
            f"cannot write to {folder}: {error}. Name another folder with root=…, or set RESNETBOOK_CACHE."
        ) from error
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _fill(folder: Path, missing: list[str], download: bool) -> None:
    """Bring the missing files into ``folder``: written aside, checked, then renamed into place.

    Two processes may do so at once: each writes to a folder of its own, and the last rename
    replaces a correct file by the same bytes.
    """
    failures = []
    sources = (_from_cache, _from_debian, _download) if download else (_from_cache, _from_debian)
    if os.path.realpath(folder) == os.path.realpath(_raw(cache_root())):
        sources = sources[1:]
    with _folder_aside(folder) as aside:
        for name in missing:
            for source in sources:
                try:
                    content = source(name, aside)
                    break
                except DataError as error:
                    failures.append(str(error))
            else:
                raise DataError(_nowhere(folder, name, failures, download))
            try:
                finished = aside / name
                finished.write_bytes(content)
                os.replace(finished, folder / name)
            except OSError as error:
                raise DataError(f"cannot write {folder / name}: {error}. Name another folder.") from error


def _download(name: str, aside: Path) -> bytes:
    """Fetch one file from the mirrors that torchvision knows."""
    from torchvision.datasets import FashionMNIST as Torchvision

    failures = []
    for mirror in Torchvision.mirrors:
        address = f"{mirror}{name}.gz"
        try:
            # Packing makes a file smaller, or at worst a little larger.
            content = gzip.decompress(_fetch(address, most=_size(name) + 10_000))
            problem = _problem(name, content)
        except Exception as error:  # any failure of one mirror: try the next
            problem = str(error)
        if problem is None:
            return content
        failures.append(f"{address}: {problem}")
    raise DataError(f"download of {name} failed: {'; '.join(failures)}")


def _fetch(address: str, most: int) -> bytes:
    """What lies at an address, at most so many bytes; whoever is silent, or too slow, is given up.

    The limit that Python's library knows is for one wait. A server that sends a byte now and then, in the
    middle of its answer or before it, never meets that limit; so a thread reads, and this one watches.

    Raises:
        OSError: if nothing came for ``_SILENCE`` seconds, or too little in ``_STRETCH`` seconds, or
            too much in all; or as ``urllib`` does.
    """
    pieces: queue.SimpleQueue = queue.SimpleQueue()
    given_up = threading.Event()

    def read() -> None:
        try:
            # Some servers refuse what Python's library calls itself.
            request = urllib.request.Request(address, headers={"User-Agent": "resnetbook"})
            with urllib.request.urlopen(request, timeout=2 * _SILENCE) as answer:
                pieces.put(int(answer.headers.get("Content-Length") or 0))
                while not given_up.is_set():
                    piece = answer.read1(1 << 16)
                    pieces.put(piece)
                    if not piece:
                        return
        except Exception as error:
            pieces.put(error)

    def next_piece() -> int | bytes:
        try:
            piece = pieces.get(timeout=_SILENCE)
        except queue.Empty:
            raise OSError(f"no answer for {_SILENCE:g} seconds") from None
        if isinstance(piece, Exception):
            raise piece
        return piece

    threading.Thread(target=read, daemon=True).start()
    content = bytearray()
    try:
        with tqdm(total=next_piece() or None, unit="B", unit_scale=True, desc=address.split("/")[-1]) as bar:
            start, before = time.monotonic(), 0
            while piece := next_piece():
                content += piece
                bar.update(len(piece))
                if len(content) > most:
                    raise OSError(f"more than {most:,} bytes")
                if (now := time.monotonic()) - start > _STRETCH:
                    if len(content) - before < _LEAST:
                        raise OSError(f"only {len(content) - before:,} bytes in {_STRETCH:g} seconds")
                    start, before = now, len(content)
    finally:
        given_up.set()
    return bytes(content)


def _from_cache(name: str, aside: Path) -> bytes:
    return _from_folder(_raw(cache_root()), name)


def _from_debian(name: str, aside: Path) -> bytes:
    return _from_folder(DEBIAN_FOLDER, name)


def _from_folder(folder: Path, name: str) -> bytes:
    path = _find(folder, name)
    if path is None:
        raise DataError(f"no {name} in {folder}")
    content = _content(path)
    _check(path, name, content)
    return content


def _nowhere(folder: Path, name: str, failures: list[str], download: bool) -> str:
    tried = "; ".join(dict.fromkeys(failures))
    offline = "" if download else " Allow it with download=True."
    return (
        f"{folder / name} is missing and no source has it ({tried}).{offline} Or put the four files "
        f"of https://github.com/zalandoresearch/fashion-mnist into {folder}, or install the Debian or "
        "Ubuntu package dataset-fashion-mnist."
    )


def picture(name: str) -> Tensor:
    """A photograph that the book brings with it, ``(3, H, W)``, bytes.

    Whose it is, and its licence, stands in ``pictures/LICENSE.txt``.

    Raises:
        ValueError: if there is none of that name; the message lists those that there are.
    """
    folder = Path(__file__).parent / "pictures"
    path = folder / f"{name}.jpg"
    if not path.is_file():
        there = ", ".join(sorted(found.stem for found in folder.glob("*.jpg")))
        raise ValueError(f"no picture {name!r}; there are: {there}")
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
