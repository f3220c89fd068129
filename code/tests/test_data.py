"""The data: right bytes, or an error that names the file and says what to do."""

import contextlib
import functools
import gzip
import hashlib
import http.server
import itertools
import os
import re
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import require

from resnetbook import data

NAMES = list(data.SHA256)
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = NAMES


def tiny_files() -> dict[str, bytes]:
    """The four files in miniature: the right format, 6 and 4 images of 3×3."""
    rng = np.random.default_rng(0)
    contents = {}
    for name, count in zip(NAMES, (6, 6, 4, 4), strict=True):
        shape = (count, 3, 3) if "images" in name else (count,)
        header = struct.pack(f">{1 + len(shape)}I", 0x0800 + len(shape), *shape)
        contents[name] = header + rng.integers(0, 10, shape, dtype=np.uint8).tobytes()
    return contents


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A world in which Fashion-MNIST is tiny, Debian has it compressed, and there is no network."""
    contents = tiny_files()
    shapes = {n: (len(c) - 16 and (6 if "train" in n else 4), 3, 3) for n, c in contents.items()}
    shapes = {n: s if "images" in n else s[:1] for n, s in shapes.items()}
    monkeypatch.setattr(data, "SHA256", {n: hashlib.sha256(c).hexdigest() for n, c in contents.items()})
    monkeypatch.setattr(data, "SHAPES", shapes)
    debian = tmp_path / "debian"
    debian.mkdir()
    for name, content in contents.items():
        (debian / f"{name}.gz").write_bytes(gzip.compress(content))
    monkeypatch.setattr(data, "DEBIAN_FOLDER", debian)
    monkeypatch.setenv("RESNETBOOK_CACHE", str(tmp_path / "cache"))

    def no_network(name, aside):
        raise data.DataError(f"download of {name} failed: no route to host")

    monkeypatch.setattr(data, "_download", no_network)
    return contents


def raw(root: Path) -> Path:
    return root / "FashionMNIST" / "raw"


def lay_out(root: Path, contents: dict[str, bytes]) -> Path:
    raw(root).mkdir(parents=True)
    for name, content in contents.items():
        (raw(root) / name).write_bytes(content)
    return root


def test_the_real_data_is_fashion_mnist(dataset):
    assert dataset.train_images.shape == (60_000, 1, 28, 28)
    assert dataset.test_images.shape == (10_000, 1, 28, 28)
    assert dataset.train_images.dtype == torch.uint8 and dataset.train_labels.dtype == torch.int64
    assert torch.bincount(dataset.train_labels).tolist() == [6_000] * 10
    assert torch.bincount(dataset.test_labels).tolist() == [1_000] * 10
    pixels = dataset.train_images.double() / 255
    assert round(pixels.mean().item(), 4) == data.MEAN
    assert round(pixels.std().item(), 4) == data.STD


def test_the_real_data_equals_torchvisions_reading_of_it(dataset, tmp_path):
    from torchvision.datasets.mnist import read_image_file, read_label_file

    for name in (TEST_IMAGES, TEST_LABELS):
        # Where the cache holds it compressed, torchvision could not read it there.
        path = data._find(raw(data.cache_root()), name)
        (tmp_path / name).write_bytes(data._content(path))
    assert torch.equal(read_image_file(str(tmp_path / TEST_IMAGES)).unsqueeze(1), dataset.test_images)
    assert torch.equal(read_label_file(str(tmp_path / TEST_LABELS)), dataset.test_labels)


def test_d2l_reads_the_folder_that_was_filled_for_it(dataset, tmp_path, monkeypatch):
    """d2l reads ``../data`` and would download; with the folder filled, it has nothing to fetch."""
    from d2l import torch as d2l

    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(data, "_download", lambda *a: pytest.fail("touched the network"))
    data.fashion_mnist("../data")
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: pytest.fail("d2l downloads"))
    _, loader = d2l.load_data_fashion_mnist(batch_size=100)
    for start in (0, 5_000, 9_999):
        image, label = loader.dataset[start]
        assert torch.equal(image, dataset.test_images[start] / 255) and label == dataset.test_labels[start]
    assert len(loader.dataset) == 10_000


def test_debians_package_is_a_source(tmp_path, monkeypatch):
    require(data.DEBIAN_FOLDER.is_dir(), "Debian's package dataset-fashion-mnist is not installed")
    loaded = data.fashion_mnist(tmp_path, download=False)
    assert loaded.train_images.shape == (60_000, 1, 28, 28)
    assert sorted(path.name for path in raw(tmp_path).iterdir()) == sorted(NAMES)


def test_an_empty_cache_is_filled_and_read_again(tiny, monkeypatch, tmp_path):
    first = data.fashion_mnist()
    monkeypatch.setattr(data, "DEBIAN_FOLDER", tmp_path / "gone")
    second = data.fashion_mnist(download=False)
    assert torch.equal(first.train_images, second.train_images)
    assert first.train_images.shape == (6, 1, 3, 3)
    assert first.test_labels.tolist() == list(tiny[TEST_LABELS][8:])


def test_compressed_files_in_a_named_folder_are_read(tiny, tmp_path):
    raw(tmp_path).mkdir(parents=True)
    for name, content in tiny.items():
        (raw(tmp_path) / f"{name}.gz").write_bytes(gzip.compress(content))
    assert data.fashion_mnist(tmp_path, download=False).test_images.shape == (4, 1, 3, 3)


def flip_a_bit(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    ("name", "spoil", "problem"),
    [
        (TRAIN_IMAGES, lambda c: c[:-1], "cut short"),
        (TRAIN_IMAGES, lambda c: b"", "cut short"),
        (TEST_LABELS, flip_a_bit, "some byte has changed"),
        (TRAIN_LABELS, lambda c: b"\0\0\x08\x03" + c[4:], "magic number is 2051 instead of 2049"),
        (TEST_IMAGES, lambda c: c + b"\0", "too long"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tiny, tmp_path, name, spoil, problem):
    root = lay_out(tmp_path / "mine", {**tiny, name: spoil(tiny[name])})
    with pytest.raises(data.DataError, match=problem) as caught:
        data.fashion_mnist(root)
    assert str(raw(root) / name) in str(caught.value)
    assert "Delete it" in str(caught.value)


def test_swapped_train_and_test_files_are_noticed(tiny, tmp_path):
    swapped = {**tiny, TRAIN_IMAGES: tiny[TEST_IMAGES], TEST_IMAGES: tiny[TRAIN_IMAGES]}
    with pytest.raises(data.DataError, match=f"holds {TEST_IMAGES}: the files were swapped"):
        data.fashion_mnist(lay_out(tmp_path / "mine", swapped))


def test_a_named_folder_is_never_replaced(tiny, tmp_path):
    root = lay_out(tmp_path / "mine", {**tiny, TRAIN_IMAGES: flip_a_bit(tiny[TRAIN_IMAGES])})
    before = {path: path.read_bytes() for path in raw(root).iterdir()}
    with pytest.raises(data.DataError):
        data.fashion_mnist(root)
    assert {path: path.read_bytes() for path in raw(root).iterdir()} == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole: b"",
        lambda whole: b"not gzip at all",
        lambda whole: whole[:-6],
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole + b"trailing garbage",
        lambda whole: whole + whole,  # gzip allows it: twice the content
        lambda whole: whole[:12] + bytes([whole[12] ^ 255]) + whole[13:],
        lambda whole: whole[:-8] + bytes(8),  # a wrong checksum
    ],
)
def test_a_broken_archive_is_named(tiny, tmp_path, spoil):
    root = lay_out(tmp_path / "mine", {n: c for n, c in tiny.items() if n != TEST_LABELS})
    path = raw(root) / f"{TEST_LABELS}.gz"
    path.write_bytes(spoil(gzip.compress(tiny[TEST_LABELS])))
    before = path.read_bytes()
    with pytest.raises(data.DataError, match=f"{TEST_LABELS}.gz") as caught:
        data.fashion_mnist(root)
    assert "Delete it" in str(caught.value)
    assert path.read_bytes() == before


def make_folder(path: Path) -> None:
    path.mkdir()


def make_loop(path: Path) -> None:
    path.symlink_to(path.name)


def make_dangling(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [make_folder, make_loop, make_dangling])
def test_what_is_no_file_is_refused_and_left_alone(tiny, tmp_path, make):
    root = lay_out(tmp_path / "mine", {n: c for n, c in tiny.items() if n != TRAIN_LABELS})
    path = raw(root) / TRAIN_LABELS
    make(path)
    with pytest.raises(data.DataError, match=f"cannot read .*{TRAIN_LABELS}.*Delete it"):
        data.fashion_mnist(root)
    assert path.is_symlink() or path.is_dir()


def test_a_link_to_a_right_file_is_followed(tiny, tmp_path):
    root = lay_out(tmp_path / "mine", {n: c for n, c in tiny.items() if n != TRAIN_LABELS})
    (tmp_path / "elsewhere").write_bytes(tiny[TRAIN_LABELS])
    (raw(root) / TRAIN_LABELS).symlink_to(tmp_path / "elsewhere")
    assert data.fashion_mnist(root, download=False).train_labels.shape == (6,)


def test_a_folder_that_leads_to_itself_is_named(tiny, tmp_path):
    (tmp_path / "mine" / "FashionMNIST").mkdir(parents=True)
    raw(tmp_path / "mine").symlink_to("raw")
    with pytest.raises(data.DataError, match="cannot write to .*raw"):
        data.fashion_mnist(tmp_path / "mine")


def test_no_network_and_no_package_says_what_to_do(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "DEBIAN_FOLDER", tmp_path / "gone")
    with pytest.raises(data.DataError, match="dataset-fashion-mnist") as caught:
        data.fashion_mnist()
    assert TRAIN_IMAGES in str(caught.value) and "no route to host" in str(caught.value)


def test_without_download_the_network_is_not_touched(tiny, tmp_path, monkeypatch):
    def forbidden(*arguments):
        raise AssertionError("touched the network")

    monkeypatch.setattr(data, "_download", forbidden)
    data.fashion_mnist(download=False)
    monkeypatch.setattr(data, "DEBIAN_FOLDER", tmp_path / "gone")
    monkeypatch.setenv("RESNETBOOK_CACHE", str(tmp_path / "empty cache"))
    with pytest.raises(data.DataError, match="download=True"):
        data.fashion_mnist(tmp_path / "empty", download=False)


def test_an_empty_folder_is_filled_from_the_cache_before_the_network_is_asked(tiny, tmp_path, monkeypatch):
    data.fashion_mnist()
    monkeypatch.setattr(data, "_download", lambda *a: pytest.fail("touched the network"))
    monkeypatch.setattr(data, "DEBIAN_FOLDER", tmp_path / "gone")
    before = {path.name: path.read_bytes() for path in raw(tmp_path / "cache").iterdir()}
    loaded = data.fashion_mnist(tmp_path / "mine")
    assert loaded.train_labels.tolist() == list(tiny[TRAIN_LABELS][8:])
    for folder in (tmp_path / "mine", tmp_path / "cache"):
        assert {path.name: path.read_bytes() for path in raw(folder).iterdir()} == before


def test_a_wrong_cache_does_not_spoil_a_named_folder(tiny, tmp_path):
    lay_out(tmp_path / "cache", {**tiny, TRAIN_LABELS: flip_a_bit(tiny[TRAIN_LABELS])})
    loaded = data.fashion_mnist(tmp_path / "mine", download=False)  # Debian's package is right
    assert loaded.train_labels.tolist() == list(tiny[TRAIN_LABELS][8:])
    assert sorted(path.name for path in raw(tmp_path / "mine").iterdir()) == sorted(NAMES)


def test_only_the_missing_file_is_fetched(tiny, tmp_path, monkeypatch):
    root = lay_out(tmp_path / "mine", {n: c for n, c in tiny.items() if n != TEST_IMAGES})
    monkeypatch.setattr(data, "DEBIAN_FOLDER", tmp_path / "gone")
    asked = []

    def download(name, aside):
        asked.append(name)
        return tiny[name]

    monkeypatch.setattr(data, "_download", download)
    assert data.fashion_mnist(root).test_images.shape == (4, 1, 3, 3)
    assert asked == [TEST_IMAGES]


def test_the_home_folder_is_understood(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    data.fashion_mnist("~/pictures", download=False)
    assert sorted(path.name for path in raw(tmp_path / "home" / "pictures").iterdir()) == sorted(NAMES)
    monkeypatch.setenv("RESNETBOOK_CACHE", "~/elsewhere")
    assert data.cache_root() == tmp_path / "home" / "elsewhere"
    monkeypatch.delenv("RESNETBOOK_CACHE")
    assert data.cache_root() == tmp_path / "home" / ".cache" / "resnetbook"
    assert not (tmp_path / "~").exists()


def test_a_broken_download_is_not_kept(tiny, tmp_path, monkeypatch):
    """The real ``_download``, with a mirror that delivers half of a file."""
    from torchvision.datasets import FashionMNIST

    monkeypatch.undo()
    contents = tiny_files()
    monkeypatch.setattr(data, "SHA256", {n: hashlib.sha256(c).hexdigest() for n, c in contents.items()})
    monkeypatch.setattr(data, "DEBIAN_FOLDER", tmp_path / "gone")
    monkeypatch.setattr(FashionMNIST, "mirrors", ["https://mirror.invalid/"])

    def half(address, most):
        content = contents[address.rsplit("/")[-1].removesuffix(".gz")]
        return gzip.compress(content[: len(content) // 2])

    monkeypatch.setattr(data, "_fetch", half)
    monkeypatch.setenv("RESNETBOOK_CACHE", str(tmp_path / "empty"))
    with pytest.raises(data.DataError, match="mirror.invalid/train-images.*cut short"):
        data.fashion_mnist(tmp_path)
    assert list(raw(tmp_path).iterdir()) == []


def test_debians_package_is_read_before_the_network_is_asked(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "_download", lambda *a: pytest.fail("touched the network"))
    assert data.fashion_mnist(tmp_path / "mine").train_images.shape == (6, 1, 3, 3)
    assert data.fashion_mnist().train_images.shape == (6, 1, 3, 3)


def test_a_full_disk_leaves_nothing_that_looks_finished(tiny, tmp_path, monkeypatch):
    write_bytes = Path.write_bytes

    def full(path, content):
        write_bytes(path, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(data.DataError, match=f"cannot write .*{TRAIN_IMAGES}.*No space left") as caught:
        data.fashion_mnist(tmp_path / "mine")
    assert "Name another folder" in str(caught.value)
    assert list(raw(tmp_path / "mine").iterdir()) == []
    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    assert data.fashion_mnist(tmp_path / "mine").train_images.shape == (6, 1, 3, 3)


def test_a_file_appears_whole_or_not_at_all(tiny, tmp_path, monkeypatch):
    """Another process may look at any moment: only a rename puts a file under its final name."""
    replace, renamed = os.replace, []

    def watched(source, target):
        assert Path(source).read_bytes() == tiny[Path(target).name] and not Path(target).exists()
        assert Path(source).stat().st_dev == Path(target).parent.stat().st_dev
        renamed.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    data.fashion_mnist(tmp_path / "mine")
    assert renamed == NAMES


@pytest.mark.parametrize("moment", [0, 2])
def test_an_interrupted_download_leaves_nothing_unfinished(tiny, tmp_path, monkeypatch, moment):
    monkeypatch.setattr(data, "DEBIAN_FOLDER", tmp_path / "gone")
    fetched = []

    def download(name, aside):
        (aside / f"{name}.gz").write_bytes(b"half of it")
        if len(fetched) == moment:
            raise KeyboardInterrupt
        fetched.append(name)
        return tiny[name]

    monkeypatch.setattr(data, "_download", download)
    with pytest.raises(KeyboardInterrupt):
        data.fashion_mnist(tmp_path / "mine")
    # What was finished before is whole, and stays.
    assert {p.name: p.read_bytes() for p in raw(tmp_path / "mine").iterdir()} == {
        name: tiny[name] for name in fetched
    }


@pytest.fixture
def served(tmp_path):
    """The address of ``tmp_path`` on a web server."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments) -> None:
            """Say nothing."""

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_every_mirror_is_tried_before_it_fails(tiny, tmp_path, monkeypatch, served):
    """The real ``_download``, from a server on this machine: the second mirror is a good one."""
    from torchvision.datasets import FashionMNIST

    monkeypatch.undo()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    contents = tiny_files()
    monkeypatch.setattr(data, "SHA256", {n: hashlib.sha256(c).hexdigest() for n, c in contents.items()})
    mirrors = []
    for mirror, spoil in (("bad", flip_a_bit), ("good", lambda content: content), ("unused", flip_a_bit)):
        (tmp_path / mirror).mkdir()
        mirrors.append(f"{served}/{mirror}/")
        for name, content in contents.items():
            (tmp_path / mirror / f"{name}.gz").write_bytes(gzip.compress(spoil(content)))
    monkeypatch.setattr(FashionMNIST, "mirrors", mirrors)
    (tmp_path / "aside").mkdir()
    for name, content in contents.items():
        assert data._download(name, tmp_path / "aside") == content
    assert list((tmp_path / "aside").iterdir()) == []
    monkeypatch.setattr(FashionMNIST, "mirrors", [mirrors[0], f"{served}/gone/"])
    with pytest.raises(data.DataError, match=f"download of {TRAIN_IMAGES} failed") as caught:
        data._download(TRAIN_IMAGES, tmp_path / "aside")
    assert all(f"{mirror}{TRAIN_IMAGES}.gz: " in str(caught.value) for mirror in FashionMNIST.mirrors)


class Awkward:
    """A server on this machine that accepts every connection, and then sends what ``answer`` yields."""

    def __init__(self, answer) -> None:
        self.answer = answer
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.socket.getsockname()[1]}/"
        self.closed = threading.Event()
        self.asked = 0
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.asked += 1
            threading.Thread(target=self.speak, args=(connection,), daemon=True).start()

    def speak(self, connection: socket.socket) -> None:
        with connection:
            with contextlib.suppress(OSError):
                for part in self.answer():
                    connection.sendall(part)
                    if self.closed.wait(0.02):
                        return
            self.closed.wait()

    def close(self) -> None:
        self.closed.set()
        # Closing alone would leave the thread that waits in accept().
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
AWKWARD = {
    "silent": (lambda: iter(()), "no answer for 0.3 seconds"),
    "silent after its head": (lambda: iter([OK]), "no answer for 0.3 seconds"),
    "silent in the middle": (lambda: iter([OK, b"x" * 500]), "no answer for 0.3 seconds"),
    "drips its head": (
        lambda: itertools.chain([b"HTTP/1.1 200 OK\r\n"], itertools.repeat(b"X: y\r\n")),
        "no answer for 0.3 seconds",
    ),
    "drips": (lambda: itertools.chain([OK], itertools.repeat(b"x")), "only [0-9]+ bytes in 0.6 seconds"),
    "never ends": (
        lambda: itertools.chain([b"HTTP/1.1 200 OK\r\n\r\n"], itertools.repeat(b"x" * 100_000)),
        "more than [0-9,]+ bytes",
    ),
}


@pytest.mark.parametrize("how", AWKWARD)
@pytest.mark.slow
def test_a_mirror_that_does_not_deliver_is_given_up(tiny, tmp_path, monkeypatch, how):
    """It accepts connections: without limits, waiting for it would never end."""
    from torchvision.datasets import FashionMNIST

    monkeypatch.undo()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("RESNETBOOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(data, "DEBIAN_FOLDER", tmp_path / "gone")
    monkeypatch.setattr(data, "_SILENCE", 0.3)
    monkeypatch.setattr(data, "_STRETCH", 0.6)
    answer, message = AWKWARD[how]
    server = Awkward(answer)
    monkeypatch.setattr(FashionMNIST, "mirrors", [server.address])
    failed = []

    def load() -> None:
        try:
            data.fashion_mnist()
        except data.DataError as error:
            failed.append(str(error))

    # In a thread of its own, so that a hang is a failure and not the end of all tests.
    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    thread.join(timeout=30)
    server.close()
    assert not thread.is_alive(), "it hangs"
    assert server.asked == 1
    assert re.search(f"{TRAIN_IMAGES}.gz: .*({message})", failed[0]), failed
    assert "dataset-fashion-mnist" in failed[0]  # what to do
    assert list(raw(tmp_path / "cache").iterdir()) == []


def test_after_a_silent_mirror_the_next_one_is_asked(tiny, tmp_path, monkeypatch, served):
    from torchvision.datasets import FashionMNIST

    monkeypatch.undo()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(data, "_SILENCE", 0.5)
    contents = tiny_files()
    monkeypatch.setattr(data, "SHA256", {n: hashlib.sha256(c).hexdigest() for n, c in contents.items()})
    for name, content in contents.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    silent = Awkward(lambda: iter(()))
    monkeypatch.setattr(FashionMNIST, "mirrors", [silent.address, f"{served}/"])
    assert data._download(TRAIN_LABELS, tmp_path) == contents[TRAIN_LABELS]
    assert silent.asked == 1
    silent.close()


def test_the_limits_are_for_people():
    """Long enough for a slow line, short enough to wait for."""
    assert 10 <= data._SILENCE <= 30 and 10 <= data._STRETCH <= 60
    assert data._LEAST / data._STRETCH < 5_000  # bytes a second: what an old telephone line carries


def test_a_folder_that_cannot_be_written_is_named(tiny, tmp_path):
    # A file where a folder is needed stops root, too, whom permissions do not stop.
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(data.DataError, match="cannot write to .*RESNETBOOK_CACHE"):
        data.fashion_mnist(tmp_path / "file")


def test_permissions_are_respected(tiny, tmp_path, monkeypatch):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    if not hasattr(os, "geteuid") or os.geteuid() == 0:  # nothing stops root, or Windows: pretend
        monkeypatch.setattr(
            Path, "mkdir", lambda *a, **k: (_ for _ in ()).throw(PermissionError(13, "Denied"))
        )
    with pytest.raises(data.DataError, match=f"cannot write to {folder}.*RESNETBOOK_CACHE"):
        data.fashion_mnist(folder)


def test_a_file_that_may_not_be_read_is_named(tiny, tmp_path, monkeypatch):
    root = lay_out(tmp_path / "mine", tiny)
    path = raw(root) / TEST_IMAGES
    path.chmod(0)
    if not hasattr(os, "geteuid") or os.geteuid() == 0:  # nothing stops root, or Windows: pretend
        read_bytes = Path.read_bytes

        def denied(self):
            if self == path:
                raise PermissionError(13, "Permission denied", str(self))
            return read_bytes(self)

        monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(data.DataError, match=f"cannot read {path}.*Permission denied"):
        data.fashion_mnist(root)


@pytest.mark.slow
def test_two_processes_at_once_do_not_harm_each_other(tmp_path):
    require(data.DEBIAN_FOLDER.is_dir(), "Debian's package dataset-fashion-mnist is not installed")
    command = [sys.executable, "-m", "resnetbook", "data", "--offline", "--root", str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        assert "checked" in process.communicate(timeout=120)[0]
        assert process.returncode == 0
    assert sorted(path.name for path in raw(tmp_path).iterdir()) == sorted(NAMES)


def test_split_is_fixed_and_disjoint():
    images = torch.arange(100, dtype=torch.uint8).reshape(100, 1, 1, 1)
    labels = torch.arange(100)
    train_images, train_labels, held_images, held_labels = data.split(images, labels, 30)
    assert sorted([*train_labels.tolist(), *held_labels.tolist()]) == list(range(100))
    assert len(held_labels) == 30
    assert torch.equal(held_images.flatten().long(), held_labels)
    assert torch.equal(train_images.flatten().long(), train_labels)
    assert torch.equal(data.split(images, labels, 30)[3], held_labels)


def test_split_refuses_labels_of_other_images():
    with pytest.raises(ValueError, match="100 images need 100 labels, got 99"):
        data.split(torch.zeros(100, 1, 1, 1, dtype=torch.uint8), torch.zeros(99), 10)


@pytest.mark.parametrize("held_out", [0, -1, 100, 2.5, True, "10"])
def test_split_refuses_nonsense(held_out):
    with pytest.raises(ValueError, match="held_out must be between 1 and 99"):
        data.split(torch.zeros(100, 1, 1, 1, dtype=torch.uint8), torch.zeros(100), held_out)


# ---------------------------------------------------------------------------------------------------
# Some of the classes


def test_the_images_of_some_classes_have_labels_from_0_on():
    labels = torch.tensor([3, 9, 0, 3, 5, 9])
    images = torch.arange(6).reshape(6, 1, 1, 1)
    chosen, new = data.of_classes(images, labels, (9, 3))
    assert chosen.flatten().tolist() == [0, 1, 3, 5] and new.tolist() == [1, 0, 1, 0]
    assert new.dtype == torch.int64 and labels.tolist() == [3, 9, 0, 3, 5, 9]
    every, same = data.of_classes(images, labels, range(10))
    assert torch.equal(every, images) and torch.equal(same, labels)


@pytest.mark.parametrize(
    ("classes", "problem"), [((1, 1), "twice"), ((10,), "class 10"), ((-1,), "class -1")]
)
def test_classes_that_are_not_there_or_stand_twice_are_refused(classes, problem):
    with pytest.raises(ValueError, match=problem):
        data.of_classes(torch.zeros(1, 1, 1, 1), torch.tensor([0]), classes)
