"""fashion-mnist-small: the balanced part of Fashion-MNIST that lies in `models/data/` (MIT licence beside it; made by `make_subset.py`).

6,000 train (1,024 of them are calibration), 2,500 validation, 4,000 test. Each is a part of the full set's split of that name, so a
network trained on the full train split has seen neither validation nor test. Classes are dealt in turn: the first 10 k of a split have k
images of each class.

A part is one .xz file: n label bytes, then n * 784 pixel bytes. LZMA on the plain pixels was the smallest form (374 bytes an image; 385
to 420 after the predictions of PNG and JPEG-LS, 419 to 459 with the pixels of all images gathered in planes).
"""

import hashlib
import json
import lzma
from pathlib import Path

import numpy as np

from edgec.models.fashion_mnist import SIDE
from edgec.models.splits import Images, Labels
from edgec.pipeline.core.errors import ModelError
from edgec.pipeline.core.records import Split

FOLDER = Path(__file__).parent / "data"
INDEX = "fashion-mnist-small.json"
COUNTS = {Split.TRAIN: 6000, Split.VALIDATION: 2500, Split.TEST: 4000}
CALIBRATION = 1024


def unpack(data: bytes) -> tuple[Images, Labels]:
    """Images (n, 1, 28, 28) and labels (n,) of a decompressed part."""
    n = len(data) // (SIDE * SIDE + 1)
    flat = np.frombuffer(data, np.uint8)
    return flat[n:].reshape(n, 1, SIDE, SIDE), flat[:n].astype(np.int64)


def pack(images: Images, labels: Labels) -> bytes:
    """The inverse of `unpack`."""
    return labels.astype(np.uint8).tobytes() + images.tobytes()


def read(folder: Path = FOLDER) -> dict[Split, tuple[Images, Labels]]:
    """Images and labels of the four splits.

    Raises:
        ModelError: a file is missing or is not the one that the index names.
    """
    parts: dict[Split, list[tuple[Images, Labels]]] = {}
    try:
        for part in json.loads((folder / INDEX).read_text())["parts"]:
            data = lzma.decompress((folder / part["file"]).read_bytes())
            if hashlib.sha256(data).hexdigest() != part["sha256"]:
                raise ModelError(f"{folder / part['file']} does not hold what {INDEX} says", hint="install edgec again")
            parts.setdefault(Split(part["split"]), []).append(unpack(data))
    except (OSError, EOFError, lzma.LZMAError, ValueError, KeyError) as error:
        raise ModelError(f"edgec's own data in {folder} cannot be read: {error}", hint="install edgec again") from error
    splits = {split: (np.concatenate([i for i, _ in some]), np.concatenate([n for _, n in some])) for split, some in parts.items()}
    images, labels = splits[Split.TRAIN]
    splits[Split.CALIBRATION] = (images[:CALIBRATION], labels[:CALIBRATION])
    return splits
