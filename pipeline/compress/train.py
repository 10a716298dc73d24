"""The one training loop: recovery after pruning, quantisation-aware training, distillation and the baselines all use `fit`.

Every random number of step k is a function of (seed, k) only, so a run that was interrupted continues from its checkpoint and ends, on
a CPU with the same number of threads, with the same bits as one that was not.
"""

import hashlib
import math
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgec.models.data import affine, padded, preprocess
from edgec.models.splits import Images, Labels
from edgec.pipeline.compress import augment
from edgec.pipeline.core.codec import digest_of_json
from edgec.pipeline.core.errors import CompressionError, TrainingDiverged
from edgec.pipeline.core.files import replacing
from edgec.pipeline.core.protocols import Events
from edgec.pipeline.core.records import Digest, Preprocess
from edgec.pipeline.core.settings import TrainSettings

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(module, normalised images (n, c, h, w), labels (n,)) to a scalar."""

WARMUP = 0.05
"""Share of the steps in which the rate rises linearly."""
CHECKPOINT_EVERY_S = 10.0


class Optimizer(StrEnum):
    """How weights are updated: SGD with Nesterov momentum 0.9, or AdamW for quantisation-aware training."""

    SGD = "sgd"
    ADAM = "adam"


class Schedule(StrEnum):
    """How the rate moves after its warm-up: down half a cosine to 0, or not at all."""

    COSINE = "cosine"
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one call of `fit` trains, beside the settings that all share."""

    name: str
    """Of the checkpoint file and in progress and errors."""
    epochs: float
    """Passes over the images; may be a fraction."""
    lr: float
    """Peak of the schedule."""
    seed: int
    optimizer: Optimizer = Optimizer.SGD
    schedule: Schedule = Schedule.COSINE
    depends_on: tuple[str, ...] = ()
    """What else the result depends on, such as the loss and its teacher's digest: a checkpoint of another value is not continued."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Training images with their labels and their preprocessing."""

    images: Images
    """uint8 (n, c, h, w), before padding."""
    labels: Labels
    """int64 (n,). A loss without labels does not look at them."""
    preprocess: Preprocess


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """What was done. `wall_s` and `images_seen` count the parts before an interruption too."""

    images_seen: int
    wall_s: float
    final_loss: float
    """Mean over the last 50 steps."""
    resumed: bool


def schedule(step: int, total: int, kind: Schedule = Schedule.COSINE) -> float:
    """Factor of the peak rate at a step: linear warm-up over the first 5 %, then half a cosine down to 0, or 1.

    Reference: Loshchilov, Hutter, "SGDR", 2016, arXiv:1608.03983, section 3 (one period, no restart).
    """
    warm = max(1, round(WARMUP * total))
    if step < warm:
        return (step + 1) / warm
    if kind is Schedule.CONSTANT:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def device_of(settings: TrainSettings) -> torch.device:
    """The device that `settings.device` means.

    Raises:
        CompressionError: cuda is asked for and there is none, or the name is not known.
    """
    if settings.device not in {"auto", "cpu", "cuda"}:
        raise CompressionError(f"[train] device = {settings.device!r} is not known", hint="auto, cpu or cuda")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise CompressionError(
            "[train] device is cuda and this machine has no usable one", hint='device = "auto" takes the CPU where there is none'
        )
    usable = settings.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if usable else "cpu")


def uses_bf16(settings: TrainSettings, module: nn.Module, device: torch.device) -> bool:
    """Whether forward passes run under bfloat16 autocast.

    With "auto" on a CPU: where it has bfloat16 instructions and no layer is grouped (time of a step on one thread against float32:
    ResNet-20 186 for 295 ms, VGG-8 138 for 301 ms, but a small MobileNetV2 297 for 241 ms); on CUDA: where the device supports it.

    Raises:
        CompressionError: the name is not known.
    """
    if settings.precision not in {"auto", "fp32", "bf16"}:
        raise CompressionError(f"[train] precision = {settings.precision!r} is not known", hint="auto, fp32 or bf16")
    if settings.precision != "auto":
        return settings.precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    able = torch.cpu.get_capabilities()
    depthwise = any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in module.modules())
    return bool(able.get("avx512_bf16") or able.get("amx_bf16")) and not depthwise


def optimizer_of(module: nn.Module, plan: Plan, weight_decay: float) -> torch.optim.Optimizer:
    """Weight decay on matrices and kernels only. Vectors have none, however they are shaped: BatchNorm, biases, quantiser scales."""
    trained = [p for p in module.parameters() if p.requires_grad]
    matrices = [sum(size > 1 for size in p.shape) > 1 for p in trained]
    groups = [
        {"params": [p for p, is_matrix in zip(trained, matrices, strict=True) if is_matrix], "weight_decay": weight_decay},
        {"params": [p for p, is_matrix in zip(trained, matrices, strict=True) if not is_matrix], "weight_decay": 0.0},
    ]
    if plan.optimizer is Optimizer.SGD:
        return torch.optim.SGD(groups, lr=plan.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=plan.lr)


def start_digest(module: nn.Module, samples: Samples, settings: TrainSettings, plan: Plan) -> Digest:
    """Identity of a run: settings, plan, start weights and data. Threads are left out: they change speed and the last bits only."""
    content = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        content.update(f"{name} {tuple(tensor.shape)}".encode())
        content.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    content.update(np.ascontiguousarray(samples.images).tobytes())
    content.update(samples.labels.tobytes())
    shared = {k: v for k, v in asdict(settings).items() if k != "threads"}
    return digest_of_json([content.hexdigest(), shared, asdict(plan), asdict(samples.preprocess)])


@contextmanager
def _threads(n: int) -> Iterator[None]:
    """Torch's thread count inside, the old one afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _place(module: nn.Module, device: torch.device, layout: torch.memory_format) -> nn.Module:
    """Move a module in place. Channels-last convolutions are faster on CPUs and GPUs alike."""
    return module.to(device=device, memory_format=layout)  # type: ignore[call-overload,no-any-return]


class _Run:
    """The state of one call of `fit`."""

    def __init__(self, module: nn.Module, samples: Samples, plan: Plan, settings: TrainSettings, work: Path | None, events: Events) -> None:
        n = len(samples.images)
        if n == 0:
            raise CompressionError(f"{plan.name}: there are no images to train on")
        self.device = device_of(settings)
        self.module, self.plan = module, plan
        self.batch = min(settings.batch, n)
        self.per_epoch = n // self.batch
        self.total = round(plan.epochs * self.per_epoch)
        self.augment = settings.augment
        self.bf16 = uses_bf16(settings, module, self.device)
        self.file = work / f"{plan.name}.ckpt" if work else None
        self.digest = start_digest(module, samples, settings, plan) if work else ""
        _place(module, self.device, torch.channels_last).train()
        self.optimizer = optimizer_of(module, plan, settings.weight_decay)
        self.images = torch.from_numpy(padded(samples.images, samples.preprocess)).to(self.device)
        self.labels = torch.from_numpy(samples.labels).to(self.device)
        scale, offset = affine(samples.preprocess)
        self.scale = torch.from_numpy(scale).to(self.device)[:, None, None]
        self.offset = torch.from_numpy(offset).to(self.device)[:, None, None]
        self.step = 0
        self.wall_s = 0.0
        self.recent: list[float] = []
        self.resumed = self.restore(events)

    def train(self, loss: Loss, done: Callable[[int], None]) -> None:
        """Run the steps that are left."""
        began, saved = time.monotonic() - self.wall_s, time.monotonic()
        order = torch.empty(0, dtype=torch.long)
        done(self.step * self.batch)
        while self.step < self.total:
            epoch, position = divmod(self.step, self.per_epoch)
            if position == 0 or len(order) == 0:  # a new epoch, or a continued run in the middle of one
                order = torch.randperm(len(self.images), generator=self.generator("epoch", epoch))
            chosen = order[position * self.batch : (position + 1) * self.batch].to(self.device)
            self.one_step(loss, chosen)
            self.step += 1
            self.wall_s = time.monotonic() - began
            done(self.step * self.batch)
            if self.step == self.total:
                self.require_finite_weights()
            if self.step % self.per_epoch == 0 or self.step == self.total or time.monotonic() - saved > CHECKPOINT_EVERY_S:
                self.save()
                saved = time.monotonic()

    def one_step(self, loss: Loss, chosen: Tensor) -> None:
        """One batch forward, backward and update."""
        generator = self.generator("step", self.step)
        torch.manual_seed(generator.initial_seed())  # for the module's own randomness, such as dropout
        images = self.images[chosen]
        if self.augment:
            images = augment.flip_and_shift(images, generator)
        x = (images.float() * self.scale + self.offset).contiguous(memory_format=torch.channels_last)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.lr * schedule(self.step, self.total, self.plan.schedule)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            value = loss(self.module, x, self.labels[chosen])
        seen = value.item()
        if not math.isfinite(seen):
            raise self.diverged(f"the loss is {seen}")
        value.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.recent = [*self.recent[-49:], seen]

    def generator(self, what: str, index: int) -> torch.Generator:
        """The generator of one step or epoch."""
        text = f"{self.plan.seed}/{what}/{index}"
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"))

    def diverged(self, what: str) -> TrainingDiverged:
        """The error for values that are not finite."""
        epoch = self.step / self.per_epoch
        return TrainingDiverged(
            f"{self.plan.name}: {what} in epoch {epoch:.2f}, step {self.step} of {self.total}",
            hint="lower lr in [train], to a third say; if that does not help, look for NaN in the start weights and std = 0 in preprocess",
            context={"epoch": epoch, "step": self.step, "lr": self.plan.lr, "bf16": self.bf16},
        )

    def require_finite_weights(self) -> None:
        """The last update has no loss after it that would show the damage."""
        for name, tensor in self.module.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise self.diverged(f"{name} holds values that are not finite")

    def save(self) -> None:
        """Write the checkpoint: whole and flushed, or not at all."""
        if self.file is None:
            return
        state = {
            "digest": self.digest,
            "step": self.step,
            "wall_s": self.wall_s,
            "recent": self.recent,
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.file) as draft, draft.open("wb") as stream:
            torch.save(state, stream)

    def restore(self, events: Events) -> bool:
        """Continue from the checkpoint where it is this run's; another run's, or a file that is none, is overwritten at the first save."""
        if self.file is None or not self.file.exists():
            return False
        try:
            state: dict[str, Any] = torch.load(self.file, map_location=self.device, weights_only=True)
            same = state["digest"] == self.digest
        except (RuntimeError, EOFError, KeyError, TypeError, OSError, pickle.UnpicklingError) as error:
            events.warn("W303", f"{self.file} is not a training checkpoint, and training starts anew: {error}")
            return False
        if not same:
            return False
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.wall_s, self.recent = state["step"], state["wall_s"], state["recent"]
        return True


def fit(
    module: nn.Module, samples: Samples, *, loss: Loss, plan: Plan, settings: TrainSettings, events: Events, work: Path | None = None
) -> FitResult:
    """Train `module` in place; it ends on the CPU, in evaluation mode.

    With `work`, the state is saved to `work/<plan.name>.ckpt` at each epoch's end and every 10 seconds; a later call with the same module,
    samples, settings and plan continues there, and returns at once if the run had ended.

    Raises:
        TrainingDiverged: a loss or a weight is not finite.
        CompressionError: no images, or a device that is not there.
    """
    with _threads(settings.threads), torch.random.fork_rng():
        run = _Run(module, samples, plan, settings, work, events)
        try:
            with events.progress(plan.name, run.total * run.batch) as done:
                run.train(loss, done)
        finally:
            _place(module, torch.device("cpu"), torch.contiguous_format).eval()
    return FitResult(
        images_seen=run.step * run.batch,
        wall_s=run.wall_s,
        final_loss=sum(run.recent) / len(run.recent) if run.recent else math.nan,
        resumed=run.resumed,
    )


@torch.no_grad()
def predict(module: nn.Module, images: Images, how: Preprocess, *, batch: int = 100) -> NDArray[np.float32]:
    """Logits (n, classes) of uint8 images (n, c, h, w): evaluation mode, float32. The module's mode is put back.

    On one CPU thread, batches of 100 in channels-last form were the fastest for ResNet-20: 0.8 ms an image against 1.4 at 500 without.
    """
    mode, device = module.training, next(module.parameters()).device
    _place(module, device, torch.channels_last).eval()
    try:
        starts = range(0, len(images), batch)
        parts = (torch.from_numpy(preprocess(images[i : i + batch], how)).to(device) for i in starts)
        logits = [module(part).float().cpu().numpy() for part in parts]
    finally:
        _place(module, device, torch.contiguous_format).train(mode)
    return np.concatenate(logits)


def top1(logits: NDArray[np.float32], labels: Labels) -> tuple[int, int]:
    """(correct, n): how many rows have their largest logit at the label."""
    return int((logits.argmax(1) == labels).sum()), len(labels)
