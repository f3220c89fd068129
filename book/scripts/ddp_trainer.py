"""The training of ddp.py through Lightning's Trainer."""

import lightning
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from resnetbook import data, models


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = models.cifar_resnet(8, in_channels=1, stem_stride=2)

    def training_step(self, batch: list, index: int) -> torch.Tensor:
        x, y = batch
        self.loss = F.cross_entropy(self.net(x), y)
        return self.loss

    def on_train_epoch_end(self) -> None:
        self.print(f"epoch {self.current_epoch + 1}: loss {self.loss:.4f}")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


found = data.fashion_mnist()
images = (found.train_images[:1024] / 255 - data.MEAN) / data.STD
dataset = TensorDataset(images, found.train_labels[:1024])
trainer = lightning.Trainer(
    accelerator="cpu",
    strategy="ddp",
    devices=2,
    max_epochs=2,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
)
module = Classifier()
trainer.fit(module, DataLoader(dataset, batch_size=32, shuffle=True))
if trainer.is_global_zero:
    torch.save(module.net.state_dict(), "trainer.pt")
