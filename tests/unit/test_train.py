"""The training loop: it learns, it resumes bit for bit, it refuses what is not finite."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgec.models.data import open_data, preprocess
from edgec.models.mobilenet import mobilenet_v2
from edgec.models.vgg import vgg8
from edgec.pipeline.compress import train
from edgec.pipeline.compress.losses import distill_loss, label_loss
from edgec.pipeline.compress.train import Optimizer, Plan, Samples, fit, optimizer_of, predict, schedule, top1, uses_bf16
from edgec.pipeline.core.errors import CompressionError
from edgec.pipeline.core.records import Preprocess, Split
from edgec.pipeline.core.settings import DataSettings, TrainSettings
from edgec.pipeline.events import Recorder

GREY = Preprocess(mean=(0.5,), std=(0.5,), pad=0)
SETTINGS = TrainSettings(batch=16, threads=1, device="cpu")
PLAN = Plan(name="small", epochs=2, lr=0.05, seed=7)


class Progress:
    """Keeps the amounts done; calls `at` with each."""

    def __init__(self, at: Callable[[int], None] = lambda _: None) -> None:
        self.total, self.amounts, self.at = 0, list[int](), at

    @contextmanager
    def stage(self, name: str, detail: str = "") -> Iterator[None]:
        yield

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        self.total = total

        def done(amount: int) -> None:
            self.amounts.append(amount)
            self.at(amount)

        yield done

    def note(self, text: str) -> None: ...

    def warn(self, code: str, text: str) -> None: ...


def small_samples(n: int = 130) -> Samples:
    """Noise whose brightness tells the class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, n)
    images = (rng.integers(0, 60, (n, 1, 12, 12)) + 50 * labels[:, None, None, None]).astype(np.uint8)
    return Samples(images=images, labels=labels, preprocess=GREY)


def small_net() -> nn.Module:
    """With BatchNorm (running statistics) and dropout (its own random numbers): both are part of the state."""
    torch.manual_seed(0)
    net = vgg8(classes=4, width=4)
    net.flatten = nn.Sequential(nn.Flatten(), nn.Dropout(0.3))
    return net


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


class Stop(Exception):
    pass


def stop_at(images: int) -> Callable[[int], None]:
    def at(amount: int) -> None:
        if amount >= images:
            raise Stop

    return at


@pytest.mark.parametrize("optimizer", list(Optimizer))
@pytest.mark.parametrize("every_s", [0.0, 10.0], ids=["checkpoint each step", "checkpoint each epoch"])
def test_interrupted_run_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: Optimizer, every_s: float
) -> None:
    monkeypatch.setattr(train, "CHECKPOINT_EVERY_S", every_s)
    plan = replace(PLAN, optimizer=optimizer, lr=0.01)
    whole, parts = small_net(), small_net()
    result = fit(whole, small_samples(), loss=label_loss, plan=plan, settings=SETTINGS, events=Progress())
    with pytest.raises(Stop):
        fit(parts, small_samples(), loss=label_loss, plan=plan, settings=SETTINGS, events=Progress(stop_at(11 * 16)), work=tmp_path)
    again, progress = small_net(), Progress()
    torch.manual_seed(99)  # whatever the process drew before
    resumed = fit(again, small_samples(), loss=label_loss, plan=plan, settings=SETTINGS, events=progress, work=tmp_path)
    assert resumed.resumed
    assert not result.resumed
    assert progress.amounts[0] == (10 * 16 if every_s == 0 else 8 * 16)
    assert same(whole, again)
    assert (resumed.images_seen, resumed.final_loss) == (result.images_seen, result.final_loss) == (256, result.final_loss)


KILLED = """
    import sys
    from pathlib import Path
    from tests_train import PLAN, SETTINGS, Progress, small_net, small_samples
    from edgec.pipeline.compress import train
    from edgec.pipeline.compress.losses import label_loss

    train.CHECKPOINT_EVERY_S = 0.0
    def say(amount):
        print(amount, flush=True)
    train.fit(small_net(), small_samples(), loss=label_loss, plan=PLAN, settings=SETTINGS, events=Progress(say), work=Path(sys.argv[1]))
"""


def test_killed_process_is_continued_with_the_same_bits(tmp_path: Path) -> None:
    (tmp_path / "tests_train.py").symlink_to(__file__)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 5 * 16:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    whole, again, progress = small_net(), small_net(), Progress()
    fit(whole, small_samples(), loss=label_loss, plan=PLAN, settings=SETTINGS, events=Progress())
    assert fit(again, small_samples(), loss=label_loss, plan=PLAN, settings=SETTINGS, events=progress, work=tmp_path).resumed
    assert 0 < progress.amounts[0] < progress.total
    assert same(whole, again)


def test_finished_run_is_not_run_again(tmp_path: Path) -> None:
    first, second, progress = small_net(), small_net(), Progress()
    before = fit(first, small_samples(), loss=label_loss, plan=PLAN, settings=SETTINGS, events=Progress(), work=tmp_path)
    after = fit(second, small_samples(), loss=label_loss, plan=PLAN, settings=SETTINGS, events=progress, work=tmp_path)
    assert progress.amounts == [256]
    assert same(first, second)
    assert (after.wall_s, after.final_loss) == (before.wall_s, before.final_loss)


@pytest.mark.parametrize(
    "other",
    [
        {"plan": replace(PLAN, seed=8)},
        {"plan": replace(PLAN, depends_on=("another teacher",))},
        {"settings": replace(SETTINGS, weight_decay=0.0)},
        {"samples": small_samples(131)},
        {"module": vgg8(classes=4, width=4)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_checkpoint_of_another_run_is_not_taken(tmp_path: Path, other: dict[str, object]) -> None:
    fit(small_net(), small_samples(), loss=label_loss, plan=PLAN, settings=SETTINGS, events=Progress(), work=tmp_path)
    changed = {"module": small_net(), "samples": small_samples(), "plan": PLAN, "settings": SETTINGS, **other}
    module, samples = changed.pop("module"), changed.pop("samples")
    assert not fit(module, samples, loss=label_loss, events=Progress(), work=tmp_path, **changed).resumed


def test_number_of_threads_does_not_make_another_run(tmp_path: Path) -> None:
    fit(small_net(), small_samples(), loss=label_loss, plan=PLAN, settings=SETTINGS, events=Progress(), work=tmp_path)
    two = replace(SETTINGS, threads=2)  # nothing is left to do, so no step runs with two
    assert fit(small_net(), small_samples(), loss=label_loss, plan=PLAN, settings=two, events=Progress(), work=tmp_path).resumed


@pytest.mark.parametrize("content", [b"PK\3\4 half a file", b""])
def test_damaged_checkpoint_is_named_and_training_starts_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "small.ckpt").write_bytes(content)
    events, whole, again = Recorder(), small_net(), small_net()
    fit(whole, small_samples(), loss=label_loss, plan=PLAN, settings=SETTINGS, events=Progress())
    result = fit(again, small_samples(), loss=label_loss, plan=PLAN, settings=SETTINGS, events=events, work=tmp_path)
    (warning,) = [each for each in events.events if each.kind == "warning"]
    assert "small.ckpt is not a training checkpoint, and training starts anew" in warning.text
    assert not result.resumed
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


def test_loss_that_is_not_finite_names_the_step() -> None:
    def loss(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        calls.append(1)
        return label_loss(module, images, labels) * (float("nan") if len(calls) == 12 else 1.0)

    calls: list[int] = []
    with pytest.raises(CompressionError, match=r"small: the loss is nan in epoch 1\.38, step 11 of 16") as caught:
        fit(small_net(), small_samples(), loss=loss, plan=PLAN, settings=SETTINGS, events=Progress())
    assert "lower lr" in caught.value.hint


def test_damage_of_the_last_step_is_seen() -> None:
    def steep(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return 1e6 * label_loss(module, images, labels)

    plan = replace(PLAN, epochs=1 / 8, lr=3e38)
    with pytest.raises(CompressionError, match="holds values that are not finite"):
        fit(small_net(), small_samples(), loss=steep, plan=plan, settings=SETTINGS, events=Progress())


def test_no_images_is_an_error() -> None:
    with pytest.raises(CompressionError, match="no images"):
        fit(small_net(), small_samples(0), loss=label_loss, plan=PLAN, settings=SETTINGS, events=Progress())


def test_schedule_warms_up_and_falls_as_a_cosine() -> None:
    factors = [schedule(step, 100) for step in range(100)]
    assert factors[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert factors[5:] == pytest.approx([0.5 * (1 + np.cos(np.pi * k / 95)) for k in range(95)])
    assert schedule(0, 1) == 1.0


def test_weight_decay_falls_on_matrices_only() -> None:
    net = small_net()
    net.scale = nn.Parameter(torch.ones(4, 1, 1, 1))
    groups = optimizer_of(net, PLAN, 0.1).param_groups
    names = {id(p): name for name, p in net.named_parameters()}
    decayed = {names[id(p)] for group in groups if group["weight_decay"] > 0 for p in group["params"]}
    convolutions = {f"{name}.weight" for name, module in net.named_modules() if isinstance(module, nn.Conv2d)}
    assert decayed == convolutions | {"fc.weight"}
    assert sum(len(group["params"]) for group in groups) == len(names)


def test_epochs_may_be_a_fraction_and_small_sets_are_one_batch() -> None:
    half = fit(small_net(), small_samples(), loss=label_loss, plan=replace(PLAN, epochs=0.5), settings=SETTINGS, events=Progress())
    assert half.images_seen == 4 * 16
    few = fit(small_net(), small_samples(5), loss=label_loss, plan=PLAN, settings=SETTINGS, events=Progress())
    assert few.images_seen == 2 * 5


def test_global_state_is_put_back() -> None:
    before, net = torch.get_num_threads(), small_net()
    torch.set_num_threads(2)
    state = torch.get_rng_state()
    try:
        fit(net, small_samples(), loss=label_loss, plan=PLAN, settings=SETTINGS, events=Progress())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert torch.equal(torch.get_rng_state(), state)
    assert not net.training


def test_training_without_labels_does_not_depend_on_them() -> None:
    teacher = vgg8(classes=4, width=4)
    samples = small_samples()
    mixed = replace(samples, labels=np.zeros_like(samples.labels))
    loss = distill_loss(teacher, label_weight=0.0)
    a, b = small_net(), small_net()
    fit(a, samples, loss=loss, plan=PLAN, settings=SETTINGS, events=Progress())
    fit(b, mixed, loss=loss, plan=PLAN, settings=SETTINGS, events=Progress())
    assert same(a, b)


def test_predict_equals_one_image_at_a_time_and_keeps_the_mode() -> None:
    net, samples = small_net().train(), small_samples(7)
    seen = predict(net, samples.images, GREY, batch=3)
    assert net.training
    net.eval()
    with torch.no_grad():
        for image, logits in zip(samples.images, seen, strict=True):
            alone = net(torch.from_numpy(preprocess(image[None], GREY)))
            # float32 sums in another order: relative to the largest logit
            assert np.abs(alone.numpy() - logits).max() <= 1e-5 * np.abs(seen).max()


def test_top1_counts_rows_with_the_largest_logit_at_the_label() -> None:
    logits = np.array([[1, 2, 0], [3, 2, 1], [0, 0, 9]], np.float32)
    assert top1(logits, np.array([1, 1, 2])) == (2, 3)


@pytest.mark.parametrize(("field", "value"), [("device", "tpu"), ("precision", "int4")])
def test_unknown_device_and_precision_are_named(field: str, value: str) -> None:
    with pytest.raises(CompressionError, match=value):
        fit(small_net(), small_samples(), loss=label_loss, plan=PLAN, settings=replace(SETTINGS, **{field: value}), events=Progress())


def test_depthwise_networks_train_in_float32_by_default() -> None:
    cpu = torch.device("cpu")
    assert not uses_bf16(SETTINGS, mobilenet_v2(), cpu)
    assert uses_bf16(replace(SETTINGS, precision="bf16"), mobilenet_v2(), cpu)
    assert not uses_bf16(replace(SETTINGS, precision="fp32"), vgg8(), cpu)


def test_a_short_training_on_real_images_beats_chance_by_far() -> None:
    spec, dataset = open_data(DataSettings(name="fashion-mnist-small"))
    images, labels = dataset.arrays(Split.TRAIN)
    samples = Samples(images=images[:3000], labels=labels[:3000], preprocess=spec.preprocess)
    torch.manual_seed(0)
    net = vgg8(width=8)
    settings = TrainSettings(batch=32, threads=1, device="cpu")
    fit(net, samples, loss=label_loss, plan=replace(PLAN, epochs=1.5), settings=settings, events=Progress())
    images, labels = (part[:1000] for part in dataset.arrays(Split.VALIDATION))
    correct, n = top1(predict(net, images, spec.preprocess), labels)
    # chance is 100 of 1000
    assert correct > 650, f"{correct} of {n}"
