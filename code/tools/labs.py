"""Write what the laboratories in the page load: trained networks, a hundred images, recorded lesions.

    python code/tools/labs.py
    python code/tools/labs.py --check

Each file is a script that hands its content to ``resnetbookLab.load``: a page that was opened from a folder
may load scripts, but may not fetch files. Numbers lie in it as base64 of little-endian bytes. The weights are
the float16 numbers of ``code/resnetbook/weights/``, so nothing is rounded again.
"""

import argparse
import base64
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from resnetbook import data, models, studies

TARGET = Path(__file__).resolve().parents[2] / "book" / "site" / "static" / "labs"
NETWORKS = ("resnet-20", "plain-20")
SEED = 0
EACH = 10


def chosen(labels: torch.Tensor, each: int = EACH) -> torch.Tensor:
    """The first ``each`` images of every class, class by class: indices, int64 ``(10 * each,)``."""
    return torch.cat([(labels == k).nonzero()[:each, 0] for k in range(len(data.CLASSES))])


def script(name: str, content: dict) -> str:
    """A script that hands ``content`` to the page under ``name``."""
    return f"resnetbookLab.load({json.dumps(name)}, {json.dumps(content, ensure_ascii=False)});\n"


def _base64(tensor: torch.Tensor) -> str:
    array = tensor.contiguous().numpy()
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()


def network(name: str) -> str:
    """The script of a trained network: float16 weights and statistics in the order of its ``tensors``."""
    state = load_file(models.weights_path(f"{name}-seed{SEED}"))
    kept = {key: value for key, value in sorted(state.items()) if value.is_floating_point()}
    if wrong := [key for key, value in kept.items() if value.dtype != torch.float16]:
        raise TypeError(f"not float16: {', '.join(wrong)}")
    flat = torch.cat([value.flatten() for value in kept.values()])
    tensors = [[key, list(value.shape)] for key, value in kept.items()]
    result = studies.load_seeds("lesions")[SEED]["result"][name]
    lesions = {"whole": result["whole"], **result["removed"], **result["swapped"]}
    return script(name, {"tensors": tensors, "base64": _base64(flat), "lesions": lesions})


def images() -> str:
    """The script of the hundred test images: uint8 ``(100, 28, 28)``, and how to normalize them."""
    test = data.fashion_mnist()
    where = chosen(test.test_labels)
    content = {
        "classes": list(data.CLASSES),
        "each": EACH,
        "mean": data.MEAN,
        "std": data.STD,
        "index": where.tolist(),
        "base64": _base64(test.test_images[where]),
    }
    return script("images", content)


def files() -> dict[str, str]:
    """The content of every file, by its name."""
    return {f"{name}.js": network(name) for name in NETWORKS} | {"images.js": images()}


def main() -> None:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if a file is not as it should be"
    )
    check = parser.parse_args().check
    old = []
    for name, text in files().items():
        path = TARGET / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        old.append(name)
        if not check:
            path.write_text(text, encoding="utf-8")
            print(f"{name}: {len(text):,} bytes")
    if check and old:
        sys.exit(f"not as {Path(__file__).name} would write them: {', '.join(old)}")


if __name__ == "__main__":
    main()
