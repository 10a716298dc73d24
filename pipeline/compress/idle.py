"""Layers that do not run on the example in eval mode: heads of training alone, branches that a condition skips, leftovers.

What they read is not traced. Where they run in training mode the proof of a group runs that mode too (`proof.py`); of the others nothing
is known, and groups of a width that they read or give are protected.
"""

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import nn

from edgec.pipeline.compress.channels import Group, Side
from edgec.pipeline.compress.count import Example, run, widths
from edgec.pipeline.compress.proof import gradients_of, run_in_training
from edgec.pipeline.compress.surgery import copy_of, dimension
from edgec.pipeline.core.errors import ModelError

SKIPPED = "it did not run on the example"
TRAINING = "it runs only in training mode"


@dataclass(frozen=True, slots=True)
class Idle:
    """Layers with parameters that nothing called, and why each is listed as protected."""

    reasons: Mapping[str, str]
    skipped: Mapping[str, nn.Module]
    """Those that ran in neither mode."""
    training: Example | None
    """What the network runs on in training mode, where layers run in that mode alone."""

    def listed(self, module: nn.Module) -> list[Group]:
        """One group each, so that each is named."""
        width = widths(module)
        return [
            Group(name=name, channels=width.get(name, 0), members=(), writers=(name,), prunable=False, reason=reason)
            for name, reason in self.reasons.items()
        ]

    def kept_from(self, group: Group, module: nn.Module) -> Group:
        """The group, protected where a layer that never ran may touch its channels."""
        known = {dimension(module.get_submodule(m.layer), m.side) for m in group.members}
        touching = next((name for name, layer in self.skipped.items() if _sizes(layer) & known), "")
        if not group.prunable or not touching:
            return group
        reason = f"{touching} did not run on the example and may read or add to channels of this width: remove it, or give another example"
        return replace(group, prunable=False, reason=reason)


def idle_layers(module: nn.Module, example: Example, called: Collection[str]) -> Idle:
    """What did not run.

    Args:
        module: in eval mode, with gradients.
        called: layers that ran on the example.
    """
    silent = {n: each for n, each in module.named_modules() if n not in called and any(True for _ in each.parameters(recurse=False))}
    if not silent:
        return Idle({}, {}, None)
    used = _used(module, example, silent)
    twice = tuple(torch.cat((each, each)) for each in (example if isinstance(example, tuple) else (example,)))
    """BatchNorm in training mode needs more than one value a channel."""
    trained = _called_in_training(module, twice)
    reasons = {}
    for name in silent:
        if name in used:
            reasons[name] = f"{name.rpartition('.')[0] or 'the network'} uses its weight without calling it"
        else:
            reasons[name] = TRAINING if name in trained else SKIPPED
    skipped = {name: layer for name, layer in silent.items() if reasons[name] == SKIPPED}
    return Idle(reasons, skipped, twice if TRAINING in reasons.values() else None)


def _used(module: nn.Module, example: Example, silent: Mapping[str, nn.Module]) -> set[str]:
    """Those whose parameters the output depends on, although nothing called them."""
    owners = [(name, p) for name, each in silent.items() for p in each.parameters(recurse=False)]
    gradients = gradients_of(run(module, example).sum(), [p for _, p in owners])
    return {name for (name, _), gradient in zip(owners, gradients, strict=True) if gradient is not None}


@torch.no_grad()
def _called_in_training(module: nn.Module, example: Example) -> set[str]:
    """Layers that run in training mode; none when the network does not run on the example in that mode, for instance for lack of labels."""
    copied = copy_of(module)
    names = {id(each): name for name, each in copied.named_modules()}
    called: set[str] = set()

    def note(each: nn.Module, _inputs: object) -> None:
        called.add(names[id(each)])

    with ExitStack() as stack:
        for each in copied.modules():
            stack.callback(each.register_forward_pre_hook(note).remove)
        try:
            run_in_training(copied, example)
        except ModelError:
            return set()
    return called


def _sizes(layer: nn.Module) -> set[int]:
    """Channels that the layer may read or give."""
    known = {dimension(layer, side) for side in (Side.IN, Side.OUT)} - {0}
    return known or {size for parameter in layer.parameters(recurse=False) for size in parameter.shape[:2]}
