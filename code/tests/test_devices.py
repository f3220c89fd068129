"""Which device, which 16-bit type: a plain answer, and what is done otherwise."""

import re
from pathlib import Path

import pytest
import torch
from conftest import DEVICES

from resnetbook import devices
from resnetbook.recipe import Recipe


def test_whether_there_is_bfloat16_is_a_plain_answer():
    for device in DEVICES:
        assert devices.has_bfloat16(torch.device(device)) in (True, False)
    flags = Path("/proc/cpuinfo")
    if flags.exists() and re.search(r"^flags\s*:", flags.read_text(encoding="utf-8"), re.M):  # Linux on x86
        words = set(re.findall(r"\w+", flags.read_text(encoding="utf-8")))
        # A machine without the instructions must never be said to have them.
        assert words & {"avx512_bf16", "amx_tile"} or not devices.has_bfloat16(torch.device("cpu"))


@pytest.mark.parametrize(
    ("device", "has", "autocast", "channels_last", "words"),
    [
        ("cpu", True, "bfloat16", True, ""),
        ("cpu", False, None, True, "float32 instead of bfloat16, for which this cpu has no instructions"),
        ("cuda", False, None, True, "float32 instead of bfloat16, for which this cuda has no instructions"),
        ("mps", True, "bfloat16", False, "contiguous memory instead of channels-last"),
        ("mps", False, None, False, "float32 instead of bfloat16.*; contiguous memory"),
    ],
)
def test_what_a_device_does_badly_is_done_otherwise_and_said(
    monkeypatch, device, has, autocast, channels_last, words
):
    monkeypatch.setattr(devices, "has_bfloat16", lambda device: has)
    device = torch.device(device)
    recipe = Recipe(autocast="bfloat16", channels_last=True)
    suited, said = devices.suited(recipe, device)
    assert suited == Recipe(autocast=autocast, channels_last=channels_last)
    assert re.search(words, said) and bool(said) == bool(words)
    for plain in (Recipe(), Recipe(autocast="float16")):
        assert devices.suited(plain, device) == (plain, "")
