"""The audit finds planted mistakes, calls no sound network wrong, and leaves what it is given alone."""

import copy
import html
import importlib.util
import random

import faulty
import pytest
import torch
import torchvision
from torch import nn

from resnetbook import models
from resnetbook.checks import audit
from resnetbook.checks.audit import KINDS, TESTS
from resnetbook.checks.findings import TEXTS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def built(network: object) -> nn.Module:
    torch.manual_seed(0)
    return network()


PLANTED = [("wrong", *case) for case in faulty.WRONG.items()]
PLANTED += [("doubtful", *case) for case in faulty.DOUBTFUL.items()]


@pytest.mark.parametrize(("kind", "name", "case"), PLANTED, ids=[name for _, name, _ in PLANTED])
def test_a_planted_mistake_is_found_and_nothing_else_is_called_wrong(kind, name, case):
    cls, words = case
    report = audit(built(cls))
    found = [finding for finding in report.findings if finding.kind == kind and words in str(finding)]
    assert found, str(report)
    assert report.ok == (kind == "doubtful")
    others = [f.key for f in report.wrong if f not in found]
    # A norm that nothing calls any more is another mistake, and a true one.
    assert others == (["never-runs"] if name == "no second norm" else [])
    assert found[0].next_step or found[0].why
    assert words in " ".join(str(report).split())


@pytest.mark.parametrize("name", list(faulty.SOUND))
def test_a_sound_network_passes(name):
    cls, words = faulty.SOUND[name]
    report = audit(built(cls))
    assert report.ok and not report.doubtful, str(report)
    assert [words in str(finding) for finding in report.unusual] == [True] * bool(words), str(report)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_torchvisions_five_pass_and_equal_their_twin(depth):
    report = audit(built(getattr(torchvision.models, f"resnet{depth}")))
    assert report.findings == [] and report.tests["twin"].startswith("passed")
    assert report.plan.layers == depth


OURS = {
    "small stem, A": lambda: models.resnet18(10, 1, stem="small", shortcut="A", width=8),
    "C": lambda: models.resnet34(10, shortcut="C", width=8),
    "v1 bottleneck": lambda: models.resnet50(10, stride_on="1x1", width=8),
    "zero init": lambda: models.resnet50(10, width=8, zero_init_residual=True),
    "20 A": lambda: models.cifar_resnet(20),
    "20 B": lambda: models.cifar_resnet(20, shortcut="B", in_channels=1, stem_stride=2),
    "20 C": lambda: models.cifar_resnet(20, shortcut="C"),
    "56": lambda: models.cifar_resnet(56, width=8, zero_init_residual=True),
    "v2 A": lambda: models.cifar_resnet(20, preactivation=True),
    "v2 B": lambda: models.cifar_resnet(20, preactivation=True, shortcut="B"),
    "v2 C": lambda: models.cifar_resnet(20, preactivation=True, shortcut="C"),
    "without norms": lambda: models.cifar_resnet(20, normalized=False),
}


@pytest.mark.parametrize("name", list(OURS))
def test_ours_pass(name):
    report = audit(built(OURS[name]))
    assert report.ok and not report.doubtful, str(report)
    assert report.tests["twin"].startswith("passed") == (not name.startswith(("v2", "without")))


@pytest.mark.parametrize("name", ["resnext50_32x4d"])
def test_torchvisions_variants_are_unusual_and_not_wrong(name):
    report = audit(built(getattr(torchvision.models, name)))
    assert report.ok and not report.doubtful and report.unusual


def test_d2ls_network_is_doubtful_and_not_wrong():
    report = audit(built(models.d2l_resnet18))
    assert report.ok and {finding.key for finding in report.findings} == {"bias", "bare-projection"}


if importlib.util.find_spec("timm"):  # elsewhere not collected, so that no test is skipped

    @pytest.mark.parametrize("name", ["resnet18", "resnet18d", "seresnet18", "resnetv2_18"])
    def test_timms_pass(name):
        import timm

        report = audit(built(lambda: timm.create_model(name, num_classes=10)))
        assert report.ok and not report.doubtful, str(report)


def test_plain_networks_are_named():
    assert [f.key for f in audit(built(lambda: models.cifar_resnet(20, residual=False))).wrong] == ["plain"]


def test_a_depth_that_is_claimed_is_compared():
    network = built(lambda: models.resnet18(10, width=8))
    assert audit(network, depth=18).ok
    assert [finding.key for finding in audit(network, depth=34).wrong] == ["depth"]


def test_the_twin_finds_what_nothing_else_sees():
    turned = faulty.with_net(features=lambda self, x: faulty.Net.features(self, x.transpose(2, 3)))
    assert [finding.key for finding in audit(built(turned)).wrong] == ["twin"]


def test_an_epsilon_of_another_library_is_no_mistake():
    network = built(faulty.Net)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    report = audit(network)
    assert report.findings == [] and report.tests["twin"].startswith("passed")


def test_the_network_and_the_callers_random_numbers_are_left_alone():
    network = built(faulty.Net)
    network.stages[0].eval()
    network.last.weight.grad = torch.ones_like(network.last.weight)
    before = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    torch.manual_seed(3)
    random.seed(3)
    state, other = torch.get_rng_state(), random.getstate()
    report = audit(network)
    assert torch.equal(state, torch.get_rng_state()) and other == random.getstate()
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(network.last.weight.grad, torch.ones_like(network.last.weight))
    # Norms that are in another mode than the rest are what it says.
    assert [finding.key for finding in report.wrong] == ["mixed-modes"]


def test_it_works_without_gradients_switched_on_and_for_a_shape_that_is_given():
    with torch.no_grad():
        report = audit(built(faulty.Net), image_shape=(3, 40, 56))
    assert report.ok and report.plan.image_shape == (3, 40, 56)


def test_networks_for_one_size_are_unusual():
    class Flat(faulty.Net):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(64 * 4, 10)

        def head(self, x):
            return self.last(x.flatten(1))

    report = audit(built(Flat))
    assert report.ok and {"one-size", "no-last-pool"} <= {finding.key for finding in report.unusual}


def test_what_is_no_network_is_refused():
    with pytest.raises(TypeError, match=r"add \(\)"):
        audit(faulty.Net)
    with pytest.raises(TypeError, match="takes a network, not list"):
        audit([])


def test_a_kept_graph_is_named():
    class Keeps(faulty.Net):
        def head(self, x):
            self.kept = x
            return super().head(x)

    network = built(Keeps)
    network(torch.randn(2, 3, 64, 64))
    report = audit(network)
    assert "kept-graph" in {finding.key for finding in report.wrong}


def test_the_report_says_what_ran_and_reads_well():
    report = audit(built(faulty.with_block(residual=faulty._relu_last)))
    text = str(report)
    assert text.startswith("Net: not right (1 wrong, 0 doubtful, 0 unusual)")
    assert "Wrong:\n  1. ReLU before the plus in 8 blocks" in text
    assert max(map(len, text.splitlines())) <= 78
    assert list(report.tests) == list(TESTS) and report.tests["order"] == "found something"
    assert report.tests["shapes"].startswith("passed")


def test_a_notebook_shows_the_same_with_nothing_unescaped():
    report = audit(built(faulty.WRONG["blocks in a list"][0]))
    shown = report._repr_html_()
    assert "<Conv2d>" in str(report) and "&lt;Conv2d&gt;" in shown and "<Conv2d>" not in shown
    assert all(f'<td style="text-align: left">{html.escape(said)}' in shown for said in report.tests.values())


def test_every_text_can_be_said():
    assert {text.kind for text in TEXTS.values()} <= set(KINDS)
    assert {text.test for text in TEXTS.values()} <= set(TESTS)
    assert all(text.what and text.why for text in TEXTS.values())
