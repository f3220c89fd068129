"""The recorded benchmark: training speed of ResNet-18 by d2l's loop and by ours. Load it, and print it.

It is measured by ``code/tools/bench.py`` in the book's repository.
"""

import textwrap
from pathlib import Path

from resnetbook import runs

RECORDS = runs.RECORDS / "bench"
# What the time of a training step is divided into.
GROUPS = (
    "convolution, forward",
    "convolution, backward",
    "batch norm",
    "activation, pooling, addition",
    "format and type conversion",
    "optimizer",
    "data loading",
    "other",
)


def recorded(folder: Path | None = None) -> list[str]:
    """The names of all stored results, sorted."""
    return runs.names(folder or RECORDS)


def load(name: str, folder: Path | None = None) -> dict:
    """Load a stored result: what the measurement returned, and its ``name``.

    Raises:
        KeyError: if there is none of this name; the message lists those there are.
        ValueError: if the file holds no such result.
    """
    return runs.load(name, folder or RECORDS)


def table(result: dict) -> str:
    """The result for people, at most 100 columns wide."""
    hardware = result["hardware"]
    threads = f"{hardware['threads']} thread" + ("" if hardware["threads"] == 1 else "s")
    lines = [
        f"ResNet-18 in d2l's form, training steps with batches of {result['batch_size']}, "
        "data loading included",
        f"{hardware['device']}, {threads}, PyTorch {result['versions']['torch']}, {result['date']}",
    ]
    if "glibc_tunables" in hardware:
        setting = hardware["glibc_tunables"] or "not set"
        lines += _wrapped("GLIBC_TUNABLES: " + setting.replace("glibc.malloc.", "").replace(":", ", "))
    for precision, entry in result["peaks"].items():
        speed = entry["flops_per_second"] / 1e9
        lines += _wrapped(
            f"fastest kernel, {precision}: {speed:,.0f} GFLOP/s ({entry['kernel']}, {entry['shape']})"
        )
    for side, entry in result["sides"].items():
        head = f"{side}×{side}, turns of {entry['num_batches']} steps"
        lines += ["", f"{head:40}{'images/s':>9}{'ratio':>8}{'lowest':>8}{'highest':>8}{'MFU':>7}{'MFU*':>7}"]
        for name, found in entry["contestants"].items():
            lines.append(
                f"{name:40}{found['median']:>9,.0f}{found['ratio']:>8.2f}{min(found['ratios']):>8.2f}"
                f"{max(found['ratios']):>8.2f}{found['mfu']:>7.0%}{found['mfu_without_padding']:>7.0%}"
            )
        if "profile" in entry:
            lines += ["", *_profile_lines(entry["profile"], side)]
    lines.append("")
    for name, why in result["left_out"].items():
        lines += _wrapped(f"left out: {name} ({why})")
    lines += _wrapped(
        f"medians of {result['rounds']} rounds; ratios are to d2l's loop, round by round; MFU: share of the "
        "fastest kernel measured in its precision (not of a theoretical peak), with 3 times the operations "
        "of a forward pass per step; MFU*: without the multiplications by padding, which libraries skip"
    )
    return "\n".join(lines)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, width=100, subsequent_indent="  ", break_on_hyphens=False)


def _profile_lines(profiles: dict[str, dict], side: str) -> list[str]:
    lines = [f"where the time of the median turn goes at {side}×{side}, ms per image; columns:"]
    lines += [f"  ({number}) {name}" for number, name in enumerate(profiles, 1)]
    columns = [entry["seconds_per_image"] for entry in profiles.values()]
    lines.append(f"{'':40}" + "".join(f"{f'({number})':>9}" for number in range(1, len(columns) + 1)))
    rows = {group: [column[group] for column in columns] for group in GROUPS}
    rows["all"] = [sum(column.values()) for column in columns]
    lines += [f"{name:40}" + "".join(f"{1e3 * v:>9.3f}" for v in values) for name, values in rows.items()]
    return lines
