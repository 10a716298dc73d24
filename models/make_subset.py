"""Makes `models/data/fashion-mnist-small-*` from the full set.

python -m edgec.models.make_subset
"""

import hashlib
import json
import lzma

from edgec.models import fashion_mnist, splits
from edgec.models.subset import COUNTS, FOLDER, INDEX, pack
from edgec.pipeline.core.records import Split

IMAGES_PER_FILE = 4000
"""Keeps each file below 1.9 MB."""


def main() -> None:
    """Write the parts and their index."""
    train, test = (fashion_mnist.read_part(fashion_mnist.find(), part) for part in ("train", "t10k"))
    indices = fashion_mnist.split_indices(train[1], test[1])
    indices[Split.TEST] = splits.order(len(test[1]), f"{fashion_mnist.NAME}/t10k")
    parts = []
    for split, n in COUNTS.items():
        images, labels = test if split is Split.TEST else train
        chosen = splits.dealt(labels, indices[split])[:n]
        for number, start in enumerate(range(0, len(chosen), IMAGES_PER_FILE)):
            some = chosen[start : start + IMAGES_PER_FILE]
            data = pack(images[some], labels[some])
            file = f"fashion-mnist-small-{split.value}-{number}.xz"
            (FOLDER / file).write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
            parts.append({"split": split.value, "file": file, "n": len(some), "sha256": hashlib.sha256(data).hexdigest()})
    about = {
        "command": "python -m edgec.models.make_subset",
        "source": "Fashion-MNIST, github.com/zalandoresearch/fashion-mnist",
        "source_sha256_decompressed": dict(fashion_mnist.CONTENT),
        "licence": "MIT, see LICENSE-fashion-mnist.txt",
        "note": "classes are dealt in turn; calibration is the beginning of train; sha256 is of the decompressed part",
        "parts": parts,
    }
    (FOLDER / INDEX).write_text(json.dumps(about, indent=2) + "\n")


if __name__ == "__main__":
    main()
