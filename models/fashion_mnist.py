"""Fashion-MNIST: its files, checked by content, and the fixed splits of the full set.

Reference: Xiao, Rasul, Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms", 2017,
arXiv:1708.07747; github.com/zalandoresearch/fashion-mnist, MIT licence.

Splits as in `splits.py`: 55,000 train (2,048 of them calibration), 5,000 validation, the official 10,000 test.
"""

import gzip
import hashlib
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgec.models import splits
from edgec.models.splits import Images, Labels, parted
from edgec.pipeline.core.errors import ModelError
from edgec.pipeline.core.records import Digest, Preprocess, Split

NAME = "fashion-mnist"
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


def cache_folder(name: str = NAME) -> Path:
    """Where `edgec.models.fetch` puts a data set: $EDGEC_DATA/<name>, or ~/.cache/edgec/<name>."""
    chosen = os.environ.get("EDGEC_DATA")
    return (Path(chosen) if chosen else Path.home() / ".cache" / "edgec") / name


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


def split_indices(train_labels: Labels, test_labels: Labels) -> dict[Split, NDArray[np.int64]]:
    """Official numbers of each split's images: into t10k for `test`, into train for the others."""
    return splits.split_indices(train_labels, test_labels, NAME)


def full(root: Path | None = None) -> dict[Split, tuple[Images, Labels]]:
    """Images and labels of the four splits of the full set.

    Raises:
        ModelError: it is not installed, or a file is damaged.
    """
    folder = find(root)
    train, test = read_part(folder, "train"), read_part(folder, "t10k")
    return parted(train, test, split_indices(train[1], test[1]))
