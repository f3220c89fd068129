"""The training of ddp.py through Lightning Fabric."""

import torch
from lightning.fabric import Fabric
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from resnetbook import data, models

fabric = Fabric(accelerator="cpu", strategy="ddp", devices=2)
fabric.launch()
found = data.fashion_mnist()
images = (found.train_images[:1024] / 255 - data.MEAN) / data.STD
dataset = TensorDataset(images, found.train_labels[:1024])
loader = DataLoader(dataset, batch_size=32, shuffle=True)
loader = fabric.setup_dataloaders(loader)  # puts in the sampler
torch.manual_seed(0)
net = models.cifar_resnet(8, in_channels=1, stem_stride=2)
optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
net, optimizer = fabric.setup(net, optimizer)  # puts in DDP

for epoch in range(2):
    for x, y in loader:
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
    fabric.print(f"epoch {epoch + 1}: loss {loss.item():.4f}")

fabric.save("fabric.pt", net.state_dict())  # rank 0 alone writes
