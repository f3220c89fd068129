"""Laboratory B: its gradients are PyTorch's, the default shows the order that it promises, switches work."""

import json

import lab_page
import pytest
import torch
from torch.nn import functional as F

pytestmark = pytest.mark.slow

# Some steps; then the weights, the points, the loss and all gradients.
_GRADIENTS = """([settings, residual, steps]) => {
  const net = training();
  const data = net.spirals(40, settings.seed);
  const one = net.learner({ rate: 0.02, ...settings }, residual, data);
  for (let i = 0; i < steps; i++) net.step(one);
  const pass = net.forward(one.layers, residual, data.x, data.N);
  const gradients = net.backward(one.layers, residual, pass, data.y);
  const plain = (of) => Object.fromEntries(
    Object.entries(of).map(([key, value]) => [key, value.length ? Array.from(value) : value]));
  return { x: Array.from(data.x), y: Array.from(data.y), loss: net.lossOf(pass.logits, data.y).loss,
           layers: one.layers.map(plain), gradients: gradients.map(plain) };
}"""

# For each seed the mean loss of the last ten steps of both networks.
_ORDER = """([settings, seeds, steps]) => seeds.map((seed) => {
  const net = training();
  const data = net.spirals(120, seed);
  return [false, true].map((residual) => {
    const one = net.learner({ ...settings, seed }, residual, data);
    for (let i = 0; i < steps; i++) net.step(one);
    return one.losses.slice(-10).reduce((a, b) => a + b) / 10;
  });
})"""
DEFAULT = {"depth": 30, "width": 16, "norm": True, "zero": False, "rate": 0.02}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    return lab_page.write(tmp_path_factory.mktemp("lab"), "lab_train")


@pytest.fixture(scope="module")
def page(browser, address):
    page = lab_page.opened(browser, address, viewport={"width": 360, "height": 740})
    yield page
    assert not page.errors
    page.context.close()


def by_pytorch(found, residual):
    """The loss and the gradients of the same weights, in float64."""
    names = ("weight", "bias", "scale", "shift")
    layers = [
        {key: torch.tensor(layer[key], dtype=torch.float64) for key in names if key in layer}
        for layer in found["layers"]
    ]
    for layer, given in zip(layers, found["layers"], strict=True):
        layer["weight"] = layer["weight"].view(given["out"], given["in"])
        for value in layer.values():
            value.requires_grad_()
    h = torch.tensor(found["x"], dtype=torch.float64).view(-1, 2)  # (N, 2)

    def through(layer, h):
        h = F.linear(h, layer["weight"], layer["bias"])
        return F.batch_norm(h, None, None, layer["scale"], layer["shift"], True) if "scale" in layer else h

    h = torch.relu(through(layers[0], h))
    for first, second in zip(layers[1:-1:2], layers[2:-1:2], strict=True):
        out = through(second, torch.relu(through(first, h)))
        h = torch.relu(out + h if residual else out)
    logits = through(layers[-1], h)[:, 0]
    loss = F.binary_cross_entropy_with_logits(logits, torch.tensor(found["y"], dtype=torch.float64))
    loss.backward()
    return loss.item(), [{key: value.grad.flatten() for key, value in layer.items()} for layer in layers]


def furthest(found, residual):
    """The largest difference of a gradient from PyTorch's, and the largest gradient of a weight."""
    loss, expected = by_pytorch(found, residual)
    assert found["loss"] == pytest.approx(loss, abs=1e-10)
    pairs = [
        (torch.tensor(got[key], dtype=torch.float64), value)
        for got, layer in zip(found["gradients"], expected, strict=True)
        for key, value in layer.items()
    ]
    largest = max(value.abs().max().item() for _, value in pairs)
    return max((got - value).abs().max().item() for got, value in pairs), largest


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize(("depth", "zero", "steps"), [(2, False, 0), (12, False, 3), (12, True, 3)])
def test_gradients_are_pytorchs(page, norm, residual, depth, zero, steps):
    settings = {"depth": depth, "width": 8, "norm": norm, "zero": zero, "seed": 1, "rate": 0.002}
    found = page.evaluate(_GRADIENTS, [settings, residual, steps])
    difference, largest = furthest(found, residual)
    assert difference < 1e-5 * min(1, largest)


def test_a_wrong_gradient_would_be_noticed(page):
    settings = {"depth": 12, "width": 8, "norm": True, "zero": False, "seed": 1}
    found = page.evaluate(_GRADIENTS, [settings, True, 1])
    assert furthest(found | {"loss": by_pytorch(found, False)[0]}, False)[0] > 1e-3


def test_at_the_default_depth_the_residual_network_is_ahead_and_with_four_not_always(page):
    losses = page.evaluate(_ORDER, [DEFAULT, [0, 1, 2], 80])
    assert all(residual < plain for plain, residual in losses)
    shallow = page.evaluate(_ORDER, [DEFAULT | {"depth": 4, "rate": 0.1}, list(range(12)), 80])
    wins = sum(residual < plain for plain, residual in shallow)
    assert 0 < wins < 12


def losses_of(page, steps):
    page.wait_for_function(f"+document.querySelector('.lab').dataset.steps >= {steps}", timeout=60_000)
    return json.loads(page.locator(".lab").get_attribute("data-losses"))


def test_a_reader_trains_and_switches_the_shortcuts_off(page):
    page.get_by_role("button", name="Train").press("Enter")
    page.locator(".said", has_text="After").wait_for(timeout=60_000)
    plain, residual = losses_of(page, 100)
    assert residual < plain
    assert page.locator(".norms").first.locator("rect").count() == DEFAULT["depth"]
    page.get_by_role("button", name="Pause").click()
    page.get_by_label("Depth").focus()
    page.keyboard.press("Home")
    assert page.get_by_text("2 layers").is_visible()
    page.keyboard.press("ArrowRight")
    page.get_by_label("Shortcuts, right").uncheck()
    page.get_by_role("button", name="Train").click()
    plain, residual = losses_of(page, 10)
    assert plain == residual
    page.get_by_role("button", name="Start again").click()
    assert page.get_by_text("step 0").is_visible()
    # A training that diverges is told, and draws nothing that is no number.
    page.get_by_label("Shortcuts, right").check()
    page.get_by_label("Depth").press("End")
    page.get_by_label("Normalization").uncheck()
    page.get_by_label("Learning rate").select_option("0.2")
    page.get_by_role("button", name="Train").click()
    page.locator("section.residual", has_text="diverged").wait_for(timeout=60_000)
    page.get_by_role("button", name="Start again").click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_without_scripts_there_is_a_sentence(browser, address):
    page = lab_page.opened(browser, address, java_script_enabled=False)
    assert "needs scripts" in page.locator("body").inner_text()
    page.context.close()
