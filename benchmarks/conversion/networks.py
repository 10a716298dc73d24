"""The networks, their weights, and the samples that ranges are found and outputs compared on."""

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import ROOT

from edgec.models.build import load_tensors, save_tensors
from edgec.models.data import SMALL, open_data, preprocess
from edgec.models.dotted import called
from edgec.models.names import builder_of
from edgec.models.train_baseline import INPUT_SHAPE, PEAK_LR
from edgec.pipeline.compress.losses import label_loss
from edgec.pipeline.compress.train import Optimizer, Plan, Samples, fit
from edgec.pipeline.core.errors import ToolchainMissing
from edgec.pipeline.core.records import Split, TensorSpec
from edgec.pipeline.core.settings import DataSettings, TrainSettings
from edgec.pipeline.events import Silent

SEED = 0
CALIBRATION = 512
EPOCHS, MORE_EPOCHS, ADAM_LR = 2, 8, 1e-3
"""Of the short training, over the 6,000 training images of fashion-mnist-small, of networks that edgec has no weights of: without any,
all images would be one class and top-1 agreement would say nothing. More, with Adam, for those that train_baseline has no rate for."""
BASELINES = ROOT / "models" / "weights"
SILERO = "silero-vad"
EFFICIENTNET = "efficientnet_lite0"
CROPS = 180
"""Of the photographs, beside the photographs themselves."""

Arrays = dict[str, Any]


def built(name: str, work: Path) -> tuple[Any, str, tuple[TensorSpec, ...]]:
    """The network in evaluation mode, where its weights are from, and its inputs.

    Raises:
        ModelError: EfficientNet's weights are not installed, with the line that installs them.
    """
    inputs = (TensorSpec(name="input", shape=(None, *((3, 224, 224) if name == EFFICIENTNET else INPUT_SHAPE))),)
    if name == EFFICIENTNET:
        return called(f"{builder_of(name)}_imagenet", {}, "the network").eval(), "published, ImageNet-1k", inputs
    torch.manual_seed(SEED)
    module = called(builder_of(name), {}, "the network").eval()
    baseline, ours = BASELINES / f"{name}-fashion-mnist.safetensors", work / f"{name}.safetensors"
    module.load_state_dict(load_tensors(baseline if baseline.exists() else ours))
    return module, "baseline" if baseline.exists() else f"trained here for {_epochs(name)} epochs of 6,000 images", inputs


def prepare(name: str, work: Path) -> None:
    """The short training of a network that has no weights; nothing where there are some."""
    file = work / f"{name}.safetensors"
    if name in (SILERO, EFFICIENTNET) or file.exists() or (BASELINES / f"{name}-fashion-mnist.safetensors").exists():
        return
    torch.manual_seed(SEED)
    module = called(builder_of(name), {}, "the network")
    spec, data = open_data(DataSettings(name=SMALL))
    images, labels = data.arrays(Split.TRAIN)
    rate = PEAK_LR.get(name)
    plan = Plan(name=name, epochs=_epochs(name), lr=rate or ADAM_LR, seed=SEED, optimizer=Optimizer.SGD if rate else Optimizer.ADAM)
    samples = Samples(images=images, labels=labels, preprocess=spec.preprocess)
    fit(module, samples, loss=label_loss, plan=plan, settings=TrainSettings(threads=1), events=Silent(), work=work)
    save_tensors(module, file)


def _epochs(name: str) -> int:
    return EPOCHS if name in PEAK_LR else MORE_EPOCHS


def samples_of(name: str, n: int) -> tuple[Arrays, Arrays, np.ndarray]:
    """Calibration samples, evaluation samples, and the labels of the first of the latter.

    Fashion-MNIST, every image labelled. For ImageNet's network: 64 seeded crops of the photographs to calibrate; to compare, all of the
    photographs, labelled, and other crops of them.
    """
    if name == EFFICIENTNET:
        whole, labels = photographs()
        crops = cropped(64 + CROPS)
        return {"input": crops[:64]}, {"input": np.concatenate([whole, crops[64 : 64 + max(0, n - len(whole))]])}, labels
    spec, data = open_data(DataSettings(name=SMALL))
    calibration, _ = data.arrays(Split.CALIBRATION)
    images, labels = data.arrays(Split.VALIDATION)
    return (
        {"input": preprocess(calibration[:CALIBRATION], spec.preprocess)},
        {"input": preprocess(images[:n], spec.preprocess)},
        labels[:n],
    )


def photographs() -> tuple[np.ndarray, np.ndarray]:
    """The ImageNet samples of the package foolbox, cut from the middle as the weights were trained (float32 (20, 3, 224, 224)), and their
    classes, which stand in the files' names.

    Raises:
        ToolchainMissing: without foolbox. It need not be importable.
    """
    whole = []
    for image in _opened():
        side = round(0.875 * min(image.size))
        whole.append(_scaled(image, *((size - side) // 2 for size in image.size), side))
    return np.stack(whole), np.array([int(file.stem.rpartition("_")[2]) for file in _files()])


def cropped(n: int) -> np.ndarray:
    """Seeded crops of the photographs in turn, from half of the shorter side to all of it: float32 (n, 3, 224, 224)."""
    random, opened, crops = np.random.default_rng(SEED), _opened(), []
    for place in range(n):
        image = opened[place % len(opened)]
        side = int(random.uniform(0.5, 1.0) * min(image.size))
        left, top = (int(random.uniform(0, size - side)) for size in image.size)
        crops.append(_scaled(image, left, top, side))
    return np.stack(crops)


def _scaled(image: Any, left: int, top: int, side: int) -> np.ndarray:
    from PIL import Image

    scaled = image.resize((224, 224), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    return (np.asarray(scaled, np.float32).transpose(2, 0, 1) - 127) / 128


@cache
def _opened() -> list[Any]:
    from PIL import Image

    return [Image.open(file).convert("RGB") for file in _files()]


def _files() -> list[Path]:
    return sorted((_package("foolbox") / "data").glob("imagenet_*.jpg"))


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise ToolchainMissing(f"the package {name} is not installed", hint=f"pip install --no-deps {name.replace('_', '-')}")
    return Path(found.submodule_search_locations[0])


def silero() -> Path:
    """The 16 kHz file of the package silero-vad. Raises ToolchainMissing without it."""
    return _package("silero_vad") / "data" / "silero_vad_16k_op15.onnx"


def silero_inputs(n: int) -> Arrays:
    """Windows of 64 + 512 samples at 16 kHz: tones of 100 to 300 Hz with overtones under noise; states as after one window of silence."""
    random, t = np.random.default_rng(SEED), np.arange(576) / 16000
    pitch = random.uniform(100, 300, (n, 1, 1))
    sound = sum(np.sin(2 * np.pi * pitch * k * t + random.uniform(0, 6, (n, 1, 1))) / k for k in range(1, 8))
    audio = (0.1 * sound + 0.02 * random.standard_normal((n, 1, 576))).astype(np.float32)
    return {"input": audio, "state": np.zeros((n, 2, 1, 128), np.float32), "sr": np.full(n, 16000, np.int64)}
