"""The instruments: in a browser without a network, by mouse and keys, they give the package's own numbers."""

import itertools
import math
import re
import statistics

import nbformat
import pytest
import torch
from lab_page import opened
from torch import nn
from torch.nn import functional as F

import notebooks
from resnetbook import blocks, interactive, models, probes, runs, tables

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


def test_the_window_computes_pytorchs_convolution_and_the_field_is_what_the_gradient_reaches(page):
    image = torch.tensor(interactive.show("window").spec["image"], dtype=torch.float64)[None, None]
    for size, stride, padding, kind in itertools.product(
        (2, 3, 5), (1, 3), (0, 2), ("vertical", "horizontal", "mean")
    ):
        found = at(page, "window", kernel=size, stride=stride, padding=padding, kind=kind)
        weight = torch.zeros(size, size, dtype=torch.float64)
        weight[:, 0], weight[:, -1] = -1, 1
        weight = {"vertical": weight, "horizontal": weight.T, "mean": torch.full_like(weight, 1 / size**2)}[
            kind
        ]
        expected = F.conv2d(image, weight[None, None], stride=stride, padding=padding)[0, 0]
        assert found["size"] == len(expected)
        torch.testing.assert_close(torch.tensor(found["map"], dtype=torch.float64), expected)
    for size, stride, layers in [(3, 1, 1), (3, 1, 3), (5, 2, 2), (3, 2, 4), (2, 3, 3)]:
        found = at(page, "window", kernel=size, stride=stride, layers=layers)
        # Two neighbours in the middle: which pixels reach them?
        x = torch.zeros(1, 1, 500, requires_grad=True)
        out = x
        for _ in range(layers):
            out = F.conv1d(out, torch.ones(1, 1, size), stride=stride)
        seen = [torch.autograd.grad(out[0, 0, i], x, retain_graph=True)[0].nonzero()[:, 2] for i in (1, 2)]
        assert (found["field"], found["jump"]) == (
            int(seen[0][-1] - seen[0][0]) + 1,
            int(seen[1][0] - seen[0][0]),
        )


def test_the_window_moves_by_keys_and_by_a_press_and_stays_inside(page):
    there = root(page, "window")
    at(page, "window", kernel=3, stride=1, padding=0, kind="vertical", row=2, column=3)
    there.get_by_role("slider", name="row").press("ArrowRight")
    assert "In row 3 and column 3" in there.locator(".words").text_content()
    there.locator('[data-set=\'{"row":5,"column":1}\']').last.click()
    assert "In row 5 and column 1" in there.locator(".words").text_content()
    found = at(page, "window", stride=3)  # 4×4 numbers are left
    assert found["value"] == found["map"][3][1]
    assert there.get_by_role("slider", name="row").get_attribute("max") == "3"


def test_signal_gradient_and_paths_follow_the_formulas_of_the_chapter(page):
    joins = {"none": (0, 1), "add": (1, 1), "half": (0.5, 0.5), "gate": (0.9, 0.1)}
    for blocks_, gain, join in itertools.product((1, 20, 50), (0.01, 0.25, 2), joins):
        found = at(page, "paths", blocks=blocks_, gain=gain, join=join)
        around, through = joins[join]
        kept, moved = around**2, through**2 * gain
        assert found["rate"] == pytest.approx(math.sqrt(kept + moved), rel=1e-6)
        assert found["end"] == pytest.approx((kept + moved) ** (blocks_ / 2), rel=1e-6)
        assert found["paths"] == (1 if join == "none" else 2**blocks_)
        # One step back through a block keeps what takes the shortcut, and moves the rest up by one length.
        parts = [1.0] + [0.0] * blocks_
        for _ in range(blocks_):
            parts = [kept * a + moved * b for a, b in zip(parts, [0.0, *parts[:-1]], strict=True)]
        shares = [part / sum(parts) for part in parts]
        assert found["gradient"] == pytest.approx(shares, abs=1e-6)
        assert found["meanLength"] == pytest.approx(sum(k * p for k, p in enumerate(shares)), rel=1e-6)


def test_variances_add_up_over_random_blocks_as_the_instrument_says(page):
    generator = torch.Generator().manual_seed(0)
    row = torch.randn(4000, 64, generator=generator)
    jacobian = torch.randn(64, 64, generator=generator) * math.sqrt(2 / 64)  # Var F = 2 Var x
    for join, (around, through) in {"add": (1, 1), "half": (0.5, 0.5), "gate": (0.9, 0.1)}.items():
        back = around * row + through * row @ jacobian
        rate = at(page, "paths", gain=2, join=join)["rate"]
        assert (back.square().mean() / row.square().mean()).sqrt().item() == pytest.approx(rate, rel=0.05)


def walked(depth: int, stem: str, side: int, task: str) -> list[list[int]]:
    """Channels, side, parameters and MACs after each stage, from the package's own network."""
    channels, classes = {"clothes": (1, 10), "photo": (3, 1000)}[task]
    with torch.device("meta"):
        model = models.resnet(depth, classes, channels, stem=stem).eval()
        x = torch.zeros(1, channels, side, side)
    macs = probes.macs_by_layer(model, (channels, side, side))
    rows = []
    for name in [
        "conv1",
        *(["maxpool"] if stem == "imagenet" else []),
        "layer1",
        "layer2",
        "layer3",
        "layer4",
    ]:
        x = model.get_submodule(name)(x)
        parameters = probes.count_parameters(model.get_submodule(name))
        parameters += probes.count_parameters(model.bn1) if name == "conv1" else 0
        work = sum(n for layer, n in macs.items() if f"{layer}.".startswith(f"{name}."))
        rows.append([x.shape[1], x.shape[2], parameters, work])
    return [*rows, [classes, 1, probes.count_parameters(model.fc), macs["fc"]]]


@pytest.mark.parametrize(
    ("depth", "stem", "side", "task"),
    [
        (18, "imagenet", 96, "clothes"),
        (18, "small", 28, "clothes"),
        (34, "imagenet", 28, "photo"),
        (50, "imagenet", 224, "photo"),
        (50, "small", 32, "clothes"),
        (101, "imagenet", 64, "clothes"),
        (152, "imagenet", 224, "photo"),
    ],
)
def test_shapes_and_counts_by_stage_are_those_of_the_network(page, depth, stem, side, task):
    found = at(page, "shape-walker", depth=depth, stem=stem, side=side, task=task)
    expected = walked(depth, stem, side, task)
    assert found["stages"] == expected
    assert found["parameters"] == sum(row[2] for row in expected)
    assert found["macs"] == sum(row[3] for row in expected)


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
