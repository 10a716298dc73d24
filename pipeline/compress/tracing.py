"""Traces which dimensions of a network belong together, with Torch-Pruning's DependencyGraph (arXiv 2301.12900), as plain records.

What comes out are offers: the library takes operations that it does not know for element-wise ones. `groups.py` proves each.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from edgec.pipeline.compress.channels import Group, Member, Side
from edgec.pipeline.compress.count import CONVOLUTIONS, Example
from edgec.pipeline.compress.opaque import sealed
from edgec.pipeline.compress.surgery import dimension, is_depthwise, is_grouped, is_matrix, reason_uncuttable
from edgec.pipeline.core.errors import ModelError

MIXED = "a reshape moves its channels (channel shuffle, split into heads)"
UNKNOWN = "which of its places belong to which channel is not known"
CHANGES = "the number of channels changes on the way (mean or maximum over channels, GLU, PixelShuffle, padding)"
SINGLE = "it is one channel: nothing to cut"
CIRCLES = "splits and sums lead from each of its channels to others without end"
ROOTS = (nn.modules.conv._ConvNd, nn.Linear, nn.RNNBase)  # noqa: SLF001 torch has no public name for "any convolution"
"""Layers that compute channels."""
FOLLOWED = 20
"""Times that the library may follow each operation's dependencies while it collects one group. Our networks take less than one; where
channels are permuted between sums it would go on for every permutation."""


@dataclass(frozen=True, slots=True)
class Found:
    """A group as the library offers it, with what the judgement needs to know."""

    group: Group
    output: bool = False
    """Its channels are the network's output."""
    adds: bool = False
    """Several layers add to its channels."""
    uncuttable: str = ""
    """The member that cannot be cut, and why."""
    mixed: bool = False
    """A reshape over more than the places of an image is among its operations."""


def trace(module: nn.Module, example: Example, order: Mapping[str, int]) -> list[Found]:
    """The offered groups.

    Args:
        order: layer name to its place in the order of execution.

    Raises:
        ModelError: the network cannot be traced.
    """
    from torch_pruning import utils

    roots: set[Any] = set()
    """Autograd nodes of the network's outputs."""

    def note(output: Any) -> Any:
        roots.update(t.grad_fn for t in utils.flatten_as_list(output) if isinstance(t, Tensor))
        return output

    inputs = example if isinstance(example, tuple) else (example,)
    try:
        with sealed(module) as opaque:
            graph = _graph().build_dependency(module, inputs, output_transform=note, customized_pruners=opaque, verbose=False)
        offers = list(_offers(graph))
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
    return [each if isinstance(each, Found) else _found(graph, each, order, roots) for each in offers]


class _Endless(Exception):
    """A group grew and grew."""


class _Counted(list[Any]):
    """The dependencies of one operation; says when they are followed."""

    def __init__(self, items: Iterable[Any], follow: Callable[[], None]) -> None:
        super().__init__(items)
        self._follow = follow

    def __iter__(self) -> Iterator[Any]:
        self._follow()
        return super().__iter__()


def _offers(graph: Any) -> Iterator[Any]:
    """The library's groups, one for each set of layers that compute the same channels; what is known of a layer whose group has no end."""
    names = {layer: name for name, layer in graph.model.named_modules()}
    visited: set[nn.Module] = set()
    for layer in [each for each in graph.module2node if isinstance(each, ROOTS)]:
        if layer in visited:
            continue
        pruner = graph.get_pruner_of_module(layer)
        channels = pruner.get_out_channels(layer)
        graph.followed = 0
        try:
            group = graph.get_pruning_group(layer, pruner.prune_out_channels, list(range(channels)))
        except _Endless:
            name = names[layer]
            yield Found(Group(name=name, channels=channels, members=(), writers=(name,)), uncuttable=CIRCLES)
            continue
        computed = {item.dep.target.module for item in group if graph.is_out_channel_pruning_fn(item.dep.handler)}
        visited |= {each for each in computed if not isinstance(each, ROOTS) or (dimension(each, Side.OUT) == 1) == (channels == 1)}
        yield group


@dataclass(frozen=True, slots=True)
class _Split:
    """Stands for the autograd node of a split, with its pieces' sizes under the name that the library asks for."""

    operation: Any
    _saved_split_sizes: tuple[int, ...]
    _saved_dim: int

    @property
    def next_functions(self) -> Any:
        return self.operation.next_functions

    def name(self) -> str:
        return str(self.operation.name())


def _graph() -> Any:
    """A DependencyGraph that takes shapes from autograd where the library guesses them from the layers around.

    In a network of channel splits and shuffles its guesses divide by zero or run out of a list. A split gets the sizes of its pieces. A
    reshape with more dimensions than an image has, and a split of which a piece is not used once, become element-wise operations: that
    gives a wrong group, which fails its proof.
    """
    from torch_pruning import DependencyGraph, ops

    class Graph(DependencyGraph):  # type: ignore[misc] # the library has no types
        def _trace(self, *args: Any, **options: Any) -> Any:
            nodes = super()._trace(*args, **options)
            self.mixing = {node for node in nodes.values() if node.type == ops.OPTYPE.RESHAPE and _mixes(node.grad_fn)}
            for node in nodes.values():
                if node in self.mixing or (node.type == ops.OPTYPE.SPLIT and not _sized(node)):
                    node.type = ops.OPTYPE.ELEMENTWISE
            return nodes

        def _build_dependency(self, nodes: Any) -> None:
            super()._build_dependency(nodes)
            self.followed = 0
            limit = FOLLOWED * len(nodes)

            def follow() -> None:
                self.followed += 1
                if self.followed > limit:
                    raise _Endless

            for node in nodes.values():
                node.dependencies = _Counted(node.dependencies, follow)

    return Graph()


def _sized(split: Any) -> bool:
    """Give the node of a split its pieces' sizes, and its consumers in the order of the pieces; false where these are not one to one."""
    operation = split.grad_fn
    shapes = [tuple(each.shape) for each in operation._input_metadata]  # noqa: SLF001 the one place where autograd keeps an output's shape
    read = [[piece for source, piece in each.grad_fn.next_functions if source == operation] for each in split.outputs]
    if sorted(piece for some in read for piece in some) != list(range(len(shapes))) or any(len(some) != 1 for some in read):
        return False
    split.outputs.sort(key=lambda each: next(piece for source, piece in each.grad_fn.next_functions if source == operation))
    dim = operation._saved_dim  # noqa: SLF001
    dim = dim if dim < len(shapes[0]) else dim - 2**64 + len(shapes[0])  # autograd keeps -1 as an unsigned number
    split.grad_fn = _Split(operation, tuple(shape[dim] for shape in shapes), dim)
    return True


def _mixes(operation: Any) -> bool:
    """A view with more than (n, c, h, w) before or behind it."""
    before = getattr(operation, "_saved_self_sym_sizes", ())
    behind = [len(each.shape) for each in operation._input_metadata]  # noqa: SLF001 the one place where autograd keeps an output's shape
    return max(len(before), *behind) > 4


def _place(error: BaseException) -> str:
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return "" if frame is None else f"{frame.tb_frame.f_code.co_qualname}, line {frame.tb_lineno}"


def _found(graph: Any, offered: Any, order: Mapping[str, int], roots: set[Any]) -> Found:
    layers = dict(graph.model.named_modules())
    names = {id(layer): name for name, layer in layers.items()}
    channels = len(offered[0].idxs)
    members: list[Member] = []
    output = adds = mixed = False
    uncuttable = ""
    for item in offered:
        node, handler = item.dep.target, item.dep.handler
        is_out, is_in = graph.is_out_channel_pruning_fn(handler), graph.is_in_channel_pruning_fn(handler)
        operation = node.grad_fn.name() if hasattr(node.grad_fn, "name") else ""
        computed_by = node.grad_fn.operation if isinstance(node.grad_fn, _Split) else node.grad_fn
        output = output or (is_out and computed_by in roots)
        adds = adds or operation.startswith("AddBackward")
        mixed = mixed or node in graph.mixing
        if isinstance(node.module, nn.Parameter):
            uncuttable = uncuttable or "a parameter outside of any layer is used on these channels"
        name = names.get(id(node.module))
        if name is None or (isinstance(node.module, nn.PReLU) and node.module.num_parameters == 1):
            continue
        side = Side.CHANNEL if is_out and is_in else Side.OUT if is_out else Side.IN if is_matrix(node.module) else Side.FED
        places = dimension(node.module, side)
        if places and (places == 1) != (channels == 1):
            continue  # spread over all channels, or one value of all channels: no width that shrinks with them
        positions: list[list[int]] = [[] for _ in range(channels)]
        for index, root in zip(item.idxs, item.root_idxs, strict=True):
            if root is not None:  # the library loses track behind some reshapes
                positions[root].append(index)
        members.append(Member(layer=name, side=side, positions=tuple(tuple(sorted(p)) for p in positions)))
        why = reason_uncuttable(node.module) or (CHANGES if places and max(item.idxs) >= places else "")
        uncuttable = uncuttable or (why and f"{name}: {why}")
    members = _bundled(members, layers)
    uneven = next((m.layer for m in members if len({len(p) for p in m.positions}) != 1 or not m.positions[0]), "")
    uncuttable = uncuttable or (uneven and f"{uneven}: {UNKNOWN}") or _lonely(members, layers)
    writers = [m.layer for m in members if m.side is Side.OUT or (m.side is Side.CHANNEL and is_depthwise(layers[m.layer]))]
    writers.sort(key=lambda name: order.get(name, len(order)))
    first = next((name for name in writers if not is_depthwise(layers[name])), writers[0])
    group = Group(
        name=first,
        channels=len(members[0].positions),
        members=tuple(members),
        writers=tuple(writers),
    )
    several = sum(not is_depthwise(layers[w]) for w in writers) > 1
    return Found(group, output=output, adds=adds and several, uncuttable=uncuttable, mixed=mixed)


def _bundled(members: list[Member], layers: Mapping[str, nn.Module]) -> list[Member]:
    """Members whose channels are those of before, taken together where some layer can only lose them together.

    A grouped convolution loses one channel of each of its groups, a bidirectional recurrent layer a unit of both directions. Where several
    layers bind channels, what one of them takes together the others do too.
    """
    bundle = list(range(len(members[0].positions)))
    """Of each channel: the lowest channel that it goes with."""
    for member in members:
        size = _period(layers[member.layer], member.side)
        if not size:
            continue
        first: dict[int, int] = {}
        for channel, positions in enumerate(member.positions):
            for position in positions:
                one, other = bundle[first.setdefault(position % size, channel)], bundle[channel]
                if one != other:
                    low, high = sorted((one, other))
                    bundle = [low if each == high else each for each in bundle]
    together: dict[int, list[int]] = {}
    for channel, lowest in enumerate(bundle):
        together.setdefault(lowest, []).append(channel)
    return [
        replace(m, positions=tuple(tuple(sorted(p for c in some for p in m.positions[c])) for some in together.values())) for m in members
    ]


def _period(layer: nn.Module, side: Side) -> int:
    """The distance of the positions on this side that the layer can only lose together; 0 when it loses each alone."""
    if isinstance(layer, nn.RNNBase) and side is Side.OUT:
        return layer.proj_size or layer.hidden_size
    if isinstance(layer, CONVOLUTIONS) and is_grouped(layer) and side in (Side.OUT, Side.FED):
        return (layer.out_channels if side is Side.OUT else layer.in_channels) // layer.groups
    return 0


def _lonely(members: Sequence[Member], layers: Mapping[str, nn.Module]) -> str:
    """Why a group of one channel has nothing to lose."""
    if len(members[0].positions) > 1:
        return ""
    grouped = next((m.layer for m in members if is_grouped(layers[m.layer])), None)
    if grouped is None:
        return SINGLE
    return f"{grouped}: grouped convolution ({layers[grouped].groups} groups) with one of these channels in each group"
