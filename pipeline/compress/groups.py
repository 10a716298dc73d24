"""Finds the channel groups of a network and says of each whether it may be cut, and if not, why.

Torch-Pruning's DependencyGraph (arXiv 2301.12900) traces which dimensions belong together. It takes operations that it does not
know for element-wise ones, so every group that it offers is proved before it is used: on a copy with random weights, removing
channels must give the same outputs as silencing them. A group that fails is protected, never cut wrongly.
"""

import difflib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from edgec.pipeline.compress.channels import Group, Groups, Member, Selection, Side
from edgec.pipeline.compress.count import CONVOLUTIONS, NORMS, evaluating, run, widths
from edgec.pipeline.compress.opaque import sealed
from edgec.pipeline.compress.surgery import copy_of, cut, is_depthwise, mask, reason_uncuttable
from edgec.pipeline.core.errors import CompressionError, ModelError

OUTPUT = "its channels are the network's output"
STREAM = "residual stream: several layers add to these channels"

PROOF_TOLERANCE = 1e-4
"""Largest |cut - masked| over the largest |masked|; float32 sums in another order stay near 1e-6."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A group as the library offers it, with what the judgement needs to know."""

    group: Group
    adds: bool
    """An addition is among its operations."""
    uncuttable: str
    """The member that cannot be cut, and why."""


def find_groups(module: nn.Module, example: Tensor, *, protect: Sequence[str] = (), stream: bool = False) -> Groups:
    """Every channel group of the network, in order of execution. The network itself is not touched.

    Args:
        example: an input with its batch dimension; its values do not matter.
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
        found = _trace(subject, example, order)
        last = {w for each in found if each.group.reason == OUTPUT for w in each.group.writers}
        groups = [_judged(each, protect=protect, stream=stream, last=last) for each in found] + _untraced(subject, order, found)
        groups.sort(key=lambda g: order.get(g.name, len(order)))
        return _proved(subject, example, Groups(tuple(groups)))


def _check_names(module: nn.Module, protect: Sequence[str]) -> None:
    known = [name for name, _ in module.named_modules() if name]
    for name in protect:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise CompressionError(
                f"protect names a layer that the network does not have: {name!r}",
                hint=f"did you mean {near[0]!r}?" if near else f"its layers are: {', '.join(known[:20])}",
            )


def _order(module: nn.Module, example: Tensor) -> dict[str, int]:
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


def _trace(module: nn.Module, example: Tensor, order: dict[str, int]) -> list[_Found]:
    import torch_pruning

    roots: set[Any] = set()
    """Autograd nodes of the network's outputs."""

    def note(output: Any) -> Any:
        roots.update(t.grad_fn for t in torch_pruning.utils.flatten_as_list(output) if isinstance(t, Tensor))
        return output

    try:
        with sealed(module) as opaque:
            graph = torch_pruning.DependencyGraph().build_dependency(
                module, (example,), output_transform=note, customized_pruners=opaque, verbose=False
            )
        offers = list(graph.get_all_groups())
    except Exception as error:
        raise ModelError(
            f"the network's channel dependencies cannot be traced: {type(error).__name__}: {error}",
            hint="replace the operation named here, or leave this network unpruned: [prune] enabled = false",
            context={"place": _place(error)},
        ) from error
    if not any(roots):
        raise ModelError(
            "the network's channel dependencies cannot be traced: its output has no gradient",
            hint="take detach(), no_grad() and argmax() out of the network's forward",
            context={"place": "the network's output"},
        )
    return [_found(graph, offered, order, roots) for offered in offers]


def _untraced(module: nn.Module, order: dict[str, int], found: Sequence[_Found]) -> list[Group]:
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


def _place(error: BaseException) -> str:
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return "" if frame is None else f"{frame.tb_frame.f_code.co_qualname}, line {frame.tb_lineno}"


def _found(graph: Any, offered: Any, order: dict[str, int], roots: set[Any]) -> _Found:
    layers = dict(graph.model.named_modules())
    names = {id(layer): name for name, layer in layers.items()}
    channels = len(offered[0].idxs)
    members: list[Member] = []
    output = adds = False
    uncuttable = ""
    for item in offered:
        node, handler = item.dep.target, item.dep.handler
        is_out, is_in = graph.is_out_channel_pruning_fn(handler), graph.is_in_channel_pruning_fn(handler)
        operation = node.grad_fn.name() if hasattr(node.grad_fn, "name") else ""
        output = output or (is_out and node.grad_fn in roots)
        adds = adds or operation.startswith("Add")
        if isinstance(node.module, nn.Parameter):
            uncuttable = uncuttable or "a parameter outside of any layer is used on these channels"
        name = names.get(id(node.module))
        if name is None:
            continue
        positions: list[list[int]] = [[] for _ in range(channels)]
        for index, root in zip(item.idxs, item.root_idxs, strict=True):
            if root is not None:  # the library loses track behind some reshapes
                positions[root].append(index)
        side = Side.CHANNEL if is_out and is_in else Side.OUT if is_out else Side.IN
        members.append(Member(layer=name, side=side, positions=tuple(tuple(sorted(p)) for p in positions)))
        even = len({len(p) for p in positions}) == 1 and len(positions[0]) > 0
        why = reason_uncuttable(node.module) or ("" if even else "which of its places belong to which channel is not known")
        uncuttable = uncuttable or (why and f"{name}: {why}")
    writers = [m.layer for m in members if m.side is Side.OUT or (m.side is Side.CHANNEL and is_depthwise(layers[m.layer]))]
    writers.sort(key=lambda name: order.get(name, len(order)))
    first = next((name for name in writers if not is_depthwise(layers[name])), writers[0])
    group = Group(
        name=first,
        channels=channels,
        members=tuple(members),
        writers=tuple(writers),
        prunable=not output,
        reason=OUTPUT if output else "",
    )
    return _Found(group, adds=adds and sum(not is_depthwise(layers[w]) for w in writers) > 1, uncuttable=uncuttable)


def _judged(found: _Found, *, protect: Sequence[str], stream: bool, last: set[str]) -> Group:
    """The group with the first reason against cutting it."""
    group = found.group
    named = [m.layer for m in group.members if m.layer in protect and m.side is not Side.IN]
    reason = group.reason
    if not reason and named:
        reason = f"protected by name: {named[0]}"
    elif not reason and found.uncuttable:
        reason = found.uncuttable
    elif not reason and found.adds and not stream:
        reason = STREAM
    feeds_output = any(m.side is Side.IN and m.layer in last for m in group.members)
    return replace(group, prunable=not reason, reason=reason, feeds_output=feeds_output)


def _proved(module: nn.Module, example: Tensor, groups: Groups) -> Groups:
    """The groups, with those protected for which removing channels is not the same as silencing them."""
    _randomise(module)
    if not _difference(module, example, groups, groups.prunable):
        return groups
    judged = []
    for group in groups:
        why = _difference(module, example, groups, (group,)) if group.prunable else ""
        judged.append(replace(group, prunable=False, reason=why) if why else group)
    proved = Groups(tuple(judged))
    together = _difference(module, example, proved, proved.prunable)
    if together:
        raise ModelError(
            f"the network's channel groups do not add up: {together}", hint="leave this network unpruned: [prune] enabled = false"
        )
    return proved


@torch.no_grad()
def _difference(module: nn.Module, example: Tensor, groups: Groups, tried: Sequence[Group]) -> str:
    """Empty when half of the channels of these groups can be removed without changing the function, else what happened."""
    half = {g.name: tuple(range(0, g.channels, 2)) for g in tried if g.channels > 1}
    selection = Selection(groups=groups, removed=half)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(example.shape, generator=generator).to(example) if example.is_floating_point() else example
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


@torch.no_grad()
def _randomise(module: nn.Module) -> None:
    """Weights under which no branch is silent: a network freshly made often has gammas of 0, a trained one dead channels."""
    generator = torch.Generator().manual_seed(0)

    def fill(tensor: object, low: float, high: float) -> None:
        if isinstance(tensor, Tensor):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    for each in module.modules():
        if isinstance(each, (*CONVOLUTIONS, nn.Linear)) and not reason_uncuttable(each):
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
