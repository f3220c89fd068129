"""Trained weights in the reader's own ResNet-50, and the picture that the book brings for it (chapter 4)."""

from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

import notebooks
from resnetbook import data

PICTURES = Path(data.__file__).parent / "pictures"
WEIGHTS = torchvision.models.ResNet50_Weights.IMAGENET1K_V2
BUILT_IN = ("imports", "basic-code", "bottleneck-code", "family-code")


def cells() -> dict[str, str]:
    (path,) = notebooks.paths(["04"])
    return {cell.id: cell.source for cell in nbformat.read(path, as_version=4).cells}


def run_the_cell(download: bool, stride_on: str = "3x3") -> nn.Module:
    """Run what chapter 4 needs to build its ResNet-50, then the cell with the weights; the network."""
    found, scope = cells(), {"photo": data.picture("chelsea")}
    for name in BUILT_IN:
        # Only what is defined: the comparisons below a class belong to other tests.
        exec(found[name].partition("\n\n\ncompare_with_both")[0], scope)
    if stride_on == "1x1":
        exec(found["eaa99379"], scope)
        scope["ResNet"] = lambda *plan, build=scope["ResNet"]: scope["stride_first"](build(*plan))
    source = found["pretrained-code"]
    assert source.startswith("DOWNLOAD = False")
    exec(source.replace("DOWNLOAD = False", f"DOWNLOAD = {download}", 1), scope)
    return scope["network"]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> tuple[Path, nn.Module]:
    """torchvision's network with random numbers in its norms, and a cache that holds them as trained ones."""
    torch.manual_seed(0)
    network = torchvision.models.resnet50()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.normal_(0, 0.5)
                layer.running_mean.normal_(0, 0.5)
                layer.running_var.uniform_(0.5, 1.5)
    home = tmp_path_factory.mktemp("torch")
    (home / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(network.state_dict(), home / "hub" / "checkpoints" / Path(WEIGHTS.url).name)
    return home, network.eval()


@pytest.mark.parametrize(("stride_on", "equal"), [("3x3", True), ("1x1", False)])
def test_the_chapters_network_answers_as_torchvisions(theirs, stride_on, equal, monkeypatch, capsys):
    home, trusted = theirs
    monkeypatch.setenv("TORCH_HOME", str(home))
    network = run_the_cell(download=True, stride_on=stride_on)
    batch = WEIGHTS.transforms()(data.picture("chelsea"))[None]
    with torch.no_grad():
        logits = trusted(batch)
        assert torch.allclose(network(batch), logits, rtol=1e-4, atol=1e-4 * logits.abs().max()) == equal
    shares, numbers = logits.softmax(1)[0].topk(3)
    names = [WEIGHTS.meta["categories"][number] for number in numbers]
    lines = [f"{share:.2f}  {name}" for share, name in zip(shares, names, strict=True)]
    assert (capsys.readouterr().out.splitlines() == lines) == equal


def test_where_there_is_no_network_the_cell_says_so_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    run_the_cell(download=True)
    assert f"\nNo weights from {WEIGHTS.url}: " in capsys.readouterr().out
    run_the_cell(download=False)
    assert capsys.readouterr().out == "No trained weights: set DOWNLOAD = True, and run this again.\n"


def test_the_picture_is_prepared_as_the_chapter_says():
    with Image.open(PICTURES / "chelsea.jpg") as image:
        width, height = image.size
        scale = 232 / min(width, height)  # the shorter side
        small = image.resize((int(width * scale), int(height * scale)), Image.Resampling.BILINEAR)
    left, top = round((small.width - 224) / 2), round((small.height - 224) / 2)
    cut = np.asarray(small.crop((left, top, left + 224, top + 224)), dtype=np.float32) / 255
    expected = (cut - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    prepared = WEIGHTS.transforms()(data.picture("chelsea")).permute(1, 2, 0).numpy()
    # Two libraries round to whole grey values on their way.
    assert np.abs(prepared - expected).max() < 2 / 255 / 0.224


def test_the_picture_is_small_and_says_whose_it_is():
    picture = data.picture("chelsea")
    assert (picture.shape, picture.dtype) == ((3, 300, 451), torch.uint8)
    licences = (PICTURES / "LICENSE.txt").read_text(encoding="utf-8")
    for path in PICTURES.glob("*.jpg"):
        assert path.stat().st_size <= 60_000 and path.name in licences
    with pytest.raises(ValueError, match="no picture 'dog'; there are: chelsea"):
        data.picture("dog")
