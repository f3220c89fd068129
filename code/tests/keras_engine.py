"""Started by test_keras in a process of its own: what Keras computes on the engine that is asked for.

    KERAS_BACKEND=jax KERAS_HOME=FOLDER python keras_engine.py FOLDER

FOLDER holds Keras's settings, since half of them are only read when it is imported, and cases that PyTorch
has computed, one file each; the answers go beside them. PyTorch takes no step here: what its optimizers bring
along does not bear TensorFlow in the same process.
"""

import sys
from pathlib import Path

import keras
import numpy as np
import torch

from resnetbook import keras_models, models


def answer(case: dict) -> dict:
    """Outputs in evaluation mode, then the loss of one step, and outputs after it."""
    network = models.resnet(**case["options"])
    network.to(getattr(torch, keras.config.floatx())).load_state_dict(case["state"])
    options = dict(case["options"])
    channels = options.pop("in_channels")
    if case["form"] == "functional":
        model = keras_models.functional_resnet(input_shape=(None, None, channels), **options)
    else:
        model = keras_models.ResNet(**options)
        model.build((None, None, None, channels))
    keras_models.copy_weights(network, model)
    images = np.ascontiguousarray(case["images"].permute(0, 2, 3, 1).numpy())
    found = {"before": keras.ops.convert_to_numpy(model(images, training=False))}
    if case["lr"]:
        model.compile(
            keras_models.SGD(case["lr"], momentum=0.9, l2=1e-4),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        found["loss"] = float(model.train_on_batch(images, case["labels"].numpy()))
        found["after"] = keras.ops.convert_to_numpy(model(images, training=False))
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for path in sorted(folder.glob("*.case")):
        torch.save(answer(torch.load(path)), path.with_suffix(".answer"))
    print(keras.backend.backend(), keras.config.floatx(), keras.__version__)
