"""Train a small ResNet in as many processes as torchrun starts."""

import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from resnetbook import data, models

dist.init_process_group("gloo")  # wait until all are there
rank = dist.get_rank()
found = data.fashion_mnist()
images = (found.train_images[:1024] / 255 - data.MEAN) / data.STD
dataset = TensorDataset(images, found.train_labels[:1024])
sampler = DistributedSampler(dataset)  # other images for each rank
loader = DataLoader(dataset, batch_size=32, sampler=sampler)
torch.manual_seed(0)
net = models.cifar_resnet(8, in_channels=1, stem_stride=2)
shared = DistributedDataParallel(net)  # rank 0's weights for all
optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)

for epoch in range(2):
    sampler.set_epoch(epoch)  # another order of the images
    for x, y in loader:
        loss = F.cross_entropy(shared(x), y)
        optimizer.zero_grad()
        loss.backward()  # every gradient is now the mean over all ranks
        optimizer.step()
    if rank == 0:
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}", flush=True)

if rank == 0:
    torch.save(net.state_dict(), "ddp.pt")
dist.destroy_process_group()
