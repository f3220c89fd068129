"""One gradient of 64 images, computed by two processes in four ways."""

import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from resnetbook import data, models

dist.init_process_group("gloo")
found = data.fashion_mnist()
x = (found.train_images[:64] / 255 - data.MEAN) / data.STD
y = found.train_labels[:64]
results = {}
for name, normalized, cut, weighted in (
    ("32 and 32", False, 32, False),
    ("48 and 16", False, 48, False),
    ("48 and 16, weighted", False, 48, True),
    ("32 and 32, batch norm", True, 32, False),
):
    torch.manual_seed(0)
    net = models.cifar_resnet(
        8, in_channels=1, stem_stride=2, normalized=normalized
    )
    shared = DistributedDataParallel(net)
    share = slice(0, cut) if dist.get_rank() == 0 else slice(cut, 64)
    loss = F.cross_entropy(shared(x[share]), y[share])
    weight = len(y[share]) * 2 / 64 if weighted else 1
    (loss * weight).backward()
    gradients = [p.grad.flatten() for p in net.parameters()]
    results[name] = torch.cat(gradients)
if dist.get_rank() == 0:
    torch.save(results, "gradients.pt")
dist.destroy_process_group()
