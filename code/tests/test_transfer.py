"""Transfer: what is frozen stays, what learns is what was said, and few images are drawn fairly."""

import copy

import pytest
import torch
from torch import nn

from resnetbook import data, models, probes, runs, studies, train, transfer
from resnetbook.transforms import prepare

pytestmark = pytest.mark.usefixtures("one_thread")


def network(num_classes: int = 5, width: int = 2) -> nn.Module:
    """A small network whose running statistics have seen something."""
    torch.manual_seed(3)
    model = models.cifar_resnet(8, width=width, in_channels=1, num_classes=num_classes, stem_stride=2)
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(16, 1, 28, 28))
    return model.eval()


def pictures(number: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (number, 1, 28, 28), dtype=torch.uint8, generator=generator)


def buffers(model: nn.Module) -> dict:
    return {name: value.clone() for name, value in model.named_buffers()}


def weights(model: nn.Module) -> dict:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def same(first: dict, second: dict) -> dict[str, bool]:
    return {name: torch.equal(value, second[name]) for name, value in first.items()}


def test_the_halves_share_no_class_and_leave_none_out():
    assert sorted((*transfer.OLD, *transfer.NEW)) == list(range(10))
    assert len(transfer.OLD) == len(transfer.NEW) == 5
    assert transfer.STEPS.keys() == set(transfer.SIZES)


def test_a_new_head_reads_what_the_old_one_did():
    model = network()
    head = transfer.replace_head(model, 7)
    assert model.fc is head and (head.in_features, head.out_features) == (8, 7)
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 7)
    with pytest.raises(ValueError, match="num_classes"):
        transfer.replace_head(model, 0)


def test_freezing_leaves_the_head_alone_and_the_mode():
    model = network().train()
    model.fc.requires_grad_(False)
    trained = transfer.freeze(model)
    assert [id(p) for p in trained] == [id(p) for p in model.fc.parameters()]
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {"fc.weight", "fc.bias"}
    assert all(module.training for module in model.modules())
    assert probes.count_parameters(model, trainable_only=True) == 8 * 5 + 5
    with pytest.raises(ValueError, match="no child 'head'; it has conv1, bn1"):
        transfer.freeze(model, "head")


@pytest.mark.parametrize("kept", [True, False])
def test_only_evaluation_mode_keeps_statistics(kept):
    model = network()
    transfer.freeze(model)
    before, start = buffers(model), weights(model)
    transfer.keep_statistics(model) if kept else model.train()
    assert model.training and model.bn1.training != kept
    model(3 * torch.randn(8, 1, 28, 28) + 1)
    stayed = same(before, buffers(model))
    assert all(stayed.values()) == kept
    assert kept or not any(stayed.values())
    assert all(same(start, weights(model)).values())


def test_rates_fall_with_the_distance_from_the_head():
    model = network()
    parts = transfer.parts_of(model)
    assert [type(part).__name__ for part in parts] == ["ModuleList", *["Sequential"] * 3, "Linear"]
    every = [id(p) for part in parts for p in part.parameters()]
    assert sorted(every) == sorted(id(p) for p in model.parameters())  # each once
    model.layer1.requires_grad_(False)
    groups = transfer.groups_by_depth(parts, 0.1, 0.5)
    assert [group["lr"] for group in groups] == pytest.approx([0.1, 0.05, 0.025, 0.1 * 0.5**4])
    frozen = {id(p) for p in model.layer1.parameters()}
    assert not frozen & {id(p) for group in groups for p in group["params"]}
    torch.optim.SGD(groups, lr=1.0)  # takes them


def test_features_are_what_the_head_reads():
    model, images = network().train(), pictures()
    before = buffers(model)
    found = transfer.features(model, images, batch_size=5)
    assert model.training and all(same(before, buffers(model)).values())
    model.eval()
    with torch.no_grad():
        assert torch.allclose(model.fc(found), model(prepare(images, transfer.RECIPE)), atol=1e-5)
    assert found.shape == (12, 8) and not model.fc._forward_pre_hooks


def test_a_draw_is_fair_and_a_smaller_one_is_among_a_larger():
    labels = torch.arange(60) % 3
    images = torch.arange(60).view(60, 1, 1, 1)
    few, its_labels = transfer.draw(images, labels, 4, seed=1)
    assert its_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert torch.equal(labels[few.flatten()], its_labels) and len(few.unique()) == 12
    more, _ = transfer.draw(images, labels, 9, seed=1)
    assert set(few.flatten().tolist()) < set(more.flatten().tolist())
    other, _ = transfer.draw(images, labels, 4, seed=2)
    assert set(few.flatten().tolist()) != set(other.flatten().tolist())
    with pytest.raises(ValueError, match="class 0 has 20 images, 21 are asked for"):
        transfer.draw(images, labels, 21, seed=1)


def test_shuffled_pixels_are_the_same_pixels_in_one_order():
    images, labels = pictures(20), torch.arange(20) % 10
    plain, numbers = transfer.task(images, labels)
    shuffled, again = transfer.task(images, labels, shuffled=True)
    assert torch.equal(numbers, again) and numbers.tolist() == [0, 1, 2, 3, 4] * 2  # 3, 4, 6, 8, 9
    assert torch.equal(plain.flatten(1).sort(1).values, shuffled.flatten(1).sort(1).values)
    moved = [torch.equal(a, b) for a, b in zip(plain, shuffled, strict=True)]
    assert not any(moved)
    # One order for all: where two images agree in a pixel before, they do after.
    agree = (plain[0] == plain[1]).sum()
    assert agree == (shuffled[0] == shuffled[1]).sum()


def test_adapting_is_sgd_with_a_cosine():
    """The same by hand, in full batches."""
    torch.manual_seed(0)
    model, x, y = nn.Linear(3, 2), torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 1, 0])
    by_hand = copy.deepcopy(model)
    transfer.adapt(model, x, y, [{"params": model.parameters(), "lr": 0.2}], steps=4)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.2, momentum=0.9, weight_decay=5e-4)
    for factor in (1, 0.5 + 0.125**0.5, 0.5, 0.5 - 0.125**0.5):
        optimizer.param_groups[0]["lr"] = 0.2 * factor
        optimizer.zero_grad()
        nn.functional.cross_entropy(by_hand(x), y).backward()
        optimizer.step()
    for mine, theirs in zip(model.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)
    with pytest.raises(ValueError, match="'kept' or 'moving', got 'frozen'"):
        transfer.adapt(model, x, y, [{"params": model.parameters(), "lr": 0.2}], 1, "frozen")


@pytest.fixture
def small(monkeypatch):
    """A book whose backbone is small and whose trainings are short."""
    monkeypatch.setattr(transfer, "backbone", lambda seed: network())
    monkeypatch.setattr(transfer, "STEPS", dict.fromkeys((1, *transfer.SIZES), 3))
    monkeypatch.setattr(transfer, "HEAD_STEPS", 3)


@pytest.mark.parametrize("method", transfer.METHODS)
def test_what_a_method_moves(small, method):
    images, labels = pictures(5), torch.arange(5)
    start = network()
    model = transfer.moved(method, images, labels, 1, seed=0)
    assert not model.training
    assert train.evaluate(model, images, labels, transfer.RECIPE, "cpu").logits.shape == (5, 5)
    if method == "pixels":
        assert probes.count_parameters(model) == 784 * 5 + 5
        return
    if method == "scratch":
        assert probes.count_parameters(model) == runs.load("pretrained-5-classes-seed0")["parameters"]
        return
    stayed = {n: s for n, s in same(weights(start), weights(model)).items() if not n.startswith("fc")}
    kept = same(buffers(start), buffers(model))
    if method == "fine-tune":
        assert not any(stayed.values()) and not any(kept.values())
    else:
        assert all(stayed.values()) and all(kept.values()) == (method == "head")
        assert method == "head" or not any(kept.values())
    assert not torch.equal(start.fc.weight, model.fc.weight)


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match="unknown method 'magic'; choose one of pixels, head"):
        transfer.moved("magic", pictures(5), torch.arange(5), 1, 0)


def test_the_old_accuracy_borrows_the_old_head_and_gives_it_back(small):
    images, labels = pictures(30), torch.arange(30) % 5
    model = transfer.moved("head", images, labels, 1, seed=0)
    own = model.fc
    whole = train.evaluate(network(), images, labels, transfer.RECIPE, "cpu").accuracy
    assert transfer.old_accuracy(model, 0, images, labels) == whole  # frozen in evaluation mode
    assert model.fc is own


def test_the_study_asks_for_everything_once(small, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (12_000, 1, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.arange(12_000) % 10
    loaded = data.FashionMNIST(images, labels, images[:50], labels[:50])
    monkeypatch.setattr(data, "fashion_mnist", lambda: loaded)
    monkeypatch.setattr(data, "split", lambda x, y: (x, y, x, y))
    found = transfer.few_labels(0)
    assert found["near"].keys() == set(transfer.METHODS)
    assert all(set(values) == {"5", "10", "50", "500"} for values in found["near"].values())
    assert set(found["shuffled"]) == set(transfer.METHODS) - {"trap"}
    assert set(found["old"]) == {"before", "head", "trap", "fine-tune"}
    assert found["old"]["head"] == found["old"]["before"]
    values = [v for part in found["near"].values() for v in part.values()]
    assert all(0 <= value <= 1 for value in values)
    assert studies.STUDIES["few-labels"].measure is transfer.few_labels
