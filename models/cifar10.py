"""CIFAR-10: its archive, checked by content, and the fixed splits of the set.

Reference: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; www.cs.toronto.edu/~kriz/cifar.html, which states no
licence. The binary version is read (no pickle): each of six files is 10,000 records of one label byte and 3 x 32 x 32 pixel bytes, red,
green, blue, row by row.

Splits as in `splits.py`: 45,000 train (2,048 of them calibration), 5,000 validation, the official 10,000 test.
"""

import hashlib
import io
import tarfile
import zlib
from pathlib import Path

import numpy as np

from edgec.models.fashion_mnist import cache_folder
from edgec.models.splits import Arrays, parted, split_indices
from edgec.pipeline.core.errors import ModelError
from edgec.pipeline.core.records import Digest, Preprocess, Split

NAME = "cifar-10"
CLASSES = 10
SIDE = 32
NORMALISE = Preprocess(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
"""Mean and standard deviation of each channel over the 50,000 training images."""

ARCHIVE = "cifar-10-binary.tar.gz"
SHA256: Digest = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
FOLDER = "cifar-10-batches-bin"
TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST = ("test_batch.bin",)
RECORD = 1 + 3 * SIDE * SIDE
REMEDY = f"python -m edgec.models.fetch {NAME} (170 MB), or root in [data] as the folder that holds {ARCHIVE}"


def find(root: Path | None = None) -> Path:
    """The archive: in `root` where it is given, else in the cache folder.

    Raises:
        ModelError: it is not there.
    """
    file = (root.expanduser() if root else cache_folder(NAME)) / ARCHIVE
    if not file.is_file():
        raise ModelError("CIFAR-10 is not installed", hint=REMEDY, context={"searched": [str(file)]})
    return file


def content(file: Path, sha256: Digest = SHA256) -> bytes:
    """The archive's bytes, after checking that they are CIFAR-10's.

    Raises:
        ModelError: it cannot be read, or the content is another.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}", hint=REMEDY) from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ModelError(f"{file} is not the binary version of CIFAR-10 (SHA-256)", hint=f"remove it and install it again. {REMEDY}")
    return data


def records(data: bytes, name: str) -> Arrays:
    """Images (n, 3, 32, 32) and labels (n,) of one of the files.

    Raises:
        ModelError: no whole number of records, or a label outside 0 … 9.
    """
    if not data or len(data) % RECORD:
        raise ModelError(f"{name} has {len(data)} bytes, no whole number of records of {RECORD}", hint="is it of the binary version?")
    rows = np.frombuffer(data, np.uint8).reshape(-1, RECORD)
    labels = rows[:, 0].astype(np.int64)
    if labels.max() >= CLASSES:
        raise ModelError(f"{name} has the label {labels.max()}, outside 0 … {CLASSES - 1}", hint="is it of the binary version of CIFAR-10?")
    return rows[:, 1:].reshape(-1, 3, SIDE, SIDE), labels


def read_parts(archive: bytes) -> tuple[Arrays, Arrays]:
    """The official training and test images, in the files' order; nothing is unpacked to disk.

    Raises:
        ModelError: it is no such archive, or a file is missing in it or damaged.
    """
    found: dict[str, Arrays] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
            for name in (*TRAIN, *TEST):
                member = opened.extractfile(f"{FOLDER}/{name}")
                found[name] = records(b"" if member is None else member.read(), name)
    except (tarfile.TarError, OSError, EOFError, zlib.error, KeyError) as error:
        raise ModelError(f"{ARCHIVE} cannot be read: {error}", hint=f"remove it and install it again. {REMEDY}") from error
    images, labels = zip(*(found[name] for name in TRAIN), strict=True)
    return (np.concatenate(images), np.concatenate(labels)), found[TEST[0]]


def full(root: Path | None = None, sha256: Digest = SHA256) -> dict[Split, Arrays]:
    """Images and labels of the four splits.

    Raises:
        ModelError: it is not installed, or the archive is damaged.
    """
    train, test = read_parts(content(find(root), sha256))
    return parted(train, test, split_indices(train[1], test[1], NAME))
