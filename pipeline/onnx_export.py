"""A network as an ONNX file: float32, float16, 4-bit weights, or int8 with our own Q/DQ nodes. BatchNorm folded, graph simplified.

Uses torch's TorchScript-based exporter (`dynamo=False`). Reasons, measured with torch 2.13: it writes the opset that it is asked for
(the other one writes 18 when asked for 13, which TensorRT 8.2 needs), keeps parameter names, gives smaller files, and takes 0.2 s where
the other takes 2 to 6 s, which counts when every candidate of a pruning search is exported.

The same network gives the same bytes: names come from the network, nothing of the machine or of the time is in the file.
"""

import copy
import math
import os
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
import torch.nn.functional as F
from onnx import ModelProto, helper
from torch import Tensor, fx, nn

from edgec.pipeline import onnx_graph, qdq
from edgec.pipeline.compress.folding import fold
from edgec.pipeline.compress.quantise import QuantNet
from edgec.pipeline.core.errors import LoweringError, ModelError
from edgec.pipeline.core.files import replacing
from edgec.pipeline.core.records import Precision, TensorSpec
from edgec.pipeline.onnx_file import tensor_spec

OPSETS = range(13, 19)
"""13: first with per-channel DequantizeLinear, last of TensorRT 8.2. 18: last that this exporter was tried with."""

ATTENTION_OPSET = 14
"""First with scaled_dot_product_attention in the exporter."""

IR = 8
"""Default IR version: ONNX 1.10 (2021), old enough for any runtime that knows opset 17."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedFile:
    """What was written. `parameters` was counted in the file and equals the folded network's."""

    path: Path
    size_bytes: int
    opset: int
    ir: int
    precision: Precision
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: int


def export_float(
    module: nn.Module,
    inputs: tuple[TensorSpec, ...],
    out: Path,
    *,
    precision: Precision = Precision.FP32,
    opset: int = 17,
    ir: int = IR,
    dynamic_batch: bool = False,
) -> ExportedFile:
    """Write a network with float activations, BatchNorm folded into the layers before it.

    Compared with the network before anything is written: every parameter of the folded network is an initialiser of the same name, shape
    and number of elements; a layer's weight has the shape that it has in `module`; simplifying loses none.

    Args:
        inputs: one for each argument of `forward`, in order, batch dimension first; a batch of None is written as 1, or as dynamic.
        precision: fp32, fp16 (inputs and outputs stay float32), or int4 (matrices of linear layers; see `onnx_graph.four_bit`).
        dynamic_batch: the first dimension of every input and output is the symbol "batch".

    Raises:
        ModelError: the network cannot be traced or does not run on the inputs, or a weight is not finite.
        LoweringError: the exporter refuses (the operation and its layer are named), writes another opset, or the parameters differ; the
            precision cannot be had for this network; or the file cannot be written.
        ToolchainMissing: without onnxslim, or for fp16 and int4 without onnxruntime.
    """
    folded = fold(module)
    model = _onnx_from(folded, inputs, (), opset=opset, dynamic_batch=dynamic_batch)
    parameters = _count(model, folded)
    _compare_shapes(model, module)
    model = _simplified(model, folded)
    if precision is Precision.FP16:
        model = onnx_graph.half(model)
    elif precision is Precision.INT4:
        model = onnx_graph.four_bit(model)
    elif precision is not Precision.FP32:
        raise LoweringError(f"a float network has no {precision} form", hint="quantise it first")
    return _write(model, out, precision, parameters, ir=ir)


def export_quantised(
    net: QuantNet,
    inputs: tuple[TensorSpec, ...],
    out: Path,
    *,
    form: qdq.Form = qdq.Form.U8S8,
    opset: int = 17,
    ir: int = IR,
    dynamic_batch: bool = False,
) -> ExportedFile:
    """Write a quantised network; parameters are compared before they become integers. As `export_float`.

    Args:
        form: integer types, by the runtime and CPU that the file is for (see `qdq.form_for`).

    Raises:
        LoweringError: also when the network has fewer than 8 bits, which is simulation only.
    """
    table = net.table()
    low = [n for n, s in table.sites.items() if s.bits != 8] + [n for n, w in table.weights.items() if w.bits != 8]
    if low:
        raise LoweringError(f"{low[0]} has fewer than 8 bits: that is simulation only", hint="quantise to 8 bit", context={"at": low})
    folded = copy.deepcopy(net.folded).cpu().eval()
    tensor_of = _tensor_names(folded, inputs)
    grids = {
        tensor_of.get(node, node): qdq.Grid(scale=site.scale, zero_point=site.zero_point)
        for site in table.sites.values()
        for node in site.nodes
    }
    inner = tuple(node for node in net.site_of if node not in tensor_of)
    model = _onnx_from(folded, inputs, inner, opset=opset, dynamic_batch=dynamic_batch)
    parameters = _count(model, folded)
    model = _simplified(model, folded)
    del model.graph.output[len(model.graph.output) - len(inner) :]
    qdq.insert(model, grids, {f"{name}.weight": weight.scales for name, weight in table.weights.items()}, form)
    return _write(model, out, Precision.INT8, parameters, ir=ir)


def _tensor_names(folded: fx.GraphModule, inputs: tuple[TensorSpec, ...]) -> dict[str, str]:
    """Graph node to the ONNX name that it must have: the network's inputs and outputs. Other nodes keep their own.

    Raises:
        ModelError: the number of inputs differs, or the network does not return tensors.
    """
    arguments = [node for node in folded.graph.nodes if node.op == "placeholder"]
    if len(arguments) != len(inputs):
        raise ModelError(f"the network takes {len(arguments)} inputs, {len(inputs)} are described")
    results = folded.graph.output_node().args[0]
    results = results if isinstance(results, tuple | list) else (results,)
    if not all(isinstance(r, fx.Node) for r in results) or len(set(results)) != len(results):
        raise ModelError("the network must return a tensor or a tuple of different tensors")
    names = ["output"] if len(results) == 1 else [f"output_{i}" for i in range(len(results))]
    return {n.name: i.name for n, i in zip(arguments, inputs, strict=True)} | {
        r.name: name for r, name in zip(results, names, strict=True) if isinstance(r, fx.Node)
    }


def _onnx_from(
    folded: fx.GraphModule, inputs: tuple[TensorSpec, ...], inner: tuple[str, ...], *, opset: int, dynamic_batch: bool
) -> ModelProto:
    """Run the exporter. `inner` nodes become tensors of their own names: they are asked for as outputs, the last of the model's."""
    if opset not in OPSETS:
        raise LoweringError(f"opset {opset} is outside {OPSETS.start} to {OPSETS.stop - 1}")
    tensor_of = _tensor_names(folded, inputs)
    outputs = [name for node, name in tensor_of.items() if node not in _arguments(folded)]
    examples = tuple(torch.zeros([d or 1 for d in spec.shape], dtype=getattr(torch, spec.dtype)) for spec in inputs)
    traced = _with_outputs(folded, inner)
    if opset < ATTENTION_OPSET:
        _write_out_attention(traced)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), _quiet_exporter():
            file = Path(folder) / "raw.onnx"
            warnings.simplefilter("ignore", DeprecationWarning)  # of the exporter itself and of what it calls in torch
            warnings.filterwarnings("ignore", "Exporting a model to ONNX with a batch_size other than 1")  # LSTM: parity runs another batch
            warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]  # torch's own layers branch
            warnings.filterwarnings("ignore", "Constant folding")  # of slices, which onnxslim folds
            torch.onnx.export(
                traced,
                examples,
                file,
                opset_version=opset,
                dynamo=False,
                verbose=False,
                do_constant_folding=False,
                input_names=[spec.name for spec in inputs],
                output_names=[*outputs, *inner],
                dynamic_axes={name: {0: "batch"} for name in (*(spec.name for spec in inputs), *outputs)} if dynamic_batch else None,
            )
            model = onnx.load(file)
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        layers = _layers_with(folded, examples, first)
        raise LoweringError(
            f"the network cannot be written as ONNX: {first}" + (f" It is in {', '.join(layers)}." if layers else ""),
            hint="replace the operation there by others, move it out of the network, or ask for another opset",
            context={"layers": layers},
        ) from error
    written = {o.domain: o.version for o in model.opset_import}
    if written != {"": opset}:
        raise LoweringError(f"opset {opset} was asked for and {written} written", context={"written": written})
    for inner_output in model.graph.output[len(outputs) :]:
        inner_output.type.tensor_type.ClearField("shape")  # the example's, also where the batch is dynamic
    _clean(model)
    return model


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Where it refuses an operation the exporter writes the whole graph to stdout from C++, and switches that on itself (torch 2.13)."""
    sys.stdout.flush()
    saved, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(nowhere)


def _layers_with(folded: fx.GraphModule, examples: tuple[Tensor, ...], said: str) -> list[str]:
    """Submodules that call the operator that a message names."""
    named = re.search(r"'(\w+::\w+)'", said)
    if named is None:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = torch.jit.trace(folded, examples, check_trace=False).inlined_graph  # type: ignore[no-untyped-call]
    return sorted({_place(folded, node.scopeName(), node.sourceRange()) for node in graph.nodes() if node.kind() == named[1]})


def _place(folded: fx.GraphModule, scope: str, source: str) -> str:
    """The layer of a traced operation: its scope where that is a module, else the module from which the line of the graph's code came."""
    module = scope.rpartition("/")[2].removeprefix("__module").removeprefix(".")
    line = re.match(r"<eval_with_key>.*?\((\d+)\): forward", source)
    if module or line is None:
        return module or "the network's own forward"
    made = folded.code.splitlines()[int(line[1]) - 1].split("=")[0].strip()
    stacks = [list(node.meta.get("nn_module_stack") or ()) for node in folded.graph.nodes if node.name == made]
    return stacks[0][-1] if stacks and stacks[0] else "the network's own forward"


def _write_out_attention(traced: fx.GraphModule) -> None:
    """softmax(q k^T / sqrt(width)) v in place of scaled_dot_product_attention, which opset 13 has no form of.

    Raises:
        LoweringError: it has a mask, dropout or another option.
    """
    for node in list(traced.graph.nodes):
        if node.target is not F.scaled_dot_product_attention:
            continue
        if len(node.args) != 3 or node.kwargs:
            raise LoweringError(
                f"attention with options ({node.name}) cannot be written before opset {ATTENTION_OPSET}", hint="ask for a later opset"
            )
        with traced.graph.inserting_before(node):
            query, key, value = node.args
            width = traced.graph.call_method("size", (query, -1))
            scores = traced.graph.call_function(torch.matmul, (query, traced.graph.call_method("transpose", (key, -2, -1))))
            scaled = traced.graph.call_function(torch.div, (scores, traced.graph.call_function(pow, (width, 0.5))))
            attended = traced.graph.call_function(torch.matmul, (traced.graph.call_function(F.softmax, (scaled, -1)), value))
        node.replace_all_uses_with(attended)
        traced.graph.erase_node(node)
    traced.recompile()


def _simplified(model: ModelProto, folded: nn.Module) -> ModelProto:
    """See `onnx_graph.simplified`. Vectors (of norms, biases) may be merged into others; matrices and kernels stay.

    Raises:
        LoweringError: fewer numbers are left than the network's matrices and kernels have.
    """
    slim = onnx_graph.simplified(model)
    left = sum(math.prod(i.dims) for i in slim.graph.initializer if i.data_type == onnx.TensorProto.FLOAT)
    wanted = sum(parameter.numel() for parameter in folded.parameters() if parameter.dim() > 1)
    if left < wanted:
        raise LoweringError(
            f"simplifying left {left:,} numbers where the network's matrices have {wanted:,}", hint="report the network to us"
        )
    return slim


def _arguments(folded: fx.GraphModule) -> set[str]:
    return {node.name for node in folded.graph.nodes if node.op == "placeholder"}


def _with_outputs(folded: fx.GraphModule, inner: tuple[str, ...]) -> fx.GraphModule:
    """The network with a graph of its own, which also returns the values of the named nodes. Layers and parameters are the same ones."""
    traced = fx.GraphModule(folded, copy.deepcopy(folded.graph))
    nodes = {node.name: node for node in traced.graph.nodes}
    output = traced.graph.output_node()
    results = output.args[0]
    output.args = ((*(results if isinstance(results, tuple | list) else (results,)), *(nodes[name] for name in inner)),)
    traced.recompile()
    return traced


def _clean(model: ModelProto) -> None:
    """Constants and shared initialisers as initialisers of their own, layers named as in the network, nothing of the machine left.

    The exporter merges parameters of equal content and refers to the first through Identity, which would spoil the count.
    """
    graph = model.graph
    initialisers = {i.name: i for i in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in initialisers and node.output[0] not in {o.name for o in graph.output}:
            made = onnx.TensorProto()
            made.CopyFrom(initialisers[node.input[0]])
        elif node.op_type == "Constant" and node.attribute[0].name == "value":
            made = node.attribute[0].t
        else:
            kept.append(node)
            continue
        made.name = node.output[0]
        initialisers[made.name] = made
    runs: Counter[str] = Counter()
    for node in kept:
        node.doc_string = ""
        del node.metadata_props[:]
        if len(node.input) > 1 and node.input[1].endswith(".weight") and node.input[1] in initialisers:
            layer = node.input[1].removesuffix(".weight")
            runs[layer] += 1
            node.name = layer if runs[layer] == 1 else f"{layer}/{runs[layer]}"  # a layer that runs twice is two nodes
    used = {name for node in kept for name in node.input}
    clean = helper.make_graph(
        kept, "network", list(graph.input), list(graph.output), [t for name, t in initialisers.items() if name in used]
    )
    model.graph.CopyFrom(clean)
    model.doc_string, model.producer_name, model.producer_version = "", "edgec", ""
    del model.metadata_props[:]


def _count(model: ModelProto, folded: nn.Module) -> int:
    """Number of parameters in the file, each found by name with the network's shape.

    Raises:
        LoweringError: names those that are missing or have another shape.
    """
    in_file = {i.name: tuple(i.dims) for i in model.graph.initializer}
    shapes = {name: tuple(parameter.shape) for name, parameter in folded.named_parameters()}
    wrong = [f"{name} {shape} is {in_file.get(name, 'missing')}" for name, shape in shapes.items() if in_file.get(name) != shape]
    if wrong:
        raise LoweringError(f"the exported parameters are not the network's: {'; '.join(wrong[:3])}", context={"parameters": wrong})
    return sum(math.prod(in_file[name]) for name in shapes)


def _compare_shapes(model: ModelProto, module: nn.Module) -> None:
    """Weights of convolutions and linear layers have the shapes that they had before folding."""
    in_file = {i.name: tuple(i.dims) for i in model.graph.initializer}
    for name, layer in module.named_modules():
        if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
            continue
        weight, shape = f"{name}.weight".removeprefix("."), tuple(layer.weight.shape)
        if in_file.get(weight, shape) != shape:
            raise LoweringError(f"{weight} has shape {in_file[weight]} in the file and {shape} in the network")


def _write(model: ModelProto, out: Path, precision: Precision, parameters: int, *, ir: int) -> ExportedFile:
    """Stamp, check and write, whole or not at all."""
    written = {o.domain: o.version for o in model.opset_import}
    model = onnx_graph.stamped(model, opset=written[""], ir=ir)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise LoweringError(f"the exported graph is not valid ONNX: {str(error).splitlines()[0]}") from error
    data = model.SerializeToString(deterministic=True)
    with replacing(out) as part:
        part.write_bytes(data)
    return ExportedFile(
        path=out,
        size_bytes=len(data),
        opset=written[""],
        ir=ir,
        precision=precision,
        inputs=tuple(tensor_spec(i) for i in model.graph.input),
        outputs=tuple(tensor_spec(o) for o in model.graph.output),
        parameters=parameters,
    )
