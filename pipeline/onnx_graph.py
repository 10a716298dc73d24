"""Rewrites whole ONNX graphs: simplified, at another opset, in float16, with 4-bit weights; and a graph that shows its inner values.

Simplifying is onnxslim's (constant and shape folding, dead nodes, fusions of standard operators). Of the three well-kept ones it is the one
that folds the shape arithmetic of a dynamic batch: a channel shuffle goes from 80 nodes to 30, where onnxruntime's own basic level leaves
61; and it writes standard operators only. onnxoptimizer folds no constants. (docs/adr/0009)
"""

import io
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgec.pipeline.core.errors import LoweringError, ToolchainMissing

BLOCK = 32
"""Weights that share one scale at 4 bit. MatMulNBits takes 16 to 256; the smallest common one loses least (8 % of the size at 32)."""

LEAST_SHARE = 0.5
"""Of the parameters that 4-bit operators must reach: below that, the file hardly shrinks."""


def simplified(model: ModelProto) -> ModelProto:
    """The same function with fewer nodes. Inputs, outputs and their names stay; so do names of the weights of convolutions.

    Raises:
        ToolchainMissing: without onnxslim. LoweringError: it fails on this graph, or brings operators of another domain.
    """
    with needs("onnxslim", 'pip install "edgec[torch]"'):
        import onnxslim
    before = {node.domain for node in model.graph.node}
    copy = ModelProto()
    copy.CopyFrom(model)
    try:
        with redirect_stdout(io.StringIO()):
            slim: ModelProto = onnxslim.slim(copy, skip_optimizations=["weight_tying"])  # equal parameters stay apart, to be counted
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, onnx.checker.ValidationError) as error:
        raise LoweringError(
            f"onnxslim fails on this graph: {first_line(error)}", hint="report the network to us; export it anew"
        ) from error
    brought = {node.domain for node in slim.graph.node} - before
    if brought:
        raise LoweringError(f"onnxslim brought operators of {', '.join(sorted(brought))}", hint="see which of its versions were tried")
    del slim.graph.value_info[:], slim.metadata_props[:]
    slim.doc_string, slim.producer_name, slim.producer_version = model.doc_string, model.producer_name, model.producer_version
    return slim


def stamped(model: ModelProto, *, opset: int, ir: int) -> ModelProto:
    """The model at an opset of ONNX's own operators and an IR version.

    By onnx's version converter; where that knows no way down (it has none for Relu from 14 to 13, which differ in a type only), the nodes
    stay as they are if the older schemas accept every one of them. Whether the function is the same is parity's to say.

    Raises:
        LoweringError: an operator has no form at that opset; named with its layer.
    """
    present = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if present != opset:
        try:
            model = onnx.version_converter.convert_version(model, opset)
        except (RuntimeError, ValueError) as error:
            model = _restamped(model, present, opset, error)
    used = {node.domain for node in model.graph.node} | {node.domain for f in model.functions for node in f.node}
    kept = [o for o in model.opset_import if o.domain in ("", "ai.onnx") or o.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    model.ir_version = ir
    return model


def _restamped(model: ModelProto, present: int, opset: int, cause: Exception) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    next(o for o in copy.opset_import if o.domain in ("", "ai.onnx")).version = opset
    try:
        onnx.checker.check_model(copy, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise LoweringError(
            f"opset {present} cannot be written as opset {opset}: {first_line(cause)}{_newer_than(model, opset)}",
            hint="export the network at that opset, or replace the operator",
            context={"opset": present, "asked": opset, "said": first_line(error)},
        ) from error
    return copy


def half(model: ModelProto) -> ModelProto:
    """Weights and arithmetic in float16; inputs and outputs stay float32. By onnxruntime's converter, which keeps operators that have
    no float16 kernel anywhere (Resize's scales, TopK, …) in float32. A graph with float16 weights stays as it is.

    Raises:
        ToolchainMissing: without onnxruntime. LoweringError: a weight leaves float16's range.
    """
    largest = [(i.name, float(np.abs(numpy_helper.to_array(i)).max(initial=0.0))) for i in _float_weights(model)]
    over = [name for name, value in largest if value > float(np.finfo(np.float16).max)]
    if over:
        raise LoweringError(f"weight {over[0]} is beyond float16 (65504)", hint="use fp32 or int8", context={"weights": over})
    with needs("onnxruntime", 'pip install "edgec[onnxruntime]"'):
        from onnxruntime.transformers.float16 import convert_float_to_float16
    copy = ModelProto()
    copy.CopyFrom(model)
    if any(i.data_type == TensorProto.FLOAT16 and i.dims for i in model.graph.initializer):
        return copy
    with quiet():
        made = in_order(convert_float_to_float16(copy, keep_io_types=True))  # it appends the casts of inputs
    del made.graph.value_info[:]
    return made


def in_order(model: ModelProto) -> ModelProto:
    """Nodes in the order of their data, those of subgraphs (If, Loop) too, as ONNX asks for and onnxruntime's Python tools do not give.

    Raises:
        ToolchainMissing: without onnx-ir.
    """
    with needs("onnx-ir", 'pip install "edgec[onnxruntime]"'):
        import onnx_ir
    wrapped = onnx_ir.from_proto(model)
    wrapped.graph.sort()
    return onnx_ir.to_proto(wrapped)


def four_bit(model: ModelProto) -> ModelProto:
    """Constant matrices of MatMul and Gemm in 4 bits, symmetric, one scale for `BLOCK` weights: onnxruntime's MatMulNBits.

    Convolutions have no such operator. An int4 DequantizeLinear before them (opset 21) saves space alone: it runs at every inference
    (ResNet-20 on 1.32: 3 times slower than float32).

    Raises:
        LoweringError: less than half of the parameters are in such matrices.
        ToolchainMissing: without onnxruntime.
    """
    with quiet(), needs("onnx-ir or onnxruntime", 'pip install "edgec[onnxruntime]"'):
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
        from onnxruntime.quantization.onnx_model import ONNXModel
    copy = ModelProto()
    copy.CopyFrom(model)
    wrapped = ONNXModel(copy)
    wrapped.replace_gemm_with_matmul()
    weights = {i.name: i for i in copy.graph.initializer}
    matrices = {n.input[1] for n in copy.graph.node if n.op_type == "MatMul" and n.input[1] in weights}
    reached = sum(int(np.prod(weights[name].dims)) for name in matrices if len(weights[name].dims) == 2)
    total = sum(int(np.prod(i.dims)) for i in _float_weights(model))
    if not reached or reached < LEAST_SHARE * total:
        raise LoweringError(
            f"int4 exists for the matrices of linear layers only: they hold {reached / max(total, 1):.0%} of this network's parameters",
            hint="use int8",
            context={"reached": reached, "parameters": total},
        )
    with quiet():
        quantiser = MatMulNBitsQuantizer(copy, bits=4, block_size=BLOCK, is_symmetric=True, accuracy_level=4)
        quantiser.process()
    made: ModelProto = quantiser.model.model
    del made.graph.value_info[:]
    return made


def with_values(model: ModelProto) -> tuple[ModelProto, tuple[tuple[str, str], ...]]:
    """A copy that also returns every inner float tensor, and (tensor, node) of each in graph order. Tensors are named in both by the layer
    that makes them, so that two forms of one network can be compared value by value."""
    copy = ModelProto()
    copy.CopyFrom(model)
    inferred = onnx.shape_inference.infer_shapes(copy)
    floats = {
        v.name
        for v in (*inferred.graph.value_info, *inferred.graph.output)
        if v.type.tensor_type.elem_type in (TensorProto.FLOAT, TensorProto.FLOAT16)
    }
    known = {o.name for o in copy.graph.output}
    made = [(name, node.name or name) for node in copy.graph.node for name in node.output if name in floats]
    copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name, _ in made if name not in known)
    return copy, tuple(made)


def transposes(model: ModelProto) -> int:
    """How many Transpose nodes a graph has."""
    return sum(node.op_type == "Transpose" for node in model.graph.node)


def _float_weights(model: ModelProto) -> list[TensorProto]:
    return [i for i in model.graph.initializer if i.data_type == TensorProto.FLOAT and i.dims]


def _newer_than(model: ModelProto, opset: int) -> str:
    """The first node whose operator is younger than the opset, as text."""
    since: dict[str, int] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if not schema.domain:
            since[schema.name] = min(schema.since_version, since.get(schema.name, schema.since_version))
    for node in model.graph.node:
        if node.domain in ("", "ai.onnx") and since.get(node.op_type, 0) > opset:
            return f"; {node.op_type} ({node.name or node.output[0]}) exists since opset {since[node.op_type]}"
    return ""


def first_line(error: BaseException) -> str:
    """The first line of what a library says, without the place in its own source."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return re.sub(r"^\S+\.(h|cc|cpp|py):\d+:?\s*(\w+:\s*)?", "", lines[0]) if lines else type(error).__name__


@contextmanager
def needs(name: str, install: str) -> Iterator[None]:
    """Imports within: one that fails is said with the line that installs it."""
    try:
        yield
    except ImportError as error:
        raise ToolchainMissing(f"this step needs the package {name}", hint=install) from error


@contextmanager
def quiet() -> Iterator[None]:
    """onnxruntime's Python tools print and log what they do, and one sets up the root logger when it is imported."""
    root = logging.getLogger()
    handlers, level, disabled = list(root.handlers), root.level, root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
        root.setLevel(level)
        root.handlers[:] = handlers
