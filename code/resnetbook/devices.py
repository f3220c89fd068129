"""Which device computes, in which 16-bit type and memory format, and what it does badly."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager, nullcontext

import torch

from resnetbook.recipe import Recipe


def default_device() -> torch.device:
    """CUDA if there is one, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def choose_device(device: torch.device | str | None = None) -> torch.device:
    """The device of that name; without a name, the best there is.

    Raises:
        ValueError: if this machine has no such device; the message names those it has.
    """
    if device is None:
        return default_device()
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, TypeError) as error:
        there = dict.fromkeys(["cpu", default_device().type])
        raise ValueError(f"no device {device!r} on this machine; there is: {', '.join(there)}") from error
    return chosen


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; elsewhere it is many times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # PyTorch's own names are private, and older versions lack some.
        questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, question, lambda: False)() for question in questions)
    return False


def memory_format(recipe: Recipe, device: torch.device) -> torch.memory_format:
    """In which order a recipe's images and weights lie in the memory of a device."""
    # On MPS some versions of PyTorch compute wrong gradients of batch normalization in channels-last
    # memory (https://github.com/pytorch/pytorch/issues/175189).
    if recipe.channels_last and device.type != "mps":
        return torch.channels_last
    return torch.contiguous_format


def autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager:
    """A context in which layers compute in the recipe's 16-bit type, if it has one."""
    if recipe.autocast is None:
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, recipe.autocast))


def suited(recipe: Recipe, device: torch.device) -> tuple[Recipe, str]:
    """The recipe as it is best carried out on a device, and what differs, in words (empty if nothing does).

    Where there are no instructions for bfloat16, what asks for it is trained in float32: bfloat16 would be
    many times slower there. On MPS memory is contiguous, as :func:`memory_format` has it.
    """
    changes, words = {}, []
    if recipe.autocast == "bfloat16" and not has_bfloat16(device):
        changes["autocast"] = None
        words.append(f"float32 instead of bfloat16, for which this {device.type} has no instructions")
    if recipe.channels_last and memory_format(recipe, device) is not torch.channels_last:
        changes["channels_last"] = False
        words.append(f"contiguous memory instead of channels-last, which can be wrong on {device.type}")
    return dataclasses.replace(recipe, **changes), "; ".join(words)
