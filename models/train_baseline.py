"""Trains a reference network on the full Fashion-MNIST and writes its weights, with a card that says how.

    python -m edgec.models.train_baseline resnet20 --epochs 12

An interrupted run continues from its checkpoint. The test split is read once, after the last step; nothing is chosen by it.
This script uses the training loop above `models` in the layers; nothing imports it.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from edgec.models.build import build, save_tensors
from edgec.models.data import FULL, open_data
from edgec.models.names import NETWORKS
from edgec.pipeline.compress.losses import label_loss
from edgec.pipeline.compress.train import Plan, Samples, fit, predict, top1, uses_bf16
from edgec.pipeline.core.errors import EdgecError
from edgec.pipeline.core.records import ModelSpec, Split, TensorSpec
from edgec.pipeline.core.settings import DataSettings, TrainSettings

INPUT_SHAPE = (1, 32, 32)
PEAK_LR = {
    "resnet20": 0.1,
    "resnet56": 0.1,
    "vgg8": 0.05,
    "vgg16": 0.05,
    "vgg19": 0.05,
    "mobilenet_v2": 0.1,
    "shufflenet_v2": 0.1,
}
"""The networks that it trains."""
SAY_EVERY_S = 60.0


class Lines:
    """`protocols.Events` as plain lines on stderr."""

    @contextmanager
    def stage(self, name: str, detail: str = "") -> Iterator[None]:
        self.note(f"{name} {detail}")
        yield

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        began = said = time.monotonic()
        first: int | None = None

        def done(amount: int) -> None:
            nonlocal first, said
            now = time.monotonic()
            if first is None:
                first = amount
            if amount > first and (amount == total or now - said > SAY_EVERY_S):
                said = now
                rate = (amount - first) / (now - began)
                self.note(f"{what}: {amount} of {total} images, {rate:.0f} a second, {(total - amount) / rate / 60:.0f} min left")

        yield done

    def note(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def warn(self, code: str, text: str) -> None:
        self.note(f"{code} {text}")


def train(network: str, plan: Plan, settings: TrainSettings, work: Path) -> tuple[torch.nn.Module, dict[str, object]]:
    """The trained network and its card."""
    data, dataset = open_data(DataSettings(name=FULL))
    spec = ModelSpec(builder=NETWORKS[network], inputs=(TensorSpec(name="input", shape=(None, *INPUT_SHAPE)),), classes=data.classes)
    torch.manual_seed(plan.seed)
    module = build(spec)
    images, labels = dataset.arrays(Split.TRAIN)
    samples = Samples(images=images, labels=labels, preprocess=data.preprocess)
    result = fit(module, samples, loss=label_loss, plan=plan, settings=settings, events=Lines(), work=work)
    card: dict[str, object] = {
        "command": f"python -m edgec.models.train_baseline {network} --epochs {plan.epochs:g} --lr {plan.lr:g} --seed {plan.seed}"
        f" --threads {settings.threads}",
        "builder": spec.builder,
        "arguments": dict(spec.arguments),
        "input_shape": list(INPUT_SHAPE),
        "data": data.name,
        "data_sha256": {split.value: data.digests[split] for split in (Split.TRAIN, Split.VALIDATION, Split.TEST)},
        "epochs": plan.epochs,
        "seed": plan.seed,
        "bf16": uses_bf16(settings, module, torch.device("cpu")),
        "images_per_s": round(result.images_seen / result.wall_s),
        "wall_s": round(result.wall_s),
        "tools": {"torch": torch.__version__, "numpy": np.__version__},
        "date": datetime.now(UTC).date().isoformat(),
    }
    for split in (Split.VALIDATION, Split.TEST):
        images, labels = dataset.arrays(split)
        correct, n = top1(predict(module, images, data.preprocess), labels)
        card[split.value] = {"correct": correct, "n": n, "top1": correct / n}
    return module, card


def main() -> None:
    """Read the command line, train, write weights and card."""
    parser = argparse.ArgumentParser(prog="python -m edgec.models.train_baseline", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("network", choices=sorted(PEAK_LR))
    parser.add_argument("--epochs", type=float, default=12)
    parser.add_argument("--lr", type=float, help=f"peak of the schedule; default: {PEAK_LR}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "weights")
    parser.add_argument("--work", type=Path, default=Path(".edgec/baselines"), help="folder of the training checkpoint")
    chosen = parser.parse_args()
    name = f"{chosen.network}-{FULL}"
    plan = Plan(name=f"{name}-{chosen.seed}", epochs=chosen.epochs, lr=chosen.lr or PEAK_LR[chosen.network], seed=chosen.seed)
    try:
        module, card = train(chosen.network, plan, TrainSettings(batch=128, threads=chosen.threads), chosen.work)
    except EdgecError as error:
        sys.stderr.write(f"{error}\n{error.hint}\n")
        raise SystemExit(error.exit_code) from error
    chosen.out.mkdir(parents=True, exist_ok=True)
    save_tensors(module, chosen.out / f"{name}.safetensors")
    (chosen.out / f"{name}.json").write_text(json.dumps(card, indent=2) + "\n")


if __name__ == "__main__":
    main()
