"""Finds the channel groups of a network and says of each whether it may be cut, and if not, why.

Torch-Pruning's DependencyGraph offers which dimensions belong together (`tracing.py`), `heads.py` offers attention heads. Every offer is
proved before it is used (`proof.py`): on a copy with random weights, removing channels must give the same outputs as silencing them. A
group that fails is protected, never cut wrongly.
"""

import difflib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor, nn

from edgec.pipeline.compress.channels import Group, Groups, Side
from edgec.pipeline.compress.count import Example, evaluating, run, widths
from edgec.pipeline.compress.heads import with_heads
from edgec.pipeline.compress.idle import idle_layers
from edgec.pipeline.compress.proof import proved
from edgec.pipeline.compress.surgery import copy_of, reason_uncuttable, shared_with
from edgec.pipeline.compress.tracing import Found, trace
from edgec.pipeline.core.errors import CompressionError, ModelError

OUTPUT = "its channels are the network's output"
STREAM = "residual stream: several layers add to these channels"


def find_groups(
    module: nn.Module, example: Example, *, protect: Sequence[str] = (), stream: bool = False, within: Groups | None = None
) -> Groups:
    """Every channel group of the network, in order of execution. The network itself is not touched.

    Args:
        example: an input with its batch dimension, several as a tuple; the values do not matter.
        protect: names of layers whose widths stay.
        stream: whether residual streams, which several layers add to, may be cut.
        within: groups of the network that this one was cut from: what is protected there stays protected.

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
        shared = shared_with(subject)
        groups = [_judged(each, protect=protect, stream=stream, last=last, shared=shared) for each in found]
        idle = idle_layers(subject, example, order)
        if within is None:  # of a network that was cut, widths say no longer what an idle layer may read
            groups = [idle.kept_from(each, subject) for each in groups]
        groups += _untraced(subject, order, found) + idle.listed(subject)
        groups.sort(key=lambda g: order.get(g.name, len(order)))
        mixed = {each.group.name for each in found if each.mixed}
        offered = Groups(tuple(groups))
        return proved(subject, example, offered if within is None else offered.within(within), mixed, idle.training)


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


def _judged(found: Found, *, protect: Sequence[str], stream: bool, last: set[str], shared: Mapping[str, str]) -> Group:
    """The group with the first reason against cutting it."""
    group = found.group
    named = [m.layer for m in group.members if m.layer in protect and m.side is not Side.IN]
    tied = next((m.layer for m in group.members if m.layer in shared), "")
    reason = OUTPUT if found.output else ""
    if not reason and named:
        reason = f"protected by name: {named[0]}"
    elif not reason and found.uncuttable:
        reason = found.uncuttable
    elif not reason and tied:
        reason = f"{tied}: it shares its weight with {shared[tied]}"
    elif not reason and found.adds and not stream:
        reason = STREAM
    feeds_output = any(m.side is Side.IN and m.layer in last for m in group.members)
    return replace(group, prunable=not reason, reason=reason, feeds_output=feeds_output)
