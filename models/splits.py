"""Fixed splits of a data set that comes with an official training and test part.

The test split is the official one. The training images are put into an order of their own by hashing their numbers (`order`): in each
class the first ones are validation, the rest train. Calibration is a part of train, its classes dealt in turn (`dealt`), so that its
first k are a fair sample for any k; the beginning of train is not. Calibration images are trained on too; none of them is in validation
or test.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from edgec.pipeline.core.records import Split

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Arrays = tuple[Images, Labels]

VALIDATION_PER_CLASS = 500
CALIBRATION = 2048


def order(n: int, part: str) -> NDArray[np.int64]:
    """A fixed order of 0 … n - 1: by SHA-256 of "<part>/<number>". It depends on no library's random generator."""
    keys = [hashlib.sha256(f"{part}/{i}".encode()).digest() for i in range(n)]
    return np.array(sorted(range(n), key=keys.__getitem__), dtype=np.int64)


def dealt(labels: Labels, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """`indices` with the first of each class, then the second of each, and so on: the first c k have k of each of c classes."""
    turn = np.empty(len(indices), dtype=np.int64)
    for label in np.unique(labels):
        mine = np.flatnonzero(labels[indices] == label)
        turn[mine] = np.arange(len(mine))
    return indices[np.argsort(turn, kind="stable")]


def split_indices(
    train_labels: Labels, test_labels: Labels, name: str, *, per_class: int = VALIDATION_PER_CLASS, calibration: int = CALIBRATION
) -> dict[Split, NDArray[np.int64]]:
    """Official numbers of each split's images: into the test part for `test`, into the training part for the others.

    Args:
        name: of the data set; its order begins with it.
        per_class: validation images of each class.
    """
    shuffled = order(len(train_labels), f"{name}/train")
    is_validation = np.isin(shuffled, dealt(train_labels, shuffled)[: len(np.unique(train_labels)) * per_class])
    validation, train = shuffled[is_validation], shuffled[~is_validation]
    return {
        Split.TRAIN: train,
        Split.CALIBRATION: dealt(train_labels, train)[:calibration],
        Split.VALIDATION: validation,
        Split.TEST: np.arange(len(test_labels)),
    }


def parted(train: Arrays, test: Arrays, indices: dict[Split, NDArray[np.int64]]) -> dict[Split, Arrays]:
    """Images and labels of each split."""
    result = {}
    for split, chosen in indices.items():
        images, labels = test if split is Split.TEST else train
        result[split] = (images[chosen], labels[chosen])
    return result
