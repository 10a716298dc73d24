"""Quantises a float ONNX graph by a table: writes QuantizeLinear and DequantizeLinear nodes ourselves.

One table, several forms (`Form`), because every runtime is fast with another. The three for ONNX Runtime hold the same integers up to an
offset of 128, so that the scales arrive unchanged and the function is the same. There: activations affine, weights as integer initialisers
per channel, biases int32 with scale input scale x weight scale. onnxruntime turns DQ(x), DQ(w), DQ(b) -> Conv (-> Relu) -> Q into one
QLinearConv; with a float bias, or without the quantiser behind the activation, it leaves the convolution in float (measured 1.32: 2-4
times slower).
"""

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgec.pipeline.core.errors import LoweringError

INT32 = np.iinfo(np.int32)


class Form(StrEnum):
    """Integer types of activations and weights, by the runtime and CPU that is fast with them (`form_for`)."""

    U8S8 = "u8s8"
    """uint8 activations, int8 weights: x86 with VNNI (measured on 1.32: s8s8 is slower than float32 there)."""
    U8U8 = "u8u8"
    """uint8 both: x86 without VNNI, whose VPMADDUBSW saturates sums of u8 x s8 products at 16 bits."""
    S8S8 = "s8s8"
    """int8 both: Arm."""

    @property
    def reason(self) -> str:
        """Why it is taken, in words."""
        return {"u8s8": "x86 with VNNI, or not known", "u8u8": "x86 without VNNI", "s8s8": "Arm"}[self.value]


def form_for(machine: str, cpu_flags: Collection[str] = ()) -> Form:
    """ONNX Runtime's fast form.

    Args:
        machine: uname -m.
        cpu_flags: as /proc/cpuinfo lists them; unknown (empty) is taken for a CPU with VNNI (Intel since 2019, AMD since Zen 4).

    Reference:
        onnxruntime 1.32, quantization/quantize.py, `quantize_static`, "Choosing parameters for CPU inference". It advises 7-bit weights
        on x86 without VNNI; that would change learned scales, and uint8 weights do not saturate either (its quantisation guide).
    """
    if machine.startswith(("aarch64", "arm")):
        return Form.S8S8
    return Form.U8U8 if cpu_flags and not any("vnni" in flag for flag in cpu_flags) else Form.U8S8


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """uint8 grid of one tensor: x_hat = (q - zero_point) * scale."""

    scale: float
    zero_point: int

    def written(self, form: Form) -> tuple[np.ndarray, np.ndarray]:
        """Scale and zero point as constants of the graph: float32 and the form's integer type, without dimensions."""
        if form is Form.S8S8:
            return np.array(self.scale, np.float32), np.array(self.zero_point - 128, np.int8)
        return np.array(self.scale, np.float32), np.array(self.zero_point, np.uint8)


def insert(model: ModelProto, activations: Mapping[str, Grid], weights: Mapping[str, tuple[float, ...]], form: Form = Form.U8S8) -> None:
    """Quantise the graph in place.

    Args:
        activations: tensor name (input, output or inner) to its grid; tensors on one grid may share it.
        weights: initialiser name of a Conv or Gemm weight to its int8 scales, one per output channel.

    Raises:
        LoweringError: a name is not in the graph, or a layer with a quantised weight has an input without a grid.
    """
    graph = model.graph
    tensors = {name for node in graph.node for name in node.output} | {i.name for i in graph.input}
    initialisers = {i.name: i for i in graph.initializer}
    lost = [n for n in activations if n not in tensors] + [n for n in weights if n not in initialisers]
    if lost:
        raise LoweringError(f"quantised tensors are not in the ONNX graph: {', '.join(lost[:3])}", context={"tensors": lost})

    layers: list[NodeProto] = []
    for node in list(graph.node):
        if len(node.input) > 1 and node.input[1] in weights:
            if node.input[0] not in activations:
                raise LoweringError(f"layer {node.name} reads {node.input[0]}, which has no grid")
            scales = np.asarray(weights[node.input[1]], np.float32)
            layers += _layer(graph, node, initialisers, activations[node.input[0]], scales, form)
    pairs = {name: _pair(graph, name, grid, form) for name, grid in activations.items()}
    _rewire(graph, activations)
    ordered = [*layers, *(p for i in graph.input for p in pairs.get(i.name, ()))]
    for node in graph.node:
        ordered.append(node)
        ordered += [p for name in node.output for p in pairs.get(name.removesuffix(_RAW), ())]
    _replace(graph.node, ordered)
    used = {name for node in ordered for name in node.input}
    _replace(graph.initializer, [i for i in graph.initializer if i.name in used])


_RAW = "/raw"
"""Ending of an output's tensor before its quantiser; the quantised one keeps the output's name."""


def _pair(graph: onnx.GraphProto, name: str, grid: Grid, form: Form) -> tuple[NodeProto, NodeProto]:
    """Q and DQ behind a tensor."""
    is_output = name in {o.name for o in graph.output}
    constants = [f"{name}/scale", f"{name}/zero_point"]
    graph.initializer.extend(numpy_helper.from_array(array, part) for array, part in zip(grid.written(form), constants, strict=True))
    return (
        helper.make_node("QuantizeLinear", [name + _RAW if is_output else name, *constants], [f"{name}/q"], name=f"{name}/quantize"),
        helper.make_node("DequantizeLinear", [f"{name}/q", *constants], [name if is_output else f"{name}/dq"], name=f"{name}/dequantize"),
    )


def _layer(
    graph: onnx.GraphProto, node: NodeProto, initialisers: Mapping[str, TensorProto], source: Grid, scales: np.ndarray, form: Form
) -> list[NodeProto]:
    """Integer initialisers and their DQ nodes for one Conv or Gemm, which then reads those."""
    _require_output_channels_first(node)
    weight = numpy_helper.to_array(initialisers[node.input[1]])
    if len(scales) != len(weight):
        raise LoweringError(f"layer {node.name} has {len(weight)} output channels and {len(scales)} scales")
    rows = scales.reshape(-1, *[1] * (weight.ndim - 1))
    integers = np.clip(np.rint(weight / rows), -127, 127).astype(np.int8)
    if form is Form.U8U8:
        made = [_constant(graph, node, 1, (integers.astype(np.int16) + 128).astype(np.uint8), scales, zero_point=128)]
    else:
        made = [_constant(graph, node, 1, integers, scales)]
    if len(node.input) > 2 and node.input[2]:
        bias_scales = np.float32(source.scale) * scales
        bias = numpy_helper.to_array(initialisers[node.input[2]])
        made.append(_constant(graph, node, 2, np.clip(np.rint(bias / bias_scales), INT32.min, INT32.max).astype(np.int32), bias_scales))
    return made


def _constant(
    graph: onnx.GraphProto, node: NodeProto, position: int, integers: np.ndarray, scales: np.ndarray, zero_point: int = 0
) -> NodeProto:
    """Store integers with their scales per channel, and let the node's input come from their DQ."""
    name = node.input[position]
    zeros = np.full(len(scales), zero_point, integers.dtype)  # absent means 0 too, but then onnxruntime 1.32 leaves a Gemm in float
    parts = {f"{name}/int": integers, f"{name}/scale": scales, f"{name}/zero_point": zeros}
    graph.initializer.extend(numpy_helper.from_array(array, part) for part, array in parts.items())
    node.input[position] = f"{name}/dq"
    return helper.make_node("DequantizeLinear", list(parts), [f"{name}/dq"], name=f"{name}/dequantize", axis=0)


def _require_output_channels_first(node: NodeProto) -> None:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Conv" or (node.op_type == "Gemm" and attributes.get("transB") == 1):
        return
    raise LoweringError(f"layer {node.name} is a {node.op_type}: only Conv and Gemm with transposed weight have an integer form here")


def _rewire(graph: onnx.GraphProto, activations: Mapping[str, Grid]) -> None:
    """Readers of a quantised tensor read its DQ; the producer of a quantised output writes to the raw name.

    Shape reads the integers: as a reader of floats it would keep the tensor's producer in float.
    """
    outputs = {o.name for o in graph.output} & set(activations)
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in activations and (name not in outputs or node.op_type == "Shape"):
                node.input[index] = f"{name}/q" if node.op_type == "Shape" else f"{name}/dq"
        for index, name in enumerate(node.output):
            if name in outputs:
                node.output[index] = name + _RAW


def _replace(field: Any, items: list[Any]) -> None:
    """Set a repeated field to copies of items that may be its own."""
    kept = [copy.deepcopy(item) for item in items]
    del field[:]
    field.extend(kept)
