"""Where a folded network gets quantisers: a function of its graph alone.

After the network's input and after every operation with a float output, except where the only reader is a ReLU or a clip from 0, which an
integer kernel absorbs (conv + ReLU, add + ReLU). Operations that only move or select values keep the grid of their input.

Reference:
    onnxruntime's QDQ fusions (onnxruntime/core/optimizer/qdq_transformer, 1.32): an operator becomes an integer kernel when every input
    comes from a DequantizeLinear and every output goes to a QuantizeLinear.
"""

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp, TensorMetadata

from edgec.pipeline.compress.folding import target_module
from edgec.pipeline.core.errors import CompressionError, ModelError

_MOVES_MODULES = (nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.Flatten, nn.Unflatten)
_MOVES_FUNCTIONS = (F.max_pool1d, F.max_pool2d, F.adaptive_max_pool2d, torch.flatten, torch.reshape, torch.permute, torch.transpose)
_MOVES_METHODS = ("view", "reshape", "flatten", "permute", "transpose", "squeeze", "unsqueeze")


def sites(folded: fx.GraphModule, inputs: tuple[Tensor, ...]) -> dict[str, tuple[str, ...]]:
    """Site name (its producer's node) to the nodes on its grid, in graph order.

    Raises:
        ModelError: the network does not run on these inputs.
    """
    try:
        ShapeProp(folded).propagate(*inputs)
    except (RuntimeError, TypeError, IndexError, ValueError) as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        raise ModelError(f"the network does not run on inputs of shape {shapes}", hint=str(error).strip().splitlines()[0]) from error
    found: dict[str, list[str]] = {}
    site_of: dict[fx.Node, str] = {}
    for node in folded.graph.nodes:
        if _splits(node) and node.args[0] in site_of:
            site_of[node] = site_of[node.args[0]]  # for its parts; the tuple itself has no value
            continue
        if node.op in ("get_attr", "output") or not _is_float(node.meta.get("tensor_meta")) or is_absorbed(folded, node):
            continue
        source = node.args[0] if node.args else None
        if isinstance(source, fx.Node) and source in site_of and _moves(folded, node):
            site_of[node] = site_of[source]
            found[site_of[source]].append(node.name)
        else:
            site_of[node] = node.name
            found[node.name] = [node.name]
    return {name: tuple(nodes) for name, nodes in found.items()}


def quantised_layers(folded: fx.GraphModule, site_of: dict[str, str]) -> dict[str, str]:
    """Layer name to the site that feeds it, for every layer with an integer kernel: convolutions with zero padding, linear layers on rows.

    Raises:
        CompressionError: a layer is called twice, so that its bias would need two grids.
    """
    layers: dict[str, str] = {}
    for node in folded.graph.nodes:
        layer = target_module(folded, node)
        is_conv = isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.padding_mode == "zeros"
        is_linear = isinstance(layer, nn.Linear) and len(node.meta["tensor_meta"].shape) == 2
        if not (is_conv or is_linear) or node.args[0].name not in site_of:
            continue
        if node.target in layers:
            raise CompressionError(
                f"layer {node.target} is used twice; a quantised layer has one input", hint="give each use its own layer"
            )
        layers[str(node.target)] = site_of[node.args[0].name]
    return layers


def ceiling(folded: fx.GraphModule, node: fx.Node) -> float | None:
    """Upper end of a ReLU (infinite), ReLU6 or clip from 0; None for every other node."""
    module = target_module(folded, node)
    if isinstance(module, nn.ReLU):
        return float("inf")
    if isinstance(module, nn.Hardtanh):  # and ReLU6, its subclass
        return float(module.max_val) if module.min_val == 0 else None
    if node.op == "call_function" and node.target in (F.relu, torch.relu):
        return float("inf")
    if node.op == "call_function" and node.target is F.relu6:
        return 6.0
    if node.op == "call_method" and node.target == "relu":
        return float("inf")
    if (node.op == "call_method" and node.target == "clamp") or (node.op == "call_function" and node.target in (torch.clamp, F.hardtanh)):
        names = ("min_val", "max_val") if node.target is F.hardtanh else ("min", "max")
        low, high = (node.kwargs.get(name, node.args[i] if len(node.args) > i else None) for i, name in enumerate(names, 1))
        if low == 0:
            return float("inf") if high is None else float(high) if isinstance(high, int | float) else None
    return None


def _is_float(meta: Any) -> bool:
    return isinstance(meta, TensorMetadata) and meta.dtype.is_floating_point


def is_absorbed(folded: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the only reader is a ReLU or a clip from 0, which a kernel takes in."""
    return node.op != "placeholder" and len(node.users) == 1 and ceiling(folded, next(iter(node.users))) is not None


def _splits(node: fx.Node) -> bool:
    """Gives a tuple of parts of its first argument."""
    by_function = node.op == "call_function" and node.target in (torch.chunk, torch.split, torch.unbind)
    return by_function or (node.op == "call_method" and node.target in ("chunk", "split", "unbind"))


def _moves(folded: fx.GraphModule, node: fx.Node) -> bool:
    return (
        isinstance(target_module(folded, node), _MOVES_MODULES)
        or (node.op == "call_function" and (node.target in _MOVES_FUNCTIONS or node.target is operator.getitem))
        or (node.op == "call_method" and node.target in _MOVES_METHODS)
    )
