"""Laboratory A: its networks give PyTorch's logits, whole and broken, and its buttons do what they say."""

import gzip

import lab_page
import labs
import pytest
import torch

from resnetbook import inside, models
from resnetbook.recipe import Recipe
from resnetbook.transforms import prepare

pytestmark = pytest.mark.slow

# Every picture of the page, or every so manieth, through a network with a lesion: logits (100 / step, 10).
_LOGITS = """([name, lesion, step]) => {
  const net = networks();
  known[name] ??= net.unpack(resnetbookLab.content[name]);
  const images = resnetbookLab.content.images;
  const bytes = net.bytes(images.base64);
  return images.index.flatMap((_, i) => {
    if (i % step) return [];
    const grey = bytes.subarray(784 * i, 784 * (i + 1));
    const picture = Float32Array.from(grey, (value) => (value / 255 - images.mean) / images.std);
    return [Array.from(net.forward(known[name], name.startsWith("resnet"), picture, lesion).logits)];
  });
}"""


@pytest.fixture(scope="module")
def images(dataset):
    """The hundred, prepared as for the training, and their labels."""
    where = labs.chosen(dataset.test_labels)
    assert where.tolist() == sorted(set(where.tolist()), key=lambda i: (int(dataset.test_labels[i]), i))
    return prepare(dataset.test_images[where], Recipe()), dataset.test_labels[where]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    return lab_page.write(tmp_path_factory.mktemp("lab"), "lab_break")


@pytest.fixture(scope="module")
def page(browser, address):
    page = lab_page.opened(browser, address)
    for name in labs.files():
        page.add_script_tag(path=lab_page.LABS / name)
    page.evaluate("() => { globalThis.known = {}; }")
    yield page
    assert not page.errors
    page.context.close()


def differs(page, name, images, model, step=1, **lesion):
    """The largest difference of a logit between the page and a model, on every so manieth image."""
    lesion = {"removed": [], "swapped": None, "silenced": {}} | lesion
    found = torch.tensor(page.evaluate(_LOGITS, [name, lesion, step]))
    with torch.no_grad():
        expected = model(images[::step])
    assert expected.std() > 0.1
    return (found - expected).abs().max().item()


def test_the_committed_files_are_those_of_the_command(dataset):
    for name, text in labs.files().items():
        assert (lab_page.LABS / name).read_text(encoding="utf-8") == text, f"run code/tools/labs.py: {name}"
        assert len(gzip.compress(text.encode(), 6)) < 600_000


@pytest.mark.parametrize("name", labs.NETWORKS)
def test_logits_are_pytorchs_whole_and_without_each_block(page, images, name):
    model = models.trained(name)
    assert differs(page, name, images[0], model) < 1e-3
    for block in inside.removable(model):
        with inside.removed(model, block):
            assert differs(page, name, images[0], model, removed=[block]) < 1e-3, block
    with inside.removed(model, "layer1.1", "layer3.2"):
        assert differs(page, name, images[0], model, removed=["layer1.1", "layer3.2"]) < 1e-3


def test_swapped_blocks_and_silent_channels(page, images):
    model = models.trained("resnet-20")
    for pair in (("layer1.0", "layer1.2"), ("layer2.1", "layer2.2"), ("layer3.1", "layer3.2")):
        with inside.swapped(model, *pair):
            assert differs(page, "resnet-20", images[0], model, 5, swapped=pair) < 1e-3, pair
    for layer, name in (("relu", "stem"), ("layer2", "layer2")):

        def silence(module, inputs, out):
            out = out.clone()
            out[:, [3, 5]] = 0
            return out

        handle = model.get_submodule(layer).register_forward_hook(silence)
        assert differs(page, "resnet-20", images[0], model, 5, silenced={name: [3, 5]}) < 1e-3, layer
        handle.remove()


def test_a_wrong_network_would_be_noticed(page, images):
    assert differs(page, "resnet-20", images[0], models.trained("resnet-20"), 5, removed=["layer3.2"]) > 0.1
    assert differs(page, "resnet-20", images[0], models.trained("resnet-20", seed=1), 5) > 0.1


def right(page):
    page.wait_for_selector("[data-lab][data-right]", timeout=60_000)
    return int(page.locator("[data-lab]").get_attribute("data-right"))


def test_a_reader_breaks_a_network_by_keyboard_and_by_finger(browser, address, images):
    page = lab_page.opened(browser, address, viewport={"width": 360, "height": 740}, has_touch=True)
    try:
        assert page.evaluate("Object.keys(resnetbookLab.content)") == []  # nothing is loaded beforehand
        page.get_by_role("button", name="Load the network").press("Enter")
        model = models.trained("resnet-20")

        def accuracy():
            with torch.no_grad():
                return int((model(images[0]).argmax(1) == images[1]).sum())

        assert right(page) == accuracy()
        page.get_by_role("button", name="leave out block 1.1").press("Space")
        with inside.removed(model, "layer1.0"):
            assert right(page) == accuracy()
        page.get_by_role("button", name="Make it whole").tap()
        page.get_by_label("Swap").select_option(label="1.1 ↔ 1.2")
        with inside.swapped(model, "layer1.0", "layer1.1"):
            assert right(page) == accuracy()
        page.get_by_label("plain-20").check()
        page.get_by_role("button", name="leave out block 2.1").wait_for()
        page.wait_for_function("document.querySelectorAll('.log tbody tr').length === 4")
        assert page.get_by_role("button", name="leave out block 2.1").is_disabled()
        rows = page.locator(".log tbody tr").all_inner_texts()
        assert [row.split("\t")[0] for row in rows] == ["plain-20"] + 3 * ["resnet-20"]
        # Arrow keys move among the pictures.
        page.locator(".thumb").first.focus()
        page.keyboard.press("ArrowDown")
        assert page.locator(".thumb[aria-pressed=true]").get_attribute("aria-label").startswith("trouser 1")
        page.locator(".answer-line", has_text="trouser →").wait_for()
        page.get_by_role("button", name="silence channel 3 of").click()
        page.locator(".verdict", has_text="channel 3 silent").wait_for()
        # A picture of one's own: an uploaded one is made bright on black.
        drawn = "() => document.querySelector('.pad').toDataURL()"
        page.set_input_files("input[type=file]", lab_page.BOOK / "site" / "static" / "card.png")
        page.locator(".answer-line", has_text="your picture →").wait_for()
        before = page.evaluate(drawn)
        page.get_by_role("button", name="Clear and draw").click()
        box = page.locator(".pad").bounding_box()
        page.mouse.move(box["x"] + 40, box["y"] + 40)
        page.mouse.down()
        page.mouse.move(box["x"] + 120, box["y"] + 120)
        page.mouse.up()
        assert page.evaluate(drawn) != before
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert not page.errors
    finally:
        page.context.close()


def test_without_scripts_there_is_a_sentence(browser, address):
    page = lab_page.opened(browser, address, java_script_enabled=False)
    assert "needs scripts" in page.locator("body").inner_text()
    page.context.close()
