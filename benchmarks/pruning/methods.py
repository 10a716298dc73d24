"""The pruners that are compared: ours, Torch-Pruning's, and mixtures that tell criterion from allocation and re-fit.

All cut the same groups (residual streams stay), and reach the same cost at each rung.
"""

import copy
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import Tensor, nn

from edgec.pipeline.compress.channel_cost import CostUnit
from edgec.pipeline.compress.channels import Groups
from edgec.pipeline.compress.cutting import Cutter
from edgec.pipeline.compress.groups import find_groups
from edgec.pipeline.compress.policy import Phase, Propose
from edgec.pipeline.compress.scores import Calibration, Scores
from edgec.pipeline.core.settings import PruneSettings
from pruning.setting import EXAMPLE, STEP, calibration, counted

Importance = Callable[[object], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A row of the table."""

    name: str
    criterion: str
    allocation: str
    """cost of a channel: ours · global: one threshold on scores normalised by layer, Torch-Pruning's."""
    refit: bool
    round_to: int = 1
    """Widths are multiples of it where the floor allows: how ONNX Runtime's blocked float kernels like them, and dearer in accuracy."""


TORCH_PRUNING: dict[str, Callable[[], Importance]] = {
    "magnitude": lambda: tp.importance.GroupMagnitudeImportance(p=1, group_reduction="first", normalizer="mean"),
    "group-norm": lambda: tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean", normalizer="mean"),
    "bn-scale": tp.importance.BNScaleImportance,
    "taylor": tp.importance.GroupTaylorImportance,
}
OURS = ("attg2", "random")

METHODS: dict[str, Method] = {
    "aap": Method(name="aap", criterion="attg2", allocation="cost", refit=True),
    "aap-round16": Method(name="aap-round16", criterion="attg2", allocation="cost", refit=True, round_to=16),
    "random+ours": Method(name="random+ours", criterion="random", allocation="cost", refit=True),
    **{f"tp-{name}": Method(name=f"tp-{name}", criterion=name, allocation="global", refit=False) for name in TORCH_PRUNING},
    **{f"tp-{name}+ours": Method(name=f"tp-{name}+ours", criterion=name, allocation="cost", refit=True) for name in TORCH_PRUNING},
}


def rungs(
    method: Method, dense: nn.Module, unit: CostUnit, count: int, seed: int, recover: Callable[[nn.Module, int], None]
) -> Iterator[tuple[int, nn.Module, nn.Module]]:
    """For each rung its number, the network right after surgery (and re-fit), and the same after recovery."""
    steps = _ours(method, dense, unit, seed) if method.allocation == "cost" else _theirs(method, dense, unit)
    narrow = next(steps)
    for rung in range(1, count + 1):
        before = copy.deepcopy(narrow)
        recover(narrow, rung)
        yield rung, before, narrow
        if rung < count:
            narrow = steps.send(narrow)


Steps = Generator[nn.Module, nn.Module, None]
"""Yields the next network to recover, and is sent the recovered one."""


def _ours(method: Method, dense: nn.Module, unit: CostUnit, seed: int) -> Steps:
    """The product's cuts: each sent the recovered network, yields the next one to recover."""
    name = method.criterion if method.criterion in OURS else "l2"
    settings = PruneSettings(criterion=name, round_to=method.round_to, refit=method.refit, samples=len(calibration()[0]))
    cutter = Cutter(dense, EXAMPLE, calibration=calibration(), settings=settings, unit=unit, table=None, early=None, seed=seed)
    if method.criterion not in OURS:
        cutter.criterion = _TorchPruningScores(method.criterion)
    network, rung = cutter.dense, 0
    while True:
        rung += 1
        step = Propose(phase=Phase.TRAIN, cost_kept=STEP**rung, parent=0)
        selection = cutter.selection(network, step)
        recovered = yield cutter.narrowed(network, step, selection)
        network = cutter.accept(network, selection, recovered)


@dataclass(frozen=True, slots=True)
class _TorchPruningScores:
    """Torch-Pruning's importances as scores of our groups."""

    name: str

    def __call__(self, groups: Groups, module: nn.Module, _calibration: Calibration, /) -> Scores:
        module = copy.deepcopy(module)
        graph = tp.DependencyGraph().build_dependency(module, example_inputs=EXAMPLE)
        importance = TORCH_PRUNING[self.name]()
        _backward(module)
        scores: Scores = {}
        for group in groups.prunable:
            whole = graph.get_pruning_group(module.get_submodule(group.name), tp.prune_conv_out_channels, list(range(group.channels)))
            scores[group.name] = importance(whole).detach().double()
        return scores


def _backward(module: nn.Module) -> None:
    """Gradients of the mean loss over the calibration images (Taylor)."""
    images, labels = calibration()
    module.eval().zero_grad(set_to_none=True)
    torch.autograd.backward(F.cross_entropy(module(images), labels))


def _theirs(method: Method, dense: nn.Module, unit: CostUnit) -> Steps:
    """Torch-Pruning's own pruner, its ratio of channels bisected to the rung's cost."""
    keep = {g.name for g in find_groups(dense, EXAMPLE).prunable}
    start = _in(unit, dense)
    network, rung = dense, 0
    while True:
        rung += 1
        network = yield _pruned(network, method.criterion, STEP**rung * start, unit, keep)


def _pruned(network: nn.Module, criterion: str, target: float, unit: CostUnit, keep: set[str]) -> nn.Module:
    """The mildest cut by Torch-Pruning's pruner whose cost is at most the target."""
    network = copy.deepcopy(network)
    _backward(network)
    low, high = 0.0, 1.0
    best: nn.Module | None = None
    for _ in range(9):
        ratio = (low + high) / 2
        narrow = _stepped(network, criterion, ratio, keep)
        if narrow is not None and _in(unit, narrow) > target:
            low = ratio
        else:
            high = ratio
            best = narrow or best
    if best is None:
        raise RuntimeError(f"Torch-Pruning's pruner found no cut of {target:.0f} {unit} by {criterion}")
    return best


def _stepped(network: nn.Module, criterion: str, ratio: float, keep: set[str]) -> nn.Module:
    narrow = copy.deepcopy(network)
    for mine, theirs in zip(narrow.parameters(), network.parameters(), strict=True):
        mine.grad = None if theirs.grad is None else theirs.grad.clone()
    ignored = [m for n, m in narrow.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and n not in keep]
    pruner = tp.pruner.BasePruner(
        narrow, EXAMPLE, TORCH_PRUNING[criterion](), global_pruning=True, pruning_ratio=ratio, ignored_layers=ignored
    )
    pruner.step()
    narrow.zero_grad(set_to_none=True)
    return narrow


def _in(unit: CostUnit, module: nn.Module) -> int:
    size = counted(module)
    return size.parameters if unit is CostUnit.PARAMETERS else size.macs
