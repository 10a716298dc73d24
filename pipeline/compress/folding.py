"""A network as a torch.fx graph in the plain form that quantisation and export start from.

Evaluation mode, nothing in place, identities gone, BatchNorm merged into the convolution or linear layer before it, the mean over image
positions written as global average pooling, `x.view(x.size(0), -1)` as flatten. Parameter names and shapes of layers stay.
"""

import copy
import operator
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from edgec.pipeline.core.errors import ModelError

_IDENTITIES = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
_IDENTITY_FUNCTIONS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout)
_IDENTITY_METHODS = ("contiguous", "detach", "clone")
_OUT_OF_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.imul: operator.mul,
    operator.isub: operator.sub,
    F.relu_: F.relu,
    torch.relu_: torch.relu,
    F.hardtanh_: F.hardtanh,
    F.leaky_relu_: F.leaky_relu,
}
_OUT_OF_PLACE_METHODS = {"add_": "add", "mul_": "mul", "sub_": "sub", "relu_": "relu", "clamp_": "clamp", "sigmoid_": "sigmoid"}
_FOLDS: tuple[tuple[type[nn.Module], type[nn.Module], Callable[..., nn.Module]], ...] = (
    (nn.Conv1d, nn.BatchNorm1d, fuse_conv_bn_eval),
    (nn.Conv2d, nn.BatchNorm2d, fuse_conv_bn_eval),
    (nn.Linear, nn.BatchNorm1d, fuse_linear_bn_eval),
)


def fold(module: nn.Module) -> fx.GraphModule:
    """A folded copy on the CPU; `module` itself is not touched.

    Raises:
        ModelError: the network cannot be traced; names the submodule and the source line.
    """
    traced = trace(copy.deepcopy(module).cpu().eval())
    _leave_nothing_in_place(traced)
    _drop_identities(traced)
    _fold_batchnorm(traced)
    for node in list(traced.graph.nodes):
        _write_global_pooling(traced.graph, node)
        _write_flatten(traced.graph, node)
    traced.graph.eliminate_dead_code()
    traced.graph.lint()
    traced.recompile()
    traced.delete_all_unused_submodules()
    return traced


def untied(folded: fx.GraphModule) -> fx.GraphModule:
    """The same, in place, with copies where layers share a parameter: quantised, each layer's weight has scales of its own."""
    seen: set[int] = set()
    for layer in folded.modules():
        for name, parameter in list(layer.named_parameters(recurse=False)):
            if id(parameter) in seen:
                setattr(layer, name, nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad))
            seen.add(id(parameter))
    return folded


def trace(module: nn.Module) -> fx.GraphModule:
    """The network's graph.

    Raises:
        ModelError: it branches on the values or shapes of its input, or does something else that tracing cannot follow.
    """
    tracer = _PlaceTracer()
    try:
        graph = tracer.trace(module)
    except Exception as error:  # whatever the user's forward raises on symbolic values
        line = _user_line(error)
        raise ModelError(
            f"the network cannot be traced: {tracer.place or 'its own forward'} ({line}): {str(error).strip().splitlines()[0]}",
            hint="write that part without branches on tensor values or shapes, or move it out of the network",
            context={"module": tracer.place, "line": line},
        ) from error
    return fx.GraphModule(module, graph)


def target_module(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module that a node calls, None for other nodes."""
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None


class _PlaceTracer(fx.Tracer):
    """Remembers the innermost submodule in which tracing failed."""

    place: str = ""

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.place = self.place or self.path_of_module(m)
            raise


def _user_line(error: Exception) -> str:
    """file:line of the last frame outside torch."""
    torch_folder = str(Path(torch.__file__).parent)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(torch_folder) and f.filename != __file__]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "inside torch"


def _leave_nothing_in_place(traced: fx.GraphModule) -> None:
    """In-place forms would let one traced value change another."""
    for module in traced.modules():
        if hasattr(module, "inplace"):
            setattr(module, "inplace", False)  # noqa: B010  # an attribute of some classes only
    for node in traced.graph.nodes:
        if node.op == "call_function":
            node.target = _OUT_OF_PLACE.get(node.target, node.target)
            if "inplace" in node.kwargs:
                node.kwargs = {k: v for k, v in node.kwargs.items() if k != "inplace"}
            if node.target in (F.relu, F.relu6):
                node.args = node.args[:1]
        elif node.op == "call_method":
            node.target = _OUT_OF_PLACE_METHODS.get(node.target, node.target)


def _drop_identities(traced: fx.GraphModule) -> None:
    for node in list(traced.graph.nodes):
        is_identity = (
            isinstance(target_module(traced, node), _IDENTITIES)
            or (node.op == "call_function" and node.target in _IDENTITY_FUNCTIONS)
            or (node.op == "call_method" and node.target in _IDENTITY_METHODS)
        )
        if is_identity:
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)


def _fold_batchnorm(traced: fx.GraphModule) -> None:
    calls = Counter(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
    for node in list(traced.graph.nodes):
        before = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        if before is None or len(before.users) != 1:
            continue
        layer, norm = target_module(traced, before), target_module(traced, node)
        if layer is None or norm is None or calls[str(before.target)] != 1 or not getattr(norm, "track_running_stats", False):
            continue
        for layer_type, norm_type, merge in _FOLDS:
            if type(layer) is layer_type and type(norm) is norm_type:
                owner, _, name = str(before.target).rpartition(".")
                setattr(traced.get_submodule(owner), name, merge(layer, norm))
                node.replace_all_uses_with(before)
                traced.graph.erase_node(node)


def _write_global_pooling(graph: fx.Graph, node: fx.Node) -> None:
    """mean over (2, 3) becomes global average pooling, which runtimes have as an integer kernel."""
    if not ((node.op == "call_method" and node.target == "mean") or (node.op == "call_function" and node.target is torch.mean)):
        return
    dims = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    keep = node.kwargs.get("keepdim", node.args[2] if len(node.args) > 2 else False)
    if not isinstance(dims, tuple | list) or sorted(dims) not in ([2, 3], [-2, -1]):
        return
    with graph.inserting_before(node):
        pooled = graph.call_function(F.adaptive_avg_pool2d, (node.args[0], 1))
        result = pooled if keep else graph.call_function(torch.flatten, (pooled, 1))
    node.replace_all_uses_with(result)
    graph.erase_node(node)


def _write_flatten(graph: fx.Graph, node: fx.Node) -> None:
    """x.view(x.size(0), -1) becomes flatten, which needs no shape arithmetic in the exported file."""
    if node.op != "call_method" or node.target not in ("view", "reshape") or len(node.args) != 3 or node.args[2] != -1:
        return
    x, batch = node.args[0], node.args[1]
    if not isinstance(x, fx.Node) or not isinstance(batch, fx.Node):
        return
    by_size = batch.op == "call_method" and batch.target == "size" and batch.args == (x, 0)
    shape = batch.args[0] if batch.target is operator.getitem and batch.args[1] == 0 else None
    by_shape = isinstance(shape, fx.Node) and (
        (shape.target is getattr and shape.args == (x, "shape")) or (shape.target == "size" and shape.args == (x,))
    )
    if not (by_size or by_shape):
        return
    with graph.inserting_before(node):
        node.replace_all_uses_with(graph.call_function(torch.flatten, (x, 1)))
    graph.erase_node(node)
