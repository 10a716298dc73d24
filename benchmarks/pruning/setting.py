"""What all methods share: networks, data, recovery recipe, rungs, evaluation."""

import base64
import hashlib
import os
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import ROOT
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from edgec import models
from edgec.models.build import build, load_tensors, save_tensors
from edgec.models.data import FULL, open_data, preprocess
from edgec.models.names import builder_of
from edgec.models.train_baseline import INPUT_SHAPE, PEAK_LR, train
from edgec.pipeline.compress.count import cost
from edgec.pipeline.compress.train import Plan, Samples, fit, predict
from edgec.pipeline.core.codec import digest_of_json
from edgec.pipeline.core.protocols import Dataset
from edgec.pipeline.core.records import Cost, DataSpec, ModelSpec, Split, TensorSpec
from edgec.pipeline.core.settings import DataSettings, TrainSettings
from edgec.pipeline.events import Silent

WEIGHTS = Path(next(iter(models.__path__))) / "weights"
BASELINES = ROOT / ".edgec" / "bench" / "baselines"
EXAMPLE = torch.zeros(1, *INPUT_SHAPE)
TEMPERATURE = 4.0
CALIBRATION = 512
"""Training images that scores and re-fits see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How much is run."""

    networks: tuple[str, ...]
    rungs: int
    images: int
    """Of the training split in each recovery, drawn anew each time."""
    batch: int
    lrs: tuple[float, ...]
    """Tried by every method."""
    more_lrs: tuple[float, ...]
    """Tried by Torch-Pruning's own pruner too: cuts without a re-fit may want larger steps."""
    seeds: tuple[int, ...]
    device: str

    @property
    def digest(self) -> str:
        """Of what a single run depends on: the lists of networks, rates and seeds only say which runs there are."""
        return digest_of_json([self.rungs, self.images, self.batch, self.device])[:12]


FORMS = {
    "short": Form(
        networks=("vgg8", "resnet20"), rungs=5, images=6000, batch=64, lrs=(0.003, 0.01), more_lrs=(0.03,), seeds=(0, 1, 2), device="cpu"
    ),
    "long": Form(
        networks=("resnet20", "resnet56", "vgg16", "mobilenet_v2", "shufflenet_v2"),
        rungs=8,
        images=55_000,
        batch=128,
        lrs=(0.003, 0.01, 0.03),
        more_lrs=(),
        seeds=(0, 1, 2),
        device="cuda",
    ),
}
STEP = 0.7
"""Of the cost that each rung keeps."""


@cache
def data() -> tuple[DataSpec, Dataset]:
    """Full Fashion-MNIST with edgec's fixed splits."""
    return open_data(DataSettings(name=FULL))


def spec_of(network: str) -> ModelSpec:
    """The network's builder, for 32x32 grey images."""
    return ModelSpec(builder=builder_of(network), inputs=(TensorSpec(name="input", shape=(None, *INPUT_SHAPE)),), classes=10)


def untrained(network: str) -> nn.Module:
    """With fresh weights from torch's default generator."""
    return build(spec_of(network)).eval()


def dense(network: str) -> nn.Module:
    """With the baseline weights: those that edgec has, else those that `prepare` trained."""
    module = untrained(network)
    module.load_state_dict(load_tensors(next(file for file in _weights(network) if file.exists())))
    return module.eval()


def prepare(form: Form) -> None:
    """Train the dense networks for which edgec has no weights (12 epochs); an interrupted training goes on."""
    for network in form.networks:
        own, made = _weights(network)
        if own.exists() or made.exists():
            continue
        plan = Plan(name=f"{network}-baseline", epochs=12, lr=PEAK_LR[network], seed=0)
        module, _ = train(network, plan, TrainSettings(batch=128, threads=1, device=form.device), made.parent)
        save_tensors(module, made)


def _weights(network: str) -> tuple[Path, Path]:
    return WEIGHTS / f"{network}-{FULL}.safetensors", BASELINES / f"{network}-{FULL}.safetensors"


def counted(module: nn.Module) -> Cost:
    """Parameters and MACs by tracing."""
    return cost(module, INPUT_SHAPE)


def calibration() -> tuple[Tensor, Tensor]:
    """Images as the networks take them, and labels."""
    spec, dataset = data()
    images, labels = dataset.arrays(Split.CALIBRATION)
    return torch.from_numpy(preprocess(images[:CALIBRATION], spec.preprocess)), torch.from_numpy(labels[:CALIBRATION])


def drawn(count: int, seed: int, rung: int) -> Samples:
    """The training images of one recovery: the same for every method."""
    spec, dataset = data()
    images, labels = dataset.arrays(Split.TRAIN)
    chosen = np.random.default_rng([seed, rung]).permutation(len(images))[:count]
    return Samples(images=images[chosen], labels=labels[chosen], preprocess=spec.preprocess)


class Taught:
    """Cross-entropy plus T² KL to the dense network (Hinton, Vinyals, Dean, 2015, arXiv:1503.02531, section 2).

    The batches of a recovery are the same for all methods, so the teacher's answers are kept in `file` and used again, checked by each
    batch's mean.
    """

    def __init__(self, teacher: nn.Module, file: Path | None) -> None:
        self._teacher, self._file = teacher, file
        self._known = None if file is None or not file.exists() else load_tensors(file)
        self._answers: list[Tensor] = []
        self._means: list[Tensor] = []

    def __call__(self, module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of one batch."""
        logits = module(images)
        target = F.softmax(self._answer(images) / TEMPERATURE, dim=1)
        distance = F.kl_div(F.log_softmax(logits.float() / TEMPERATURE, dim=1), target, reduction="batchmean")
        return F.cross_entropy(logits, labels) + TEMPERATURE**2 * distance

    @torch.no_grad()
    def _answer(self, images: Tensor) -> Tensor:
        step = len(self._means)
        self._means.append(images.mean())
        if self._known is not None:
            if not torch.isclose(self._known["means"][step], self._means[-1].cpu(), rtol=1e-4, atol=1e-6):
                raise RuntimeError(f"{self._file} is of other batches: remove it")
            return self._known["answers"][step].to(images)
        self._answers.append(self._teacher(images).float())
        return self._answers[-1]

    def keep(self) -> None:
        """Write the answers; another process may have done so meanwhile, with the same."""
        if self._known is None and self._file is not None and self._answers:
            draft = self._file.with_name(f".{self._file.name}.{os.getpid()}")
            save_file({"answers": torch.stack(self._answers), "means": torch.stack(self._means)}, draft)
            draft.replace(self._file)


def recover(
    module: nn.Module, teacher: nn.Module, form: Form, *, lr: float, seed: int, rung: int, kept: Path | None, images: int | None = None
) -> int:
    """One recovery: CE and KL to the dense network, warm-up and cosine from `lr`, all in place. Returns the images seen.

    `kept`: folder of the teacher's answers, or None.
    """
    taught = Taught(teacher, None if kept is None else kept / f"{seed}-{rung}-{images or form.images}.safetensors")
    samples = drawn(images or form.images, seed, rung)
    settings = TrainSettings(batch=form.batch, threads=1, device=form.device)
    plan = Plan(name=f"rung-{rung}", epochs=1, lr=lr, seed=1000 * seed + rung)
    seen = fit(module, samples, loss=taught, plan=plan, settings=settings, events=Silent()).images_seen
    taught.keep()
    return seen


def right(module: nn.Module, split: Split) -> NDArray[np.bool_]:
    """(n,) whether the network is right, in the split's order."""
    spec, dataset = data()
    images, labels = dataset.arrays(split)
    return np.asarray(predict(module, images, spec.preprocess).argmax(1) == labels)


def packed(correct: NDArray[np.bool_]) -> str:
    """Booleans as text."""
    return base64.b64encode(np.packbits(correct).tobytes()).decode()


def unpacked(text: str, n: int) -> NDArray[np.bool_]:
    """The inverse of `packed`."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8))[:n].astype(bool)


def identity(form: Form) -> str:
    """Names recipe and data: results of another are not used."""
    spec, _ = data()
    return hashlib.sha256(repr((asdict(spec)["digests"], form.digest, STEP, TEMPERATURE, CALIBRATION)).encode()).hexdigest()[:12]
