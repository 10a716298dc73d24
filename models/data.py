"""Data sets with fixed, recorded splits, and the one definition of preprocessing.

Ours: "fashion-mnist" (see `fashion_mnist.py`), "fashion-mnist-small", which is part of edgec (see `make_subset.py`), and "cifar-10" (see
`cifar10.py`). A user's own: "package.module:callable", called without arguments, returning a `protocols.Dataset`. All of them are held in
memory.
"""

import difflib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgec.models import cifar10, dotted, fashion_mnist, subset
from edgec.models.splits import Arrays, Images, Labels
from edgec.pipeline.core.errors import ConfigError, ModelError
from edgec.pipeline.core.files import replacing
from edgec.pipeline.core.protocols import Dataset
from edgec.pipeline.core.records import DataSpec, Digest, Preprocess, Split
from edgec.pipeline.core.settings import DataSettings

FULL, SMALL, CIFAR10 = fashion_mnist.NAME, "fashion-mnist-small", cifar10.NAME


@dataclass(frozen=True, slots=True)
class Known:
    """One of our own data sets."""

    read: Callable[[Path | None], Mapping[Split, Arrays]]
    """Its splits, from the folder that [data] root names."""
    classes: int
    preprocess: Preprocess
    source: str


_FASHION = "zalandoresearch/fashion-mnist, MIT licence"
KNOWN: Mapping[str, Known] = {
    FULL: Known(fashion_mnist.full, fashion_mnist.CLASSES, fashion_mnist.NORMALISE, _FASHION),
    SMALL: Known(lambda _: subset.read(), fashion_mnist.CLASSES, fashion_mnist.NORMALISE, _FASHION),
    CIFAR10: Known(cifar10.full, cifar10.CLASSES, cifar10.NORMALISE, "www.cs.toronto.edu/~kriz/cifar.html, no licence stated"),
}


@dataclass(frozen=True)
class ArrayDataset:
    """A data set that lies in memory."""

    splits: Mapping[Split, tuple[Images, Labels]]

    def arrays(self, split: Split) -> tuple[Images, Labels]:
        """Images uint8 (n, channels, height, width) and labels int64 (n,) of a split."""
        return self.splits[split]


def open_data(settings: DataSettings) -> tuple[DataSpec, Dataset]:
    """The data set that [data] names, with its record.

    Raises:
        ConfigError: the name is not known, or a value is missing or does not belong to this data set.
        ModelError: the data are not there, are damaged, or are not images with labels.
    """
    if ":" in settings.name:
        return open_own(settings)
    known = KNOWN.get(settings.name)
    if known is None:
        near = difflib.get_close_matches(settings.name, KNOWN, 1)
        raise ConfigError(
            f"there is no data set {settings.name!r}",
            hint=f"did you mean {near[0]!r}?" if near else f'{", ".join(KNOWN)}, or your own as "package.module:callable"',
        )
    if settings.preprocess is not None or settings.classes is not None:
        raise ConfigError(f"preprocess and classes are fixed for {settings.name}", hint="remove them from [data]")
    if settings.name == SMALL and settings.root is not None:
        raise ConfigError(f"{SMALL} is part of edgec and has no root", hint=f"remove root from [data], or take {FULL}")
    splits = known.read(settings.root)
    return spec_of(settings.name, splits, known.classes, known.preprocess, known.source), ArrayDataset(splits)


def open_own(settings: DataSettings) -> tuple[DataSpec, Dataset]:
    """A user's data set, checked split by split.

    Raises:
        ConfigError: preprocess or classes are missing.
        ModelError: the callable cannot be found or fails, or an array is not what `protocols.Dataset` says.
    """
    if settings.preprocess is None or settings.classes is None:
        raise ConfigError(
            f"the data set {settings.name} needs classes and preprocess in [data]",
            hint="e.g. classes = 10 and preprocess = { mean = [0.5], std = [0.25], pad = 0 }, one value a channel",
        )
    dataset = dotted.called(settings.name, {}, "the data set")
    if not hasattr(dataset, "arrays"):
        raise ModelError(
            f"{settings.name} returned a {type(dataset).__name__} without a method `arrays(split)`",
            hint="see edgec.pipeline.core.protocols.Dataset",
        )
    splits: dict[Split, tuple[Images, Labels]] = {}
    for split in Split:
        try:
            images, labels = dataset.arrays(split)
        except Exception as error:
            raise ModelError(
                f"{settings.name}: arrays({split.value!r}) failed with {type(error).__name__}: {error}",
                hint=f"it takes each of {', '.join(Split)} (edgec.pipeline.core.records.Split) and gives images and labels",
            ) from error
        splits[split] = checked(images, labels, settings.classes, settings.preprocess, f"{settings.name}, split {split.value}")
    return spec_of(settings.name, splits, settings.classes, settings.preprocess, settings.name), ArrayDataset(splits)


def checked(images: object, labels: object, classes: int, how: Preprocess, where: str) -> tuple[Images, Labels]:
    """The arrays, if they are images and labels.

    Raises:
        ModelError: another type, shape or count, or a label outside 0 … classes - 1.
    """
    if not isinstance(images, np.ndarray) or not isinstance(labels, np.ndarray):
        raise ModelError(f"{where}: got {type(images).__name__} and {type(labels).__name__}, expected two NumPy arrays")
    require_images(images, how, where)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) != len(images):
        raise ModelError(f"{where}: labels are {labels.dtype} {labels.shape} for {len(images)} images, expected integers ({len(images)},)")
    if len(labels) == 0:
        raise ModelError(f"{where}: no images", hint="each of train, calibration, validation and test needs some")
    if labels.min() < 0 or labels.max() >= classes:
        raise ModelError(
            f"{where}: labels run from {labels.min()} to {labels.max()}, outside 0 … {classes - 1}", hint="is classes in [data] right?"
        )
    return images, labels.astype(np.int64)


def require_images(images: NDArray[np.generic], how: Preprocess, where: str) -> None:
    """Raise ModelError unless these are uint8 images with as many channels as `how` has."""
    channels = len(how.mean)
    if len(how.std) != channels:
        raise ModelError(f"preprocess has {channels} means and {len(how.std)} standard deviations", hint="one of each a channel")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != channels:
        raise ModelError(
            f"{where}: images are {images.dtype} {images.shape}, expected uint8 (n, {channels}, height, width)",
            hint="mean and std in preprocess have one value a channel",
        )


def affine(how: Preprocess) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(scale, offset), each (channels,): pixel * scale + offset is (pixel / 255 - mean) / std."""
    mean, std = np.array(how.mean, np.float64), np.array(how.std, np.float64)
    return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)


def padded(images: Images, how: Preprocess) -> Images:
    """Images with `pad` black pixels on each side: (n, c, h, w) to (n, c, h + 2 pad, w + 2 pad)."""
    return np.pad(images, ((0, 0), (0, 0), (how.pad, how.pad), (how.pad, how.pad)))


def preprocess(images: Images, how: Preprocess) -> NDArray[np.float32]:
    """What a network is given: uint8 (n, c, h, w) to float32 (n, c, h + 2 pad, w + 2 pad).

    Training, calibration, parity and devices share this definition: black padding, then pixel * scale + offset in float32.

    Raises:
        ModelError: not uint8 images, or another number of channels than `how` has.
    """
    require_images(images, how, "preprocess")
    scale, offset = affine(how)
    return padded(images, how).astype(np.float32) * scale[:, None, None] + offset[:, None, None]


def pack_for_device(images: Images, labels: Labels, how: Preprocess, path: Path) -> None:
    """Write what a device evaluates: an .npz of `input` (padded uint8), `scale` and `offset` (channels,) and `label`.

    The device computes input * scale + offset, a quarter of the bytes of float32. The same content gives the same bytes.
    """
    require_images(images, how, "pack")
    scale, offset = affine(how)
    with replacing(path) as draft, draft.open("wb") as stream:
        np.savez_compressed(stream, input=padded(images, how), scale=scale, offset=offset, label=labels)


def spec_of(name: str, splits: Mapping[Split, tuple[Images, Labels]], classes: int, how: Preprocess, source: str) -> DataSpec:
    """The record of a data set: counts and digests of its splits."""
    return DataSpec(
        name=name,
        classes=classes,
        counts={split.value: len(labels) for split, (_, labels) in splits.items()},
        digests={split.value: digest_of_arrays(*arrays) for split, arrays in splits.items()},
        preprocess=how,
        source=source,
    )


def digest_of_arrays(images: Images, labels: Labels) -> Digest:
    """SHA-256 of a split: the images' shape as text, the pixels, the labels as little-endian 64-bit integers."""
    content = hashlib.sha256(repr(images.shape).encode())
    content.update(np.ascontiguousarray(images).tobytes())
    content.update(labels.astype("<i8").tobytes())
    return content.hexdigest()
