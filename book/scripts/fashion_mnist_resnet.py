"""A ResNet-18, 16 channels wide, on Fashion-MNIST in five epochs.

The ResNet book's training `epochs-5`, for PyTorch and torchvision alone; the
mean test accuracy of the book's five runs is 0.9366. MIT licence.

    python fashion_mnist_resnet.py  # downloads 30 MB to the folder ./data
"""

import argparse
import math
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.datasets import FashionMNIST

MEAN, STD = 0.2860, 0.3530  # of all training pixels, scaled to 0 to 1
BATCH, LR, MOMENTUM, DECAY, SMOOTHING = 128, 0.2, 0.9, 5e-4, 0.1


class Block(nn.Module):
    """Two 3×3 convolutions, and a shortcut around them."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = nn.Identity()
        if stride != 1 or inside != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(inside, out, 1, stride, bias=False),
                nn.BatchNorm2d(out),
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = F.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return F.relu(residual + self.downsample(x))


class ResNet18(nn.Module):
    """ResNet-18 for small grey images; layers are named as in torchvision."""

    def __init__(self, width: int = 16, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for stage in range(4):
            out = width * 2**stage
            first = Block(channels, out, stride=1 if stage == 0 else 2)
            blocks = nn.Sequential(first, Block(out, out, stride=1))
            setattr(self, f"layer{stage + 1}", blocks)
            channels = out
        self.fc = nn.Linear(channels, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):  # He's rule
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))  # (N, width, 28, 28)
        x = self.layer1(x)
        x = self.layer2(x)  # (N, 2 * width, 14, 14)
        x = self.layer3(x)  # (N, 4 * width, 7, 7)
        x = self.layer4(x)  # (N, 8 * width, 4, 4)
        return self.fc(x.mean((2, 3)))


def prepare(images: Tensor) -> Tensor:
    """Images uint8 (N, 1, 28, 28) as float32 of mean 0 and deviation 1."""
    x = (images.float() / 255 - MEAN) / STD
    return x.contiguous(memory_format=torch.channels_last)


def one_cycle(step: int, num_steps: int) -> float:
    """The share of the largest rate: up over 30 % of the steps, then down."""
    progress = step / num_steps
    if progress < 0.3:
        return max(0.02, progress / 0.3)
    return (1 - progress) / 0.7


def train(
    net: nn.Module, images: Tensor, labels: Tensor, options: argparse.Namespace
) -> None:
    """Train in place; images are uint8 (N, 1, 28, 28), labels int64 (N,)."""
    net.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        net.parameters(), LR, MOMENTUM, weight_decay=DECAY, nesterov=True
    )
    num_steps, step = options.epochs * math.ceil(len(images) / BATCH), 0
    for epoch in range(1, options.epochs + 1):
        start, total = time.perf_counter(), 0.0
        rng = torch.Generator().manual_seed(options.seed * 100_003 + epoch)
        order = torch.randperm(len(images), generator=rng).to(images.device)
        for batch in order.split(BATCH):
            optimizer.param_groups[0]["lr"] = LR * one_cycle(step, num_steps)
            x, y = prepare(images[batch]), labels[batch]
            device, half = x.device.type, options.bfloat16
            with torch.autocast(device, torch.bfloat16, enabled=half):
                logits = net(x).float()
            loss = F.cross_entropy(logits, y, label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(y)
            step += 1
        print(f"epoch {epoch}: loss {total.item() / len(images):.4f},", end=" ")
        print(f"{time.perf_counter() - start:.0f} s", flush=True)


@torch.no_grad()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of right answers."""
    net.eval()
    answers = [net(prepare(part)).argmax(1) for part in images.split(500)]
    return (torch.cat(answers) == labels).float().mean().item()


def main(argv: list[str] | None = None) -> float:
    """Train on 60,000 images, then read the 10,000 test images once."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--data", default="data", help="a folder, filled if it is empty")
    add("--epochs", type=int, default=5)
    add("--images", type=int, help="train on the first so many only")
    add("--seed", type=int, default=0)
    add("--bfloat16", action="store_true", help="16 bit inside the layers")
    options = parser.parse_args(argv)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    splits = []
    for which in (True, False):
        found = FashionMNIST(options.data, train=which, download=True)
        pixels, targets = found.data[:, None], found.targets
        splits.append((pixels.to(device), targets.to(device)))
    (images, labels), test = splits
    images, labels = images[: options.images], labels[: options.images]
    torch.manual_seed(options.seed)
    net = ResNet18().to(device)
    train(net, images, labels, options)
    tested = accuracy(net, *test)
    print(f"test accuracy {tested:.4f}")
    return tested


if __name__ == "__main__":
    main()
