"""Quantises a float TFLite graph by the network's own scale table: the sibling of qdq.py.

TFLite's integer form (ai.google.dev/edge/litert/models/quantization_spec): activations int8 affine per tensor, weights int8 symmetric per
output channel in [-127, 127], biases int32 with scale input scale x weight scale. Our table's uint8 grid moves down by 128; scales stay as
they are, so learned ranges arrive bit for bit. Inputs and outputs of the file stay float, with a Quantize and a Dequantize.

Which tensor is which node of the network is found by value: both run on the same random input, and a tensor belongs to the node whose
values it has, in any order (layouts differ). Operators that only move or select values keep the grid of their input, as in the table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import fx

from edgec.pipeline.compress.scale_table import ScaleTable, SiteScale
from edgec.pipeline.core.errors import LoweringError
from edgec.pipeline.tflite_file import interpreter_of, operator_name, schema_module

LAYERS = {"CONV_2D": (3, 0), "DEPTHWISE_CONV_2D": (3, 3), "FULLY_CONNECTED": (4, 0)}
"""Layer: operator version with int8, and the dimension of its weight that is the output channel."""

MOVES = {"RESHAPE": 1, "TRANSPOSE": 2, "PAD": 2, "MAX_POOL_2D": 2, "SQUEEZE": 1, "EXPAND_DIMS": 1, "STRIDED_SLICE": 2, "SLICE": 2}
"""Moves or selects values: the output is on the input's grid. With the version that takes int8."""

COMPUTES = {"ADD": 2, "SUB": 2, "MUL": 2, "MEAN": 2, "RELU": 2, "RELU6": 2}
"""Integer kernels that take inputs and outputs on grids of their own."""

JOINS = {"CONCATENATION": 2}
"""Integer kernels whose inputs have to be on the output's grid: a Quantize brings them there."""

CLOSE = 1e-4
"""Two float32 kernels' outputs for one node differ by less, relative to the largest value (parity.FP32)."""

INT32 = np.iinfo(np.int32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """The float network's inputs by name, and each graph node's value on them."""

    inputs: Mapping[str, np.ndarray]
    nodes: Mapping[str, np.ndarray]


def insert(model: Any, table: ScaleTable, folded: fx.GraphModule, values: Values, file: Path) -> None:
    """Quantise the object tree in place.

    Args:
        model: float; `file` holds it as it is.

    Raises:
        LoweringError: fewer than 8 bits; an operator without an integer form here; a tensor that is no node of the network.
    """
    low = [n for n, s in table.sites.items() if s.bits != 8] + [n for n, w in table.weights.items() if w.bits != 8]
    if low:
        raise LoweringError(f"{low[0]} has fewer than 8 bits: that is simulation only", hint="quantise to 8 bit", context={"at": low})
    graph = model.subgraphs[0]
    grids = _grids(model, table, values, file)
    layers = dict(folded.named_modules())
    names = set(table.weights)
    for operator in graph.operators:
        kind = operator_name(model, operator)
        version = LAYERS[kind][0] if kind in LAYERS else (MOVES | COMPUTES | JOINS)[kind]
        operator.opcodeIndex = _code(model, kind, version)
        if kind in LAYERS:
            weight = constant(model, graph.tensors[operator.inputs[1]])
            name = next((n for n in table.weights if n in names and _is_weight(layers[n].weight, weight)), None)
            if name is None or weight is None:
                raise LoweringError(f"a {kind} of the TFLite graph is no quantised layer of the network", hint="use fp32, or onnxruntime")
            names.remove(name)
            _layer(model, operator, np.asarray(table.weights[name].scales, np.float32), LAYERS[kind][1], grids[operator.inputs[0]])
    if names:
        raise LoweringError(f"quantised layers are not in the TFLite graph: {', '.join(sorted(names)[:3])}")
    kinds = schema_module().TensorType
    for index, site in grids.items():
        tensor = graph.tensors[index]
        tensor.type = kinds.INT8
        tensor.quantization = _quantisation(np.array([site.scale]), 0, site.zero_point - 128)
    _bring_together(model, grids)
    _float_ends(model)


def halve(model: Any) -> None:
    """Float constants with at least one dimension become float16, each behind a Dequantize, which XNNPACK computes once, at load.

    Raises:
        LoweringError: a constant is beyond float16.
    """
    schema, graph = schema_module(), model.subgraphs[0]
    made = []
    for index, tensor in enumerate(list(graph.tensors)):
        array = constant(model, tensor)
        if array is None or array.dtype != np.float32 or not array.ndim:
            continue
        if float(np.abs(array).max(initial=0.0)) > float(np.finfo(np.float16).max):
            raise LoweringError(f"constant {_text(tensor.name)} is beyond float16 (65504)", hint="use fp32 or int8")
        half = _add_tensor(model, _text(tensor.name) + "/fp16", list(tensor.shape))
        graph.tensors[half].type = schema.TensorType.FLOAT16
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(array.astype(np.float16).tobytes(), np.uint8)
        model.buffers.append(buffer)
        graph.tensors[half].buffer = len(model.buffers) - 1
        tensor.buffer = 0
        operator = schema.OperatorT()
        operator.opcodeIndex = _code(model, "DEQUANTIZE", 3)
        operator.inputs, operator.outputs = [half], [index]
        made.append(operator)
    graph.operators = [*made, *graph.operators]
    _drop_unused_buffers(model)


def _drop_unused_buffers(model: Any) -> None:
    """Buffer 0 stays: it is the empty one."""
    used = sorted({0, *(tensor.buffer for graph in model.subgraphs for tensor in graph.tensors)})
    place = {old: new for new, old in enumerate(used)}
    model.buffers = [model.buffers[old] for old in used]
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.buffer = place[tensor.buffer]


def constant(model: Any, tensor: Any) -> np.ndarray | None:
    """A constant tensor's array; None for one that is computed, or is of a type other than float32 and int32."""
    data = model.buffers[tensor.buffer].data
    kinds = schema_module().TensorType
    dtype = {kinds.FLOAT32: np.float32, kinds.INT32: np.int32}.get(tensor.type)
    if data is None or not len(data) or dtype is None:
        return None
    return np.frombuffer(bytes(data), dtype).reshape([int(d) for d in tensor.shape])


def _grids(model: Any, table: ScaleTable, values: Values, file: Path) -> dict[int, SiteScale]:
    """Grid of every computed float tensor, by index."""
    graph = model.subgraphs[0]
    net = interpreter_of(file, all_tensors=True)
    for detail in net.get_input_details():
        net.set_tensor(detail["index"], values.inputs[detail["name"]])
    net.invoke()
    producers = [(site, np.sort(values.nodes[node], axis=None)) for site in table.sites.values() for node in site.nodes[:1]]
    unused = list(range(len(producers)))
    site_of_node = {node: site for site in table.sites.values() for node in site.nodes}
    placeholders = [node for node in values.nodes if node in site_of_node][: len(graph.inputs)]  # a graph begins with its inputs
    grids = {i: site_of_node[node] for i, node in zip(graph.inputs, placeholders, strict=True)}
    for operator in graph.operators:
        kind = operator_name(model, operator)
        if kind not in LAYERS | MOVES | COMPUTES | JOINS or len(operator.outputs) != 1:
            raise LoweringError(f"{kind} has no integer form here", hint="use fp32 for this network on TFLite, or onnxruntime")
        output = operator.outputs[0]
        if kind in MOVES:
            grids[output] = _known(grids, operator.inputs[0], kind)
            continue
        seen = np.sort(net.get_tensor(output), axis=None)
        place = next((p for p in unused if _alike(producers[p][1], seen)), None)
        if place is None:
            raise LoweringError(
                f"the TFLite graph has a {kind} whose output is no quantised value of the network",
                hint="use fp32 for this network on TFLite, or onnxruntime",
                context={"tensor": _text(graph.tensors[output].name)},
            )
        unused.remove(place)
        grids[output] = producers[place][0]
        for index in operator.inputs:
            if index >= 0 and constant(model, graph.tensors[index]) is None:
                _known(grids, index, kind)
    return grids


def _bring_together(model: Any, grids: Mapping[int, SiteScale]) -> None:
    """A Quantize before each input of a join that is on another grid than its output."""
    schema, graph, ordered = schema_module(), model.subgraphs[0], []
    for operator in graph.operators:
        if operator_name(model, operator) in JOINS:
            wanted = grids[operator.outputs[0]]
            operator.inputs = [int(i) for i in operator.inputs]
            for place, index in enumerate(operator.inputs):
                if (grids[index].scale, grids[index].zero_point) == (wanted.scale, wanted.zero_point):
                    continue
                moved = _add_tensor(model, _text(graph.tensors[index].name) + "/requantised", list(graph.tensors[index].shape))
                graph.tensors[moved].type = schema.TensorType.INT8
                graph.tensors[moved].quantization = _quantisation(np.array([wanted.scale]), 0, wanted.zero_point - 128)
                step = schema.OperatorT()
                step.opcodeIndex, step.inputs, step.outputs = _code(model, "QUANTIZE", 2), [index], [moved]
                ordered.append(step)
                operator.inputs[place] = moved
        ordered.append(operator)
    graph.operators = ordered


def _known(grids: Mapping[int, SiteScale], index: int, kind: str) -> SiteScale:
    if index not in grids:
        raise LoweringError(f"a {kind} of the TFLite graph reads a value without a grid", hint="use fp32 for this network on TFLite")
    return grids[index]


def _alike(wanted: np.ndarray, seen: np.ndarray) -> bool:
    return wanted.shape == seen.shape and bool(np.abs(wanted - seen).max() <= CLOSE * max(float(np.abs(wanted).max()), 1e-12))


def _is_weight(parameter: Any, array: np.ndarray | None) -> bool:
    """The layer's weight, channels last: (O, I, H, W) as (O, H, W, I), depthwise as (1, H, W, O), linear as it is."""
    weight = parameter.detach().numpy()
    if array is None or weight.size != array.size:
        return False
    if weight.ndim == 2:
        return np.array_equal(weight, array)
    forms = [weight.transpose(0, 2, 3, 1)] + ([weight.transpose(1, 2, 3, 0)] if weight.shape[1] == 1 else [])
    return any(form.shape == array.shape and np.array_equal(form, array) for form in forms)


def _layer(model: Any, operator: Any, scales: np.ndarray, axis: int, source: SiteScale) -> None:
    """Weight and bias as integers; they may be shared in the float file, so each layer gets tensors of its own."""
    graph, kinds = model.subgraphs[0], schema_module().TensorType
    weight = constant(model, graph.tensors[operator.inputs[1]])
    assert weight is not None
    if weight.shape[axis] != len(scales):
        raise LoweringError(f"a layer has {weight.shape[axis]} output channels in the file and {len(scales)} scales")
    rows = scales.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    integers = np.clip(np.rint(weight / rows), -127, 127).astype(np.int8)
    operator.inputs = [int(i) for i in operator.inputs]
    operator.inputs[1] = _replace(model, operator.inputs[1], integers, kinds.INT8, _quantisation(scales, axis))
    if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
        bias = constant(model, graph.tensors[operator.inputs[2]])
        assert bias is not None
        bias_scales = np.float32(source.scale) * scales
        integers = np.clip(np.rint(bias / bias_scales), INT32.min, INT32.max).astype(np.int32)
        operator.inputs[2] = _replace(model, operator.inputs[2], integers, kinds.INT32, _quantisation(bias_scales, 0))


def _replace(model: Any, index: int, array: np.ndarray, kind: int, quantisation: Any = None) -> int:
    """Put an array in the place of a constant; gives the tensor's index, a new one where other operators read the old."""
    schema, graph = schema_module(), model.subgraphs[0]
    tensor = graph.tensors[index]
    if sum(index in list(operator.inputs) for operator in graph.operators) > 1:
        index = _add_tensor(model, tensor.name, list(tensor.shape))
        tensor = graph.tensors[index]
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(array.tobytes(), np.uint8)
    if sum(each.buffer == tensor.buffer for each in graph.tensors) > 1 or tensor.buffer == 0:
        model.buffers.append(buffer)
        tensor.buffer = len(model.buffers) - 1
    else:
        model.buffers[tensor.buffer] = buffer
    tensor.type, tensor.shape, tensor.quantization = kind, list(array.shape), quantisation
    return index


def _quantisation(scales: np.ndarray, axis: int, zero_point: int = 0) -> Any:
    made = schema_module().QuantizationParametersT()
    made.scale, made.zeroPoint, made.quantizedDimension = scales.tolist(), [zero_point] * len(scales), axis
    return made


def _code(model: Any, kind: str, version: int) -> int:
    """Index of an operator code, added where it is not there."""
    schema = schema_module()
    number = getattr(schema.BuiltinOperator, kind)
    for index, code in enumerate(model.operatorCodes):
        if code.builtinCode == number and code.version == version:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _add_tensor(model: Any, name: Any, shape: list[int]) -> int:
    tensor = schema_module().TensorT()
    tensor.name, tensor.shape, tensor.buffer = name, shape, 0
    model.subgraphs[0].tensors.append(tensor)
    return len(model.subgraphs[0].tensors) - 1


def _float_ends(model: Any) -> None:
    """The file's inputs and outputs as float tensors of the same names, with a Quantize behind and a Dequantize before."""
    schema, graph = schema_module(), model.subgraphs[0]
    made: dict[str, list[Any]] = {"QUANTIZE": [], "DEQUANTIZE": []}
    graph.inputs, graph.outputs = list(graph.inputs), list(graph.outputs)
    for ends, kind, version in ((graph.inputs, "QUANTIZE", 1), (graph.outputs, "DEQUANTIZE", 2)):
        for place, inner in enumerate(ends):
            tensor = graph.tensors[inner]
            outer = _add_tensor(model, tensor.name, list(tensor.shape))
            graph.tensors[outer].type = schema.TensorType.FLOAT32
            tensor.name = _text(tensor.name) + "/int8"
            ends[place] = outer
            operator = schema.OperatorT()
            operator.opcodeIndex = _code(model, kind, version)
            operator.inputs, operator.outputs = ([outer], [inner]) if kind == "QUANTIZE" else ([inner], [outer])
            made[kind].append(operator)
    graph.operators = [*made["QUANTIZE"], *graph.operators, *made["DEQUANTIZE"]]


def _text(name: Any) -> str:
    return name.decode("utf-8") if isinstance(name, bytes) else str(name)
