"""An ONNX file in the form that TensorRT reads, from any other ONNX file, quantised or not.

TensorRT quantises symmetrically (8.2 parser, builtin_op_importers.cpp, QuantDequantLinearHelper: zero points all 0, scales positive, three
inputs; developer guide, "Explicit Quantization"). So of a file with Q/DQ nodes

    activations   uint8 with zero point 128 is int8 with 0, exactly: so quantise.py makes the grids for this backend. Any other zero
                  point z becomes 0 with the scale max(z - q_min, q_max - z) * s / 127: the range stays, a one-sided one (behind ReLU)
                  keeps 127 of its 255 steps, and where it ends at 0, a Relu does what its lower end did: onnxruntime's quantiser leaves
                  a network's own Relu away there
    weights       integers with a DQ become floats (q * s, exactly) with a Q and a DQ: 8.2 wants Q/DQ pairs around float weights
    biases        int32 with a DQ become floats, which TensorRT adds in its accumulator

and what has no form for TensorRT (QLinearConv, DynamicQuantizeLinear, …) is refused by name.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.pipeline.core.errors import LoweringError
from edgec.pipeline.core.files import replacing

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

NO_FORM = {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"}
"""Quantised operators that TensorRT has in no version (docs/operators.md of github.com/onnx/onnx-tensorrt, 8.2 to 10.1)."""
GRIDS = {"uint8": (0, 255), "int8": (-128, 127)}
Q, DQ = "QuantizeLinear", "DequantizeLinear"
POSITIVE = {"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp", "Sqrt"}
"""Operators whose outputs are never negative."""
KEEPING = {
    *("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice", "Gather", "Expand"),
    *("MaxPool", "AveragePool", "GlobalAveragePool"),
}
"""Operators whose outputs are negative only where their first input is."""


def write_form(source: Path, out: Path) -> None:
    """Write `source` as TensorRT reads it; a file without quantised operators as it is.

    Raises:
        LoweringError: an operator without a form, with its layer; a scale that is no constant or not positive.
    """
    import onnx

    model = onnx.load(source)
    Symmetric(model).rewrite()
    with replacing(out) as part:
        part.write_bytes(model.SerializeToString(deterministic=True))


def write_half(source: Path, out: Path) -> None:
    """Write `source` with float16 weights and tensors, inputs and outputs staying float32: fp16 for a TensorRT without precision flags.

    Raises:
        As `onnx_graph.half`.
    """
    import onnx

    from edgec.pipeline.onnx_graph import half

    with replacing(out) as part:
        part.write_bytes(half(onnx.load(source)).SerializeToString(deterministic=True))


class Symmetric:
    """Makes the Q/DQ nodes of a model symmetric, in place."""

    def __init__(self, model: "ModelProto") -> None:
        from onnx import numpy_helper

        self._graph: GraphProto = model.graph
        self._constants = {i.name: i for i in model.graph.initializer}
        self._to_array = numpy_helper.to_array
        self._to_tensor = numpy_helper.from_array
        self._pairs: dict[tuple[str, str], tuple[str, str]] = {}
        self._positive: set[str] = set()
        """Tensors that the rewritten graph makes without a value below 0."""

    def rewrite(self) -> None:
        """All nodes; constants that nothing reads any more go."""
        nodes: list[NodeProto] = []
        for node in self._graph.node:
            if node.op_type in NO_FORM:
                raise LoweringError(
                    f"TensorRT has no operator {node.op_type} (layer {node.name or node.output[0]})",
                    hint="quantise with QuantizeLinear and DequantizeLinear (QDQ format)",
                    context={"operator": node.op_type, "layer": node.name},
                )
            if node.op_type == DQ and node.input[0] in self._constants:
                nodes += self._constant(node)
            else:
                nodes += self._activation(node) if node.op_type in (Q, DQ) else [node]
                self._note_sign(node)
        used = {name for node in nodes for name in node.input}
        _replace(self._graph.node, nodes)
        _replace(self._graph.initializer, (tensor for name, tensor in self._constants.items() if name in used))

    def _constant(self, node: "NodeProto") -> list["NodeProto"]:
        """Floats in the place of integers; with a Q before the DQ where they are weights."""
        from onnx import helper

        integers = self._array(node, node.input[0])
        scales, zeros = self._grid(node)
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        shape = [-1 if i == axis % integers.ndim else 1 for i in range(integers.ndim)] if scales.size > 1 else [1] * integers.ndim
        steps = integers.astype(np.int64) - zeros.reshape(shape).astype(np.int64)
        floats = (steps * scales.astype(np.float64).reshape(shape)).astype(np.float32)
        if integers.dtype == np.int32:
            self._add(node.output[0], floats)
            return []
        scales = _widened(scales, zeros)
        name = node.output[0]
        self._add(f"{name}/float", floats)
        self._add(f"{name}/scale", scales)
        self._add(f"{name}/zero", np.zeros(scales.shape, np.int8))
        constants = [f"{name}/scale", f"{name}/zero"]
        made = [
            helper.make_node(Q, [f"{name}/float", *constants], [f"{name}/q"], name=f"{name}/quantize"),
            helper.make_node(DQ, [f"{name}/q", *constants], [name], name=node.name or f"{name}/dequantize"),
        ]
        for each in made if scales.size > 1 else ():
            each.attribute.append(helper.make_attribute("axis", axis))
        return made

    def _note_sign(self, node: "NodeProto") -> None:
        if node.op_type in POSITIVE or (node.op_type in (*KEEPING, Q, DQ) and node.input[0] in self._positive):
            self._positive.update(node.output)

    def _activation(self, node: "NodeProto") -> list["NodeProto"]:
        """The same node on the symmetric grid of the same range, behind a Relu where the old grid alone kept negative values away."""
        from onnx import helper

        scales, zeros = self._grid(node)
        made = [node]
        if node.op_type == Q and np.all(zeros == GRIDS.get(str(zeros.dtype), (0, 0))[0]) and node.input[0] not in self._positive:
            name = f"{node.input[0]}/relu"
            made.insert(0, helper.make_node("Relu", [node.input[0]], [name], name=name))
            self._positive.add(name)
            node.input[0] = name
        key = (node.input[1], node.input[2] if len(node.input) > 2 else "")
        if key not in self._pairs:
            wide, name = _widened(scales, zeros), f"{node.input[1]}/symmetric"
            self._add(name, wide)
            self._add(f"{name}/zero", np.zeros(wide.shape, np.int8))
            self._pairs[key] = (name, f"{name}/zero")
        del node.input[1:]
        node.input.extend(self._pairs[key])
        return made

    def _grid(self, node: "NodeProto") -> tuple[Any, Any]:
        """(scales, zero points) of a node; an absent zero point is 0, of uint8 as the standard says."""
        scales = self._array(node, node.input[1])
        if not np.all(scales > 0):
            raise LoweringError(
                f"layer {node.name or node.output[0]} has a scale of 0, which TensorRT refuses",
                hint="quantise again: a channel is all zero",
            )
        zeros = self._array(node, node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(scales.shape, np.uint8)
        if str(zeros.dtype) not in (*GRIDS, "int32"):
            raise LoweringError(
                f"layer {node.name or node.output[0]} quantises to {zeros.dtype}, TensorRT to int8", hint="quantise to 8 bit"
            )
        return scales, zeros

    def _array(self, node: "NodeProto", name: str) -> Any:
        if name not in self._constants:
            raise LoweringError(
                f"layer {node.name or node.output[0]} computes its scale while it runs; TensorRT 8.2 wants a constant",
                hint="quantise statically, or fold constants",
            )
        return self._to_array(self._constants[name])

    def _add(self, name: str, array: Any) -> None:
        self._constants[name] = self._to_tensor(array, name)


def _widened(scales: Any, zeros: Any) -> Any:
    """Scales of the symmetric int8 grids over the same ranges. An int8 grid with zero point 0 is one, and so is a uint8 grid with 128."""
    if np.all(zeros == {"int8": 0, "uint8": 128}[str(zeros.dtype)]):
        return scales
    low, high = GRIDS[str(zeros.dtype)]
    reach = np.maximum(zeros.astype(np.float32) - low, high - zeros.astype(np.float32))
    return (reach * scales / np.float32(127)).astype(np.float32)


def _replace(field: Any, items: Iterable[Any]) -> None:
    """Set a repeated field to copies of items that may be its own."""
    kept = [type(item).FromString(item.SerializeToString()) for item in items]
    del field[:]
    field.extend(kept)
