"""The training of ddp.py, with a checkpoint after every epoch."""

import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from resnetbook import data, models

CHECKPOINT = Path("checkpoint.pt")
dist.init_process_group("gloo")
rank = dist.get_rank()
found = data.fashion_mnist()
images = (found.train_images[:1024] / 255 - data.MEAN) / data.STD
dataset = TensorDataset(images, found.train_labels[:1024])
sampler = DistributedSampler(dataset)
loader = DataLoader(dataset, batch_size=32, sampler=sampler)
torch.manual_seed(0)
net = models.cifar_resnet(8, in_channels=1, stem_stride=2)
optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
done = 0
if CHECKPOINT.exists():
    state = torch.load(CHECKPOINT, weights_only=True)
    net.load_state_dict(state["net"])
    if "optimizer" in state:
        optimizer.load_state_dict(state["optimizer"])
    done = state.get("epochs", 0)
shared = DistributedDataParallel(net)

for epoch in range(done, 2):
    sampler.set_epoch(epoch)
    for step, (x, y) in enumerate(loader):
        if "die" in sys.argv and (rank, epoch, step) == (1, 1, 5):
            os.kill(os.getpid(), signal.SIGKILL)  # no goodbye, no clean-up
        loss = F.cross_entropy(shared(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if rank == 0:
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}", flush=True)
        state = {
            "net": net.state_dict(),
            "optimizer": optimizer.state_dict(),
            "epochs": epoch + 1,
        }
        torch.save(state, "checkpoint.new")
        os.replace("checkpoint.new", CHECKPOINT)  # all of it, or nothing

if rank == 0:
    torch.save(net.state_dict(), "resumed.pt")
dist.destroy_process_group()
