"""Data sets: fixed splits, preprocessing, the pack for devices, and a user's own set."""

import hashlib
import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgec.models import cifar10, fashion_mnist, subset
from edgec.models.data import affine, open_data, pack_for_device, preprocess
from edgec.models.splits import split_indices
from edgec.pipeline.core.errors import ConfigError, ModelError
from edgec.pipeline.core.records import Preprocess, Split
from edgec.pipeline.core.settings import DataSettings

COLOUR = Preprocess(mean=(0.1, 0.5, 0.9), std=(0.2, 0.25, 1.0), pad=1)

needs_full_set = pytest.mark.skipif(
    not (fashion_mnist.DEBIAN / "train-images-idx3-ubyte.gz").exists(), reason="Debian's package dataset-fashion-mnist is not installed"
)


def image_digests(images: np.ndarray) -> set[bytes]:
    return {hashlib.sha256(image.tobytes()).digest() for image in images}


# The splits of each set are fixed for good: published accuracies and stored records refer to them.
SMALL_DIGESTS = {
    "train": "53fd7b63440f48096dc8b88f95f7ceebcb536c396611bae5202eb70dbfa5aa9f",
    "calibration": "97f3f8f1d5a9c874cb83ef373d77d40aad355ff159c73b9ac7254632c0ac233a",
    "validation": "971567fb8027a7d4032dfffebecdc9f0a2df41906dc2a426bf3d14d8e57ac529",
    "test": "a54500268c06947b403cc0bbc907626bfd2c5d6da0b86160444adc46a28539c2",
}
FULL_DIGESTS = {
    "train": "39d4c62e6588a8dcd00b4d4933c8461fd429b3733e4f674fc8460480f39082f0",
    "calibration": "644819f27905345f95d53449ef89479ac13e337608d865e57cc93039579f71de",
    "validation": "7b2ac889241c58af161498d5ebc559224dd744d4e3643ec181f53942e0b5b116",
    "test": "3581bf52f521803120533f28e81ae934decd1771980630083c739dc6da7d3bc6",
}


def test_small_set_has_its_recorded_splits() -> None:
    spec, dataset = open_data(DataSettings(name="fashion-mnist-small"))
    assert spec.counts == {"train": 6000, "calibration": 1024, "validation": 2500, "test": 4000}
    assert spec.digests == SMALL_DIGESTS
    for split in Split:
        images, labels = dataset.arrays(split)
        assert (images.shape, images.dtype, labels.dtype) == ((spec.counts[split], 1, 28, 28), np.uint8, np.int64)


@pytest.mark.parametrize("split", [Split.TRAIN, Split.VALIDATION, Split.TEST])
def test_small_set_is_balanced_and_mixed(split: Split) -> None:
    _, dataset = open_data(DataSettings(name="fashion-mnist-small"))
    labels = dataset.arrays(split)[1]
    assert set(np.bincount(labels, minlength=10)) == {len(labels) // 10}
    for k in (10, 500, 1024):
        counts = np.bincount(labels[:k], minlength=10)
        assert counts.max() - counts.min() <= 1, "the first images of a split are a fair sample"


@needs_full_set
def test_full_set_has_its_recorded_splits_and_the_small_one_is_a_part_of_it() -> None:
    spec, dataset = open_data(DataSettings(name="fashion-mnist"))
    assert spec.counts == {"train": 55000, "calibration": 2048, "validation": 5000, "test": 10000}
    assert spec.digests == FULL_DIGESTS
    for split in (Split.TRAIN, Split.VALIDATION, Split.TEST):
        labels = dataset.arrays(split)[1]
        assert set(np.bincount(labels)) == {len(labels) // 10}
    small = subset.read()
    full = {split: image_digests(dataset.arrays(split)[0]) for split in Split}
    for split in Split:
        assert image_digests(small[split][0]) <= full[split]
    for unseen in (Split.VALIDATION, Split.TEST):
        seen = full[Split.TRAIN] & image_digests(small[unseen][0])
        assert not seen, f"{len(seen)} images of the small {unseen} split are in the full train split"
        assert not full[Split.CALIBRATION] & full[unseen]


def cifar_files(per_class: int = 520, damage: dict[str, bytes] | None = None) -> dict[str, bytes]:
    """Small files in the layout of the binary version; red of an image is its number within its file modulo 251, green its label."""
    files = {}
    for part in (*cifar10.TRAIN, *cifar10.TEST):
        n = 10 * per_class // 5 if part in cifar10.TRAIN else 50
        images = (bytes([i % 10]) + bytes([i % 251]) * 1024 + bytes([i % 10]) * 1024 + bytes(range(32)) * 32 for i in range(n))
        files[part] = b"".join(images)
    return {**files, **(damage or {})}


def cifar_archive(folder: Path, files: dict[str, bytes]) -> str:
    """Write them as the archive; its SHA-256."""
    file = folder / cifar10.ARCHIVE
    with tarfile.open(file, "w:gz", compresslevel=1) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"{cifar10.FOLDER}/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_cifar_10_is_read_from_its_binary_layout_into_fixed_splits(tmp_path: Path) -> None:
    splits = cifar10.full(tmp_path, cifar_archive(tmp_path, cifar_files()))
    assert {split: len(labels) for split, (_, labels) in splits.items()} == {
        "train": 200,
        "calibration": 200,
        "validation": 5000,
        "test": 50,
    }
    for images, labels in splits.values():
        assert (images.shape[1:], images.dtype, labels.dtype) == ((3, 32, 32), np.uint8, np.int64)
        assert (images[:, 0] == images[:, 0, :1, :1]).all(), "red is a plane of its own"
        assert (images[:, 1] == labels[:, None, None]).all(), "green comes next"
        assert (images[:, 2] == np.arange(32)).all(), "a row lies behind the row above it"
    assert set(np.bincount(splits[Split.VALIDATION][1])) == {500}
    assert sorted(splits[Split.CALIBRATION][1][:10]) == list(range(10)), "its first images are one of each class"
    assert splits[Split.TEST][0][:50, 0, 0, 0].tolist() == list(range(50)), "test keeps the official order"


def test_cifar_10_order_is_fixed() -> None:
    first = sorted(range(50_000), key=lambda i: hashlib.sha256(f"cifar-10/train/{i}".encode()).hexdigest())[:5]
    labels = np.arange(50_000) % 10
    assert split_indices(labels, labels[:10_000], "cifar-10")[Split.VALIDATION][:5].tolist() == first


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (cifar_files(20, {"data_batch_3.bin": bytes(3073 + 5)}), "data_batch_3.bin has 3078 bytes, no whole number of records of 3073"),
        (cifar_files(20, {"data_batch_3.bin": b""}), "data_batch_3.bin has 0 bytes"),
        (cifar_files(20, {"test_batch.bin": bytes([10]) + bytes(3072)}), "test_batch.bin has the label 10"),
        ({"data_batch_1.bin": bytes(3073)}, "cannot be read"),
    ],
)
def test_damaged_cifar_10_is_refused(tmp_path: Path, files: dict[str, bytes], says: str) -> None:
    digest = cifar_archive(tmp_path, files)
    with pytest.raises(ModelError, match=says):
        cifar10.full(tmp_path, digest)
    with pytest.raises(ModelError, match="is not the binary version of CIFAR-10"):
        open_data(DataSettings(name="cifar-10", root=tmp_path))


def test_archive_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    cifar_archive(tmp_path, cifar_files(20))
    whole = (tmp_path / cifar10.ARCHIVE).read_bytes()
    with pytest.raises(ModelError, match="cannot be read"):
        cifar10.read_parts(whole[: len(whole) // 2])


def test_missing_cifar_10_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEC_DATA", str(tmp_path))
    with pytest.raises(ModelError, match="CIFAR-10 is not installed") as caught:
        open_data(DataSettings(name="cifar-10"))
    assert "python -m edgec.models.fetch cifar-10" in caught.value.hint
    assert caught.value.context["searched"] == [str(tmp_path / "cifar-10" / cifar10.ARCHIVE)]


def test_damaged_subset_is_refused(tmp_path: Path) -> None:
    for file in subset.FOLDER.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    victim = tmp_path / "fashion-mnist-small-validation-0.xz"
    victim.write_bytes(victim.read_bytes()[:-2000])
    with pytest.raises(ModelError, match="cannot be read"):
        subset.read(tmp_path)
    victim.write_bytes((tmp_path / "fashion-mnist-small-test-0.xz").read_bytes())
    with pytest.raises(ModelError, match=r"validation-0\.xz does not hold what"):
        subset.read(tmp_path)


def test_missing_full_set_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not installed") as caught:
        open_data(DataSettings(name="fashion-mnist", root=tmp_path))
    assert "apt-get install dataset-fashion-mnist" in caught.value.hint
    assert "python -m edgec.models.fetch fashion-mnist" in caught.value.hint


@needs_full_set
def test_damaged_full_set_is_refused(tmp_path: Path) -> None:
    for name in fashion_mnist.CONTENT:
        (tmp_path / f"{name}.gz").symlink_to(fashion_mnist.DEBIAN / f"{name}.gz")
    victim = tmp_path / "train-images-idx3-ubyte.gz"
    content = victim.read_bytes()
    victim.unlink()
    victim.write_bytes(content[:100_000])
    with pytest.raises(ModelError, match="cannot be read as gzip"):
        open_data(DataSettings(name="fashion-mnist", root=tmp_path))


def test_preprocess_is_the_closed_form() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5), dtype=np.uint8)
    seen = preprocess(images, COLOUR)
    assert (seen.shape, seen.dtype) == ((2, 3, 6, 7), np.float32)
    for n, c, y, x in np.ndindex(*seen.shape):
        inside = 1 <= y <= 4 and 1 <= x <= 5
        pixel = int(images[n, c, y - 1, x - 1]) if inside else 0
        # three float32 roundings (scale, offset, result) of values below 5
        assert seen[n, c, y, x] == pytest.approx((pixel / 255 - COLOUR.mean[c]) / COLOUR.std[c], abs=5 * 3 * 2**-23)


@pytest.mark.parametrize("images", [np.zeros((2, 3, 4, 5), np.float32), np.zeros((2, 1, 4, 5), np.uint8), np.zeros((3, 4, 5), np.uint8)])
def test_preprocess_refuses_other_arrays(images: np.ndarray) -> None:
    with pytest.raises(ModelError, match="expected uint8"):
        preprocess(images, COLOUR)


def test_pack_gives_the_device_what_preprocess_gives_the_host(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 4, 4), dtype=np.uint8)
    labels = np.array([1, 0, 2])
    for name in ("a.npz", "b.npz"):
        pack_for_device(images, labels, COLOUR, tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2
    with np.load(io.BytesIO((tmp_path / "a.npz").read_bytes()), allow_pickle=False) as pack:
        assert (pack["input"].dtype, pack["scale"].shape, pack["offset"].shape) == (np.uint8, (3,), (3,))
        on_device = pack["input"].astype("float32") * pack["scale"].reshape(1, -1, 1, 1) + pack["offset"].reshape(1, -1, 1, 1)
        assert np.array_equal(on_device, preprocess(images, COLOUR))
        assert np.array_equal(pack["label"], labels)


def test_affine_of_neutral_preprocessing() -> None:
    scale, offset = affine(Preprocess(mean=(0.0,), std=(1.0,)))
    assert scale.tolist() == [np.float32(1 / 255)]
    assert offset.tolist() == [0.0]


def test_reading_data_loads_no_torch() -> None:
    seen = subprocess.run(
        [sys.executable, "-c", "import sys, edgec.models.data; print('torch' in sys.modules)"], capture_output=True, text=True
    )
    assert (seen.stdout, seen.returncode) == ("False\n", 0), seen.stderr


class Own:
    """A user's data set: two classes, four 5x5 images a split, or whatever a test puts there."""

    def __init__(self, images: object = None, labels: object = None) -> None:
        self.images = np.arange(100, dtype=np.uint8).reshape(4, 1, 5, 5) if images is None else images
        self.labels = np.array([0, 1, 1, 0], dtype=np.uint8) if labels is None else labels

    def arrays(self, split: Split) -> tuple[object, object]:
        return self.images, self.labels


def good() -> Own:
    return Own()


def float_images() -> Own:
    return Own(images=np.zeros((4, 1, 5, 5), np.float32))


def too_few_labels() -> Own:
    return Own(labels=np.array([0, 1]))


def float_labels() -> Own:
    return Own(labels=np.array([0.0, 1.0, 0.0, 1.0]))


def label_outside() -> Own:
    return Own(labels=np.array([0, 1, 2, 0]))


def lists() -> Own:
    return Own(images=[[1]])


def empty() -> Own:
    return Own(images=np.zeros((0, 1, 5, 5), np.uint8), labels=np.zeros(0, np.int64))


def no_dataset() -> int:
    return 3


def broken() -> Own:
    class Broken(Own):
        def arrays(self, split: Split) -> tuple[object, object]:
            raise FileNotFoundError("images.npy")

    return Broken()


GREY = Preprocess(mean=(0.5,), std=(0.5,), pad=0)


def own_settings(maker: Callable[[], object]) -> DataSettings:
    return DataSettings(name=f"{__name__}:{maker.__name__}", preprocess=GREY, classes=2)


def test_own_data_set_is_recorded_by_content() -> None:
    spec, dataset = open_data(own_settings(good))
    assert spec.counts == dict.fromkeys(("train", "calibration", "validation", "test"), 4)
    assert (spec.classes, spec.preprocess) == (2, GREY)
    assert dataset.arrays(Split.TEST)[1].dtype == np.int64
    again, _ = open_data(own_settings(good))
    assert again == spec


@pytest.mark.parametrize(
    ("maker", "says"),
    [
        (float_images, "images are float32"),
        (too_few_labels, r"labels are int64 \(2,\) for 4 images"),
        (float_labels, "labels are float64"),
        (label_outside, "labels run from 0 to 2, outside 0 … 1"),
        (lists, "expected two NumPy arrays"),
        (empty, "no images"),
        (no_dataset, "without a method `arrays"),
        (broken, r"arrays\('train'\) failed with FileNotFoundError: images.npy"),
    ],
)
def test_bad_own_data_set_is_named(maker: Callable[[], object], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        open_data(own_settings(maker))


@pytest.mark.parametrize(
    ("settings", "says", "hint"),
    [
        (DataSettings(name="fashion-mnst"), "no data set 'fashion-mnst'", "did you mean 'fashion-mnist'"),
        (DataSettings(name="cifar10"), "no data set 'cifar10'", "did you mean 'cifar-10'"),
        (DataSettings(name="imagenet"), "no data set 'imagenet'", "package.module:callable"),
        (DataSettings(name="cifar-10", classes=10), "are fixed", "remove"),
        (DataSettings(name="fashion-mnist-small", classes=10), "are fixed", "remove"),
        (DataSettings(name="fashion-mnist-small", root=Path("/x")), "has no root", "remove root"),
        (DataSettings(name="mine:data"), "needs classes and preprocess", "classes = 10"),
        (DataSettings(name="mine:data", classes=10), "needs classes and preprocess", "mean = "),
    ],
)
def test_bad_settings_are_config_errors(settings: DataSettings, says: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        open_data(settings)
    assert hint in caught.value.hint
