"""What chapter 10 says is what its cells print, what the bench recorded, or what can be computed again."""

import math
import re
import statistics

import nbformat
import pytest
import torch
from conftest import claim

import bench
import notebooks
from resnetbook import bench as results
from resnetbook import compare, runs

(PATH,) = notebooks.paths(["10"])


def source(cell_id: str) -> str:
    (found,) = (cell.source for cell in nbformat.read(PATH, as_version=4).cells if cell.id == cell_id)
    return found


def printed(cell_id: str) -> str:
    """The committed output of a code cell."""
    (cell,) = (cell for cell in nbformat.read(PATH, as_version=4).cells if cell.id == cell_id)
    shown = (output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs)
    return "\n".join(shown)


# ---- the opening


def test_what_the_earlier_chapters_took_on_trust():
    earlier = ("source-recipe", "stem-", "ablation-", "epochs-", "speed-")
    recipes = [found.recipe for name, found in runs.EXPERIMENTS.items() if name.startswith(earlier)]
    claim(
        "10",
        "Chapters 5 and 6 trained with numbers of 16 bits and channels-last memory",
        len(recipes) > 20
        and all(recipe.channels_last and recipe.autocast == "bfloat16" for recipe in recipes),
    )


# ---- 1: 16 bits


@pytest.mark.parametrize(("kind", "digits"), [("bfloat16", 2.4), ("float16", 3.3)])
def test_decimal_digits(kind, digits):
    # One bit is not stored: 8 and 11 bits in all.
    bits = {"bfloat16": 7, "float16": 10}[kind] + 1
    claim("10", f"about {digits} decimal digits", round(bits * math.log10(2), 1) == digits)
    assert torch.finfo(getattr(torch, kind)).eps == 2.0 ** (1 - bits)


def test_where_the_gradients_lie():
    text = printed("underflow")
    (median,) = re.findall(r"half of them are below (\S+)", text)
    claim("10", "A typical gradient of a feature map is about a millionth, or less.", float(median) < 2e-6)
    zero, lost = re.search(r"2\^0 +([\d.]+)% +([\d.]+)%", text).groups()
    claim("10", "float16 makes more than one in twenty of them zero", float(zero) > 5)
    claim("10", "of nearly all others it loses digits", float(lost) / (100 - float(zero)) > 0.95)


# ---- 4: the bench


@pytest.fixture(scope="module")
def result() -> dict:
    return results.load("cpu")


@pytest.fixture(scope="module")
def steps(result) -> dict[tuple[str, str], tuple[float, compare.Difference]]:
    """For each row of a table, but the first: its speed over the row above, as median and as logarithms."""
    found = {}
    for side, entry in result["sides"].items():
        rows = list(entry["contestants"].items())
        for (_, above), (name, below) in zip(rows, rows[1:], strict=False):
            speeds = [row["images_per_second"] for row in (above, below)]
            median = statistics.median(b / a for a, b in zip(*speeds, strict=True))
            logs = [[math.log(speed) for speed in row] for row in speeds]
            found[side, name.split(", ")[-1]] = (median, compare.paired_difference(*logs))
    return found


def test_the_table_prints_each_row_over_the_row_above_with_its_interval(steps):
    for (_, name), (median, found) in steps.items():
        low, high = map(math.exp, found.interval)
        label = name if name == "float32" else f"+ {name}"
        assert re.search(
            rf"^ *{re.escape(label)} .* {median:.2f} \({low:.2f} to {high:.2f}\)",
            printed("bench"),
            re.MULTILINE,
        )


def test_bfloat16_is_no_factor_of_two(steps):
    claim(
        "10",
        "Over the row above it, it is 1.67 times as fast at 96×96, and 1.31 times at 28×28.",
        [round(steps[side, "bfloat16"][0], 2) for side in ("96", "28")] == [1.67, 1.31],
    )
    assert all(steps[side, "bfloat16"][1].interval[1] < math.log(2) for side in ("96", "28"))


def test_channels_last_and_compiling(steps):
    claim(
        "10",
        "by 16 percent over the row above it at 96×96, and by 7 at 28×28",
        [round(100 * steps[side, "channels-last"][0]) - 100 for side in ("96", "28")] == [16, 7],
    )
    claim(
        "10",
        "**Channels-last helps at both sizes**",
        all(steps[s, "channels-last"][1].clear for s in ("96", "28")),
    )
    at_28 = steps["28", "compiled"][1]
    claim("10", "At 28×28 it is clearly slower than the row above it", at_28.clear and at_28.mean < 0)
    claim("10", "the interval does not leave out 1", not steps["96", "compiled"][1].clear)
    # What the page calls clear stands where all eight comparisons are corrected for.
    stand = dict(zip(steps, compare.holm([found.p_value for _, found in steps.values()]), strict=True))
    assert len(stand) == 8
    assert all(stand[side, name] for side in ("96", "28") for name in ("channels-last", "bfloat16"))
    assert stand["28", "compiled"]


def test_ratios_by_round(result):
    assert result["rounds"] == 5  # "the median of five turns"
    float32 = result["sides"]["96"]["contestants"]["ours, float32"]["ratios"]
    claim("10", "a sixth slower than it in one round", min(float32) == pytest.approx(1 - 1 / 6, abs=0.01))
    claim("10", "a seventh faster in another", max(float32) == pytest.approx(1 + 1 / 7, abs=0.01))
    told = ", ".join(f"{ratio:.2f}" for ratio in float32)
    claim("10", f"float32 × d2l, round by round: {told}")


def test_where_the_time_goes(result):
    for side, found in result["sides"].items():
        profiles = [profile["seconds_per_image"] for profile in found["profile"].values()]
        d2l, float32, bfloat16 = profiles
        for parts in profiles[1:]:
            convolutions = parts["convolution, forward"] + parts["convolution, backward"]
            claim("10", "more than four fifths of it in our loops", convolutions > 0.8 * sum(parts.values()))
            claim(
                "10",
                "the backward pass of the convolutions, which is more than half of a step",
                parts["convolution, backward"] > sum(parts.values()) / 2,
            )
        for parts in profiles:
            claim(
                "10",
                "the backward part is about twice as long as the forward part, or longer",
                parts["convolution, backward"] > 1.9 * parts["convolution, forward"],
            )
        if side == "28":
            gain = bfloat16["convolution, backward"] / float32["convolution, backward"]
            claim("10", "keeps four fifths of its time", 0.78 < gain < 0.85)
        slower = {part: d2l[part] / float32[part] for part in results.GROUPS[:4]}
        written = [slower.pop("batch norm"), slower.pop("activation, pooling, addition")]
        claim("10", "one and a half to two times as long", 1.45 < min(written) and max(written) < 2.15)


def test_what_mfu_is_and_what_ours_divides_by(result):
    claim("10", "By definition that is its *theoretical* peak")
    claim(
        "10", "fastest matrix multiplication or convolution that was *measured* there in the same precision"
    )
    for side in result["sides"].values():
        for entry in side["contestants"].values():
            fastest = result["peaks"][entry["precision"]]["flops_per_second"]
            assert entry["mfu"] == pytest.approx(entry["median"] * side["training_flops"] / fastest)
    peaks = {precision: found["flops_per_second"] for precision, found in result["peaks"].items()}
    claim(
        "10",
        "In bfloat16 the machine can do twice as much",
        1.95 < peaks["bfloat16"] / peaks["float32"] < 2.05,
    )
    told = " ".join(f"{precision} {peak / 1e9:.0f} GFLOP/s" for precision, peak in peaks.items())
    claim("10", f"fastest kernel: {told}")
    assert "not of a theoretical peak" in " ".join(results.table(result).split())


def test_the_bench_leaves_bfloat16_out_where_there_are_no_instructions(monkeypatch):
    monkeypatch.setattr(bench, "has_bfloat16", lambda device: False)
    assert bench._low_precision(torch.device("cpu")) is None


# ---- 5: batches


def test_the_live_batches():
    losses = {}
    for line in printed("batches-table").splitlines():
        if found := re.match(r"(batch \d+, rate [\d.]+(?:, warm-up)?) +(\d+) +(.*)", line):
            losses[found[1]] = [float(word) for word in found[3].split()]
            assert int(found[2]) == 4 * 3072 // int(found[1].split()[1].rstrip(","))
    small, same, scaled, warm = losses.values()
    claim(
        "10",
        "Eight times the rate wins back a part of the gap, and not all of it.** All seeds agree",
        max(small) < min(scaled + warm) and max(scaled + warm) < min(same),
    )
    gap = statistics.mean(same) - statistics.mean(small)
    changes = abs(statistics.mean(warm) - statistics.mean(scaled))
    claim("10", "What it changes is small beside the gap", changes < gap / 3)


def test_the_linear_rule():
    rows = re.findall(r"^(no norms|batch norm) +([\d.]+) +(\d+)%$", printed("rule"), re.MULTILINE)
    far = {(words, float(rate)): int(percent) for words, rate, percent in rows}
    assert len(far) == 6
    claim("10", "Without norms and with small steps the rule is nearly exact.", far["no norms", 0.001] < 5)
    claim("10", "With batch norm there is a difference even for tiny steps", far["batch norm", 0.001] > 5)
    claim("10", "at a rate of 0.1, more than half of the way is different", far["batch norm", 0.1] > 50)


# ---- 1 again: the scaler at work


def test_the_scaler_skips_and_then_takes_steps():
    rows = re.findall(r"^ *(\d+) +([\d.]+) +2\^(\d+) +2\^(\d+)$", printed("scaler"), re.MULTILINE)
    assert len(rows) == 12
    losses, before, after = ([float(row[i]) for row in rows] for i in (1, 2, 3))
    skipped = [new < old for old, new in zip(before, after, strict=True)]
    pairs = list(zip(losses, losses[1:], skipped[:-1], strict=False))
    same = all(one == next_one for one, next_one, was_skipped in pairs if was_skipped)
    claim("10", "the step was skipped: the same images give the same loss", same and any(skipped))
    falls = all(next_one < one for one, next_one, was_skipped in pairs if not was_skipped)
    claim("10", "Then the scale fits, and the loss falls.", falls and losses[-1] < losses[0])


# ---- 6 and 7: memory


def test_accumulated_gradients():
    claim("10", "| yes, up to rounding, without batch norm |")
    rows = re.findall(r"^ *\d+ +(\S+e-\d+) +(\S+e-\d+)$", printed("accumulation-code"), re.MULTILINE)
    with_norm, without = ([float(word) for word in column] for column in zip(*rows, strict=True))
    assert len(rows) == 7
    claim("10", "Without batch norm the difference is the rounding of float32.", 0 < max(without) < 1e-5)
    claim("10", "With batch norm it is not small at all.", min(with_norm) > 0.05)
    claim("10", "and most so with two images in a part.", max(with_norm) == with_norm[-1])


def test_memory_of_parts_and_of_16_bits():
    found = re.findall(r"(?:float32|bfloat16) +([\d.]+)$", printed("memory"), re.MULTILINE)
    whole, halved, part = map(float, found)
    claim("10", "Numbers of 16 bits halve them", halved == pytest.approx(whole / 2, rel=0.05))
    claim("10", "parts of 64 need about an eighth", part == pytest.approx(whole / 8, rel=0.1))


def test_what_checkpointing_saves_and_what_it_changes():
    text = printed("checkpointing-code")
    rows = re.findall(r"^(?:as it is|checkpointed) +([\d.]+) +(\d)$", text, re.MULTILINE)
    (plain, cut), counted = ([float(row[i]) for row in rows] for i in (0, 1))
    claim("10", "Less than a third of the memory", cut < plain / 3)
    claim("10", "equal gradients, bit for bit: True")
    claim("10", "so their norms counted three batches", counted == [2, 3])
    # Two moves with the smaller momentum are one with the larger.
    once, statistics_ = 0.1, 7.0
    small = 1 - math.sqrt(1 - once)
    for _ in range(2):
        statistics_ = (1 - small) * statistics_ + small * 3.0
    claim("10", "$1 - \\sqrt{1 - m}$ in place of $m$", statistics_ == pytest.approx(0.9 * 7.0 + 0.1 * 3.0))
