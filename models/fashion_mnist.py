"""Fashion-MNIST: its files, checked by content, and the fixed splits of the full set.

Reference: Xiao, Rasul, Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms", 2017,
arXiv:1708.07747; github.com/zalandoresearch/fashion-mnist, MIT licence.

Splits. The test split is the official one (10,000). The 60,000 official training images are put into an order of their own by hashing
their numbers (`order`): in each class the first 500 are validation, the rest train. Calibration is 2,048 images of train, its classes dealt
in turn (`dealt`), so that its first k are a fair sample for any k; the beginning of train is not. Calibration images are trained on too;
none of them is in validation or test.
"""

import gzip
import hashlib
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgec.pipeline.core.errors import ModelError
from edgec.pipeline.core.records import Digest, Preprocess, Split

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

CLASSES = 10
SIDE = 28
NORMALISE = Preprocess(mean=(0.2860,), std=(0.3530,), pad=2)
"""Mean and standard deviation of the 60,000 training images; 28 + 2 * 2 = 32 pixels, the side of CIFAR networks."""

CONTENT: Mapping[str, Digest] = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""SHA-256 of the *decompressed* files: Debian recompresses them, the content is the same."""

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
REMEDY = (
    "Debian and Ubuntu: apt-get install dataset-fashion-mnist; elsewhere: python -m edgec.models.fetch fashion-mnist; "
    'or name = "fashion-mnist-small" in [data], which is part of edgec'
)
VALIDATION_PER_CLASS = 500
CALIBRATION = 2048


def cache_folder() -> Path:
    """Where `edgec.models.fetch` puts the files: $EDGEC_DATA/fashion-mnist, or ~/.cache/edgec/fashion-mnist."""
    chosen = os.environ.get("EDGEC_DATA")
    return (Path(chosen) if chosen else Path.home() / ".cache" / "edgec") / "fashion-mnist"


def find(root: Path | None = None) -> Path:
    """The folder with the four .gz files: `root` where it is given, else the cache folder, else Debian's package.

    Raises:
        ModelError: a file is missing in all of them.
    """
    folders = [root.expanduser()] if root else [cache_folder(), DEBIAN]
    for folder in folders:
        if all((folder / f"{name}.gz").is_file() for name in CONTENT):
            return folder
    raise ModelError("the full Fashion-MNIST is not installed", hint=REMEDY, context={"searched": [str(f) for f in folders]})


def content(file: Path) -> bytes:
    """The decompressed bytes of one of the four files, after checking that they are Fashion-MNIST's.

    Raises:
        ModelError: it cannot be read or decompressed, or the content is another.
    """
    name = file.name.removesuffix(".gz")
    try:
        data = gzip.decompress(file.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ModelError(f"{file} cannot be read as gzip: {error}", hint=f"remove it and install it again. {REMEDY}") from error
    if hashlib.sha256(data).hexdigest() != CONTENT[name]:
        raise ModelError(f"{file} does not hold Fashion-MNIST's {name} (SHA-256)", hint=f"remove it and install it again. {REMEDY}")
    return data


def read_part(folder: Path, part: str) -> tuple[Images, Labels]:
    """Images (n, 1, 28, 28) and labels (n,) of "train" or "t10k", in the official order. IDX: 16 and 8 bytes of header, then the bytes."""
    pixels = np.frombuffer(content(folder / f"{part}-images-idx3-ubyte.gz"), np.uint8, offset=16)
    labels = np.frombuffer(content(folder / f"{part}-labels-idx1-ubyte.gz"), np.uint8, offset=8)
    return pixels.reshape(-1, 1, SIDE, SIDE), labels.astype(np.int64)


def order(n: int, part: str) -> NDArray[np.int64]:
    """A fixed order of 0 … n - 1: by SHA-256 of "fashion-mnist/<part>/<number>". It depends on no library's random generator."""
    keys = [hashlib.sha256(f"fashion-mnist/{part}/{i}".encode()).digest() for i in range(n)]
    return np.array(sorted(range(n), key=keys.__getitem__), dtype=np.int64)


def dealt(labels: Labels, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """`indices` with the first of each class, then the second of each, and so on: the first 10 k have k of each class."""
    turn = np.empty(len(indices), dtype=np.int64)
    for label in range(CLASSES):
        mine = np.flatnonzero(labels[indices] == label)
        turn[mine] = np.arange(len(mine))
    return indices[np.argsort(turn, kind="stable")]


def split_indices(train_labels: Labels, test_labels: Labels) -> dict[Split, NDArray[np.int64]]:
    """Official numbers of each split's images: into t10k for `test`, into train for the others."""
    shuffled = order(len(train_labels), "train")
    is_validation = np.isin(shuffled, dealt(train_labels, shuffled)[: CLASSES * VALIDATION_PER_CLASS])
    validation, train = shuffled[is_validation], shuffled[~is_validation]
    return {
        Split.TRAIN: train,
        Split.CALIBRATION: dealt(train_labels, train)[:CALIBRATION],
        Split.VALIDATION: validation,
        Split.TEST: np.arange(len(test_labels)),
    }


def full(root: Path | None = None) -> dict[Split, tuple[Images, Labels]]:
    """Images and labels of the four splits of the full set.

    Raises:
        ModelError: it is not installed, or a file is damaged.
    """
    folder = find(root)
    train, test = read_part(folder, "train"), read_part(folder, "t10k")
    result = {}
    for split, indices in split_indices(train[1], test[1]).items():
        images, labels = test if split is Split.TEST else train
        result[split] = (images[indices], labels[indices])
    return result
