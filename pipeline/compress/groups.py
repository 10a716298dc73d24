"""Finds the channel groups of a network and says of each whether it may be cut, and if not, why.

Torch-Pruning's DependencyGraph offers which dimensions belong together (`tracing.py`), `heads.py` offers attention heads. Every offer is
proved before it is used: on a copy with random weights, removing channels must give the same outputs as silencing them. A group that
fails is protected, never cut wrongly.
"""

import difflib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor, nn

from edgec.pipeline.compress.channels import Group, Groups, Selection, Side
from edgec.pipeline.compress.count import CONVOLUTIONS, NORMS, TRANSPOSED, Example, evaluating, run, widths
from edgec.pipeline.compress.heads import with_heads
from edgec.pipeline.compress.surgery import copy_of, cut, mask, reason_uncuttable
from edgec.pipeline.compress.tracing import MIXED, Found, trace
from edgec.pipeline.core.errors import CompressionError, ModelError

OUTPUT = "its channels are the network's output"
STREAM = "residual stream: several layers add to these channels"

PROOF_TOLERANCE = 1e-4
"""Largest |cut - masked| over the largest |masked|; float32 sums in another order stay near 1e-6."""


def find_groups(module: nn.Module, example: Example, *, protect: Sequence[str] = (), stream: bool = False) -> Groups:
    """Every channel group of the network, in order of execution. The network itself is not touched.

    Args:
        example: an input with its batch dimension, several as a tuple; the values do not matter.
        protect: names of layers whose widths stay.
        stream: whether residual streams, which several layers add to, may be cut.

    Raises:
        ModelError: the network cannot run on the example, or cannot be traced.
        CompressionError: `protect` names a layer that is not there.
    """
    _check_names(module, protect)
    subject = copy_of(module).requires_grad_(True)
    with evaluating(subject), torch.enable_grad():
        order = _order(subject, example)
        found = with_heads(trace(subject, example, order), subject, example)
        last = {w for each in found if each.output for w in each.group.writers}
        groups = [_judged(each, protect=protect, stream=stream, last=last) for each in found] + _untraced(subject, order, found)
        groups.sort(key=lambda g: order.get(g.name, len(order)))
        mixed = {each.group.name for each in found if each.mixed}
        return _proved(subject, example, Groups(tuple(groups)), mixed)


def _check_names(module: nn.Module, protect: Sequence[str]) -> None:
    known = [name for name, _ in module.named_modules() if name]
    for name in protect:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise CompressionError(
                f"protect names a layer that the network does not have: {name!r}",
                hint=f"did you mean {near[0]!r}?" if near else f"its layers are: {', '.join(known[:20])}",
            )


def _order(module: nn.Module, example: Example) -> dict[str, int]:
    """Layer name to its place in the order of first calls."""
    names = {id(m): name for name, m in module.named_modules()}
    order: dict[str, int] = {}

    def note(each: nn.Module, _inputs: object) -> None:
        order.setdefault(names[id(each)], len(order))

    with ExitStack() as stack:
        for each in module.modules():
            stack.callback(each.register_forward_pre_hook(note).remove)
        output = run(module, example)
    if not isinstance(output, Tensor):
        raise ModelError(f"the network gives a {type(output).__name__}", hint="give a network with one tensor as its output")
    return order


def _untraced(module: nn.Module, order: dict[str, int], found: Sequence[Found]) -> list[Group]:
    """PyTorch's layers with weights that ran and that no traced group computes, each listed as protected."""
    traced = {writer for each in found for writer in each.group.writers}
    width = widths(module)
    listed = []
    for name in order:
        layer = module.get_submodule(name)
        of_torch = type(layer).__module__.startswith("torch.nn")
        if of_torch and name not in traced and any(p.dim() > 1 for p in layer.parameters(recurse=False)):
            reason = reason_uncuttable(layer) or "not traced: no gradient reaches it from the network's output"
            listed.append(Group(name=name, channels=width.get(name, 0), members=(), writers=(name,), prunable=False, reason=reason))
    return listed


def _judged(found: Found, *, protect: Sequence[str], stream: bool, last: set[str]) -> Group:
    """The group with the first reason against cutting it."""
    group = found.group
    named = [m.layer for m in group.members if m.layer in protect and m.side is not Side.IN]
    reason = OUTPUT if found.output else ""
    if not reason and named:
        reason = f"protected by name: {named[0]}"
    elif not reason and found.uncuttable:
        reason = found.uncuttable
    elif not reason and found.adds and not stream:
        reason = STREAM
    feeds_output = any(m.side is Side.IN and m.layer in last for m in group.members)
    return replace(group, prunable=not reason, reason=reason, feeds_output=feeds_output)


def _proved(module: nn.Module, example: Example, groups: Groups, mixed: set[str]) -> Groups:
    """The groups, with those protected for which removing channels is not the same as silencing them.

    Args:
        mixed: names of groups that a reshape moves: it is told as the cause where they fail.
    """
    _randomise(module)
    if not _difference(module, example, groups, groups.prunable):
        return groups
    sound = tuple(group for group in groups.prunable if group.name not in mixed)
    doubtful = mixed if not _difference(module, example, groups, sound) else {group.name for group in groups}
    judged = []
    for group in groups:
        why = _difference(module, example, groups, (group,)) if group.prunable and group.name in doubtful else ""
        why = f"{MIXED}: {why}" if why and group.name in mixed else why
        judged.append(replace(group, prunable=False, reason=why) if why else group)
    proved = Groups(tuple(judged))
    together = _difference(module, example, proved, proved.prunable)
    if together:
        raise ModelError(
            f"the network's channel groups do not add up: {together}", hint="leave this network unpruned: [prune] enabled = false"
        )
    return proved


@torch.no_grad()
def _difference(module: nn.Module, example: Example, groups: Groups, tried: Sequence[Group]) -> str:
    """Empty when half of the channels of these groups can be removed without changing the function, else what happened.

    Which half is drawn: every second channel would be one half of a shuffle.
    """
    generator = torch.Generator().manual_seed(0)
    half = {g.name: tuple(sorted(torch.randperm(g.channels, generator=generator)[: g.channels // 2].tolist())) for g in tried}
    selection = Selection(groups=groups, removed=half)
    noise = tuple(_noise(each) for each in (example if isinstance(example, tuple) else (example,)))
    try:
        narrow = run(cut(module, selection), noise)
    except ModelError as error:
        return f"without half of its channels {error}"
    silent = run(mask(module, selection), noise)
    scale = float(silent.abs().max())
    difference = float((narrow - silent).abs().max()) if narrow.shape == silent.shape else float("inf")
    if difference <= PROOF_TOLERANCE * scale:
        return ""
    return f"removing channels is not the same as silencing them: outputs of size {scale:.3g} change by {difference:.3g}"


def _noise(example: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(example.shape, generator=generator).to(example) if example.is_floating_point() else example


@torch.no_grad()
def _randomise(module: nn.Module) -> None:
    """Weights under which no branch is silent: a network freshly made often has gammas of 0, a trained one dead channels."""
    generator = torch.Generator().manual_seed(0)

    def fill(tensor: object, low: float, high: float) -> None:
        if isinstance(tensor, Tensor):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    for each in module.modules():
        if isinstance(each, nn.PReLU):
            fill(each.weight, 0.1, 0.5)
        elif isinstance(each, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)) and not reason_uncuttable(each):
            bound = (6 / each.weight[0].numel()) ** 0.5
            fill(each.weight, -bound, bound)
            fill(each.bias, -0.3, 0.3)
        elif isinstance(each, NORMS):
            for tensor, low, high in (
                (each.weight, 0.5, 1.5),
                (each.bias, -0.3, 0.3),
                (each.running_mean, -0.3, 0.3),
                (each.running_var, 0.5, 1.5),
            ):
                fill(tensor, low, high)
