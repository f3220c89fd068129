"""The instruments: in a browser without a network, by mouse and keys, they give the package's own numbers."""

import itertools
import re
import statistics

import nbformat
import pytest
import torch
from lab_page import opened
from torch import nn

import notebooks
from resnetbook import blocks, interactive, probes, runs, tables

pytestmark = pytest.mark.slow

# Puts the controls where the settings say, as a reader's hand does, and gives back the results.
_SET = """([name, wanted]) => {
  const root = document.querySelector(`[data-instrument="${name}"]`);
  for (const [key, place] of Object.entries(wanted)) {
    const input = root.querySelector(`[name="${key}"]`);
    input.value = place;
    input.dispatchEvent(new Event("input"));
  }
  return root.numbers;
}"""


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    """All instruments on one page, and the first of them twice; from a file, and offline."""
    file = tmp_path_factory.mktemp("instruments") / "page.html"
    shown = [interactive.show(name)._repr_html_() for name in [*interactive.NAMES, interactive.NAMES[0]]]
    head = '<!doctype html><html lang="en"><meta charset=utf-8><title>Instruments</title>'
    file.write_text(head + "".join(shown), encoding="utf-8")
    page = opened(browser, file.as_uri(), offline=True, viewport={"width": 360, "height": 740})
    yield page
    assert not page.errors
    page.context.close()


def at(page, name, **settings):
    """What an instrument computes with these settings."""
    controls = {control["key"]: control["values"] for control in interactive.show(name).spec["controls"]}
    return page.evaluate(_SET, [name, {key: controls[key].index(value) for key, value in settings.items()}])


def root(page, name):
    return page.locator(f'[data-instrument="{name}"]').first


@pytest.mark.parametrize("name", interactive.NAMES)
def test_it_is_small_and_the_same_each_time_and_loads_nothing(name):
    written = interactive.show(name)._repr_html_()
    assert written == interactive.show(name)._repr_html_()
    assert len(written.encode()) <= interactive.LIMIT
    assert not re.search(r"https?:|\bsrc=|\bimport\b|@import|url\(", written)
    assert repr(interactive.show(name)).startswith("Instrument: ")


@pytest.mark.parametrize("name", interactive.NAMES)
def test_every_control_has_a_name_and_moves_by_keys_and_the_words_follow(page, name):
    there = root(page, name)
    assert there.evaluate("e => e.scrollWidth <= e.clientWidth")
    assert there.get_attribute("role") == "group" and there.get_attribute("aria-label")
    spec = interactive.show(name).spec
    seen = set()
    for control in spec["controls"]:
        role = "slider" if control["kind"] == "range" else "combobox"
        box = there.get_by_role(role, name=control["label"], exact=True)
        for key in ("Home", "ArrowRight", "End") if role == "slider" else ("Home", "ArrowDown"):
            box.press(key)
            seen.add(there.locator(".words").text_content())
        if role == "slider":
            place = int(box.input_value())
            assert box.get_attribute("aria-valuetext") == control["texts"][place]
            assert place == int(box.get_attribute("max")) > 0
    assert len(seen) > len(spec["controls"])
    assert there.locator("[aria-live=polite]").count() == 1
    for button in spec["presets"]:
        there.get_by_role("button", name=button["text"]).click()
        assert there.locator('button[aria-pressed="true"]', has_text=button["text"]).count() == 1


def test_two_of_a_kind_do_not_disturb_each_other(page):
    first, second = page.locator(f'[data-instrument="{interactive.NAMES[0]}"]').all()
    before = second.locator(".words").text_content()
    for key in ("Home", "End"):
        first.get_by_role("slider").first.press(key)
        assert second.locator(".words").text_content() == before
    second.get_by_role("slider").first.press("Home")
    assert second.locator(".words").text_content() != before


def test_settings_are_checked_and_texts_cannot_end_the_script(monkeypatch):
    assert interactive.show("block-cost", side=14).spec["settings"]["side"] == 14
    with pytest.raises(ValueError, match="no instrument 'cost'; there are: .*block-cost"):
        interactive.show("cost")
    with pytest.raises(ValueError, match="side cannot be 15; it can be: 7, 14"):
        interactive.show("block-cost", side=15)
    with pytest.raises(TypeError, match="no setting 'width'; there are: basic"):
        interactive.show("block-cost", width=64)
    shown = interactive.Instrument("block-cost", "a", "b", {"title": "</script>"})
    assert shown._repr_html_().count("</script>") == 1


def bottleneck(channels: int, reduction: int) -> nn.Sequential:
    """The path of a bottleneck with any reduction; the package's own reduces by 4."""
    inner = channels // reduction
    layers = [(channels, inner, 1), (inner, inner, 3), (inner, channels, 1)]
    made = [(nn.Conv2d(i, o, k, padding=k // 2, bias=False), nn.BatchNorm2d(o)) for i, o, k in layers]
    return nn.Sequential(*itertools.chain(*made))


def counts(block: nn.Module, channels: int, side: int) -> dict[str, int]:
    return {
        "weights": sum(p.numel() for p in block.parameters() if p.dim() == 4),
        "parameters": probes.count_parameters(block),
        "macs": probes.count_macs(block, (channels, side, side)),
    }


def test_a_block_costs_what_the_package_counts(page):
    for basic, wide, side in [(64, 256, 56), (256, 256, 14), (512, 64, 7), (64, 128, 28)]:
        for reduction in (2, 4, 8):
            found = at(page, "block-cost", basic=basic, bottleneck=wide, side=side, reduction=reduction)
            with torch.device("meta"):
                path = blocks.Bottleneck(wide, wide) if reduction == 4 else bottleneck(wide, reduction)
                assert found["bottleneck"] == counts(path, wide, side)
                assert found["basic"] == counts(blocks.BasicBlock(basic, basic), basic, side)
            for key in found["basic"]:
                ratio = at(page, "block-cost", count=key)["ratio"]
                assert ratio == pytest.approx(found["basic"][key] / found["bottleneck"][key], abs=1e-6)


@pytest.mark.parametrize("text", ["equal width: 16.94×", "equal cost: 1.06×"])
def test_the_two_famous_ratios_are_settings_with_a_name(page, text):
    root(page, "block-cost").get_by_role("button", name=text).press("Enter")
    ratio = text.split()[-1].removesuffix("×")
    assert f"{ratio} times the weights" in root(page, "block-cost").locator(".words").text_content()


def test_the_depths_are_those_of_the_records(page):
    there = root(page, "how-deep")
    for depth in (8, 14, 20, 32, 44, 56):
        for seed in ("all", 0, 2):
            found = at(page, "how-deep", depth=depth, seed=seed)
            for kind in ("plain", "residual"):
                records = runs.load_seeds(f"degradation-{kind}-{depth}")
                chosen = [r for r in records if seed in ("all", r["seed"])]
                losses = runs.last(chosen, "slice_loss")
                assert found[kind]["loss"] == pytest.approx(statistics.fmean(losses), abs=1e-6)
                accuracies = runs.last(chosen, "test_accuracy")
                assert found[kind]["accuracy"] == pytest.approx(statistics.fmean(accuracies), abs=1e-6)
                curves = [[entry["train_loss"] for entry in r["history"]] for r in chosen]
                assert len(found[kind]["curves"]) == len(curves)
                for drawn, recorded in zip(found[kind]["curves"], curves, strict=True):
                    assert drawn == pytest.approx(recorded, abs=1e-6)
                if seed == "all":
                    lit = there.locator("tr.lit")
                    assert lit.locator("th").text_content() == str(depth)
                    cells = lit.locator("td").all_text_contents()
                    place = ("plain", "residual").index(kind)
                    assert cells[place] == tables.summary(losses, 3)
                    assert cells[2 + place] == tables.summary(accuracies, 3)


def test_notebooks_hold_the_instruments_as_they_are_now():
    found = []
    for path in notebooks.paths():
        for cell in nbformat.read(path, as_version=4).cells:
            if call := re.fullmatch(r'interactive\.show\("([\w-]+)"\)', cell.source):
                found.append(call[1])
                (output,) = cell.outputs
                # Otherwise run code/tools/notebooks.py.
                assert output.data["text/html"] == interactive.show(call[1])._repr_html_(), path.name
                assert output.data["text/plain"] == repr(interactive.show(call[1]))
    assert sorted(found) == sorted(interactive.NAMES)
