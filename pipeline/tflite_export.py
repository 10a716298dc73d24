"""A network as a TFLite file: float through litert-torch; from that int8 by our own scale table, or float16 (tflite_quantise.py).

The file takes and gives what the network does: NCHW under the same names, float32 or integers. The converter turns the layout inside, with
one Transpose (or, for one channel, a Reshape) after the input; weights and activations are NHWC from there. How many Transposes the file
has, and how many the network asks for itself, is told. The batch is fixed: with a dynamic one
litert-torch 0.10.0 fails (TypeError in its lowering; tried on VGG-8 and ResNet-20).
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from edgec.pipeline import tflite_file, tflite_quantise
from edgec.pipeline.compress.folding import fold
from edgec.pipeline.compress.quantise import QuantNet
from edgec.pipeline.core.errors import LoweringError, ModelError, ToolchainMissing
from edgec.pipeline.core.files import replacing
from edgec.pipeline.core.records import Precision, TensorSpec

DEADLINE_S = 600.0
"""For one conversion; seen: 8 to 25 s on two busy cores."""


DTYPES = ("float32", "int32", "int64", "bool")
"""Of inputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TfliteFile:
    """What was written. `parameters` were found in the float file; `merged` are those that were computed into others."""

    path: Path
    size_bytes: int
    precision: Precision
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: int
    merged: tuple[str, ...]
    operators: Mapping[str, int]


def export_network(
    module: nn.Module,
    inputs: tuple[TensorSpec, ...],
    out: Path,
    *,
    precision: Precision | None = None,
    deadline_s: float = DEADLINE_S,
) -> TfliteFile:
    """Write a float network, or a quantised one (QuantNet) with its own scales.

    Args:
        inputs: one for each argument of `forward`, in order, batch dimension first; a batch of None is written as 1.
        precision: None is the network's own: fp32, or int8 of a QuantNet. A float network can be written with fp16 weights.

    Raises:
        ModelError: the network cannot be traced or does not run on the inputs.
        LoweringError: litert-torch refuses it, crashes or exceeds the deadline; parameters differ; or, for int8, an operator has no integer
            form here. Nothing is written then.
        ToolchainMissing: without litert-torch or ai-edge-litert.
    """
    tflite_file.schema_module()
    own = Precision.INT8 if isinstance(module, QuantNet) else Precision.FP32
    written = precision or own
    if written is not own and (own, written) != (Precision.FP32, Precision.FP16):
        raise LoweringError(
            f"a {own} network is not lowered to {written} on TFLite here",
            hint="int8 starts from a quantised network; 4-bit weights exist for onnxruntime" if own is Precision.FP32 else "use int8",
        )
    folded = module.folded if isinstance(module, QuantNet) else fold(module)
    fixed = tuple(TensorSpec(name=i.name, shape=tuple(d or 1 for d in i.shape), dtype=i.dtype) for i in inputs)
    names = _outputs(folded, fixed)
    with tempfile.TemporaryDirectory(prefix="edgec-") as folder, replacing(out) as part:
        raw = _convert(folded, fixed, names, Path(folder), deadline_s)
        model = tflite_file.load(raw)
        _clean(model, tuple(i.name for i in fixed), names)
        parameters, merged = _count(model, folded)
        if isinstance(module, QuantNet):
            tflite_file.save(model, raw)
            tflite_quantise.insert(model, module.table(), folded, values_of(folded, fixed), raw)
        elif written is Precision.FP16:
            tflite_quantise.halve(model)
        tflite_file.save(model, part)
        info = tflite_file.inspect(part)
    return TfliteFile(
        path=out,
        size_bytes=info.size_bytes,
        precision=written,
        inputs=info.inputs,
        outputs=info.outputs,
        parameters=parameters,
        merged=merged,
        operators=info.operators,
    )


def values_of(folded: fx.GraphModule, inputs: tuple[TensorSpec, ...]) -> tflite_quantise.Values:
    """Inputs by name and each node's value on them: what tells which tensor of a file is which node of the network."""
    generator = torch.Generator().manual_seed(0)
    fed = [_example(spec, generator) for spec in inputs]
    seen: dict[str, Any] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, torch.Tensor):
                seen[n.name] = value.detach().numpy()
            return value

    with torch.no_grad():
        Recorder(folded).run(*fed)
    return tflite_quantise.Values(inputs={s.name: x.numpy() for s, x in zip(inputs, fed, strict=True)}, nodes=seen)


def _example(spec: TensorSpec, generator: torch.Generator) -> torch.Tensor:
    """Random floats; integers 0 or 1, which any table has."""
    shape, dtype = [d or 1 for d in spec.shape], getattr(torch, spec.dtype)
    if dtype.is_floating_point:
        return torch.randn(*shape, generator=generator, dtype=dtype)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)


def _outputs(folded: fx.GraphModule, inputs: tuple[TensorSpec, ...]) -> tuple[str, ...]:
    """Names of the outputs: as in the ONNX form."""
    arguments = [node for node in folded.graph.nodes if node.op == "placeholder"]
    if len(arguments) != len(inputs):
        raise ModelError(f"the network takes {len(arguments)} inputs, {len(inputs)} are described")
    other = [i for i in inputs if i.dtype not in DTYPES]
    if other:
        raise LoweringError(
            f"the input {other[0].name!r} is {other[0].dtype}; TFLite files here take {', '.join(DTYPES)}", hint="use onnxruntime"
        )
    results = folded.graph.output_node().args[0]
    results = results if isinstance(results, tuple | list) else (results,)
    if not all(isinstance(r, fx.Node) for r in results) or len(set(results)) != len(results):
        raise ModelError("the network must return a tensor or a tuple of different tensors")
    return ("output",) if len(results) == 1 else tuple(f"output_{i}" for i in range(len(results)))


def _convert(folded: fx.GraphModule, inputs: tuple[TensorSpec, ...], outputs: tuple[str, ...], folder: Path, deadline_s: float) -> Path:
    """Run the worker; the float file as litert-torch writes it."""
    task = {
        "network": folded,
        "examples": tuple(torch.zeros([d or 1 for d in spec.shape], dtype=getattr(torch, spec.dtype)) for spec in inputs),
        "inputs": tuple(spec.name for spec in inputs),
        "outputs": outputs,
    }
    torch.save(task, folder / "network.pt")
    command = [sys.executable, "-m", "edgec.pipeline.tflite_worker", str(folder)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=deadline_s,
            check=False,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
        )
    except subprocess.TimeoutExpired as error:
        raise LoweringError(
            f"litert-torch did not finish in {deadline_s:g} s", hint="is the machine busy, or the network very large?"
        ) from error
    raw, refused = folder / "raw.tflite", folder / "refused.txt"
    if done.returncode == 0 and raw.is_file():
        return raw
    said = refused.read_text() if refused.is_file() else ""
    if done.returncode == 3:
        raise ToolchainMissing(f"lowering to TFLite needs litert-torch: {said}", hint='pip install "edgec[tflite]"')
    if said:
        raise LoweringError(
            f"litert-torch refuses the network: {said.strip().splitlines()[0]}",
            hint="replace the operation that it names, or use onnxruntime",
            context={"said": said[-4000:]},
        )
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"
    last = done.stderr.decode("utf-8", "replace")[-2000:]
    raise LoweringError(f"litert-torch's process ended with {how}", hint="its last words are in the context", context={"stderr": last})


def _clean(model: Any, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
    """Inputs and outputs in the network's order under its names; nothing else beside the graph."""
    if len(model.subgraphs) != 1 or len(model.signatureDefs or []) != 1:
        raise LoweringError(f"litert-torch wrote {len(model.subgraphs)} graphs where one was expected")
    graph, signature = model.subgraphs[0], model.signatureDefs[0]
    places = {str(each.name, "utf-8"): each.tensorIndex for each in (*signature.inputs, *signature.outputs)}
    try:
        graph.inputs = [places[f"args_{i}"] for i in range(len(inputs))]
        graph.outputs = [places[name] for name in outputs]
    except KeyError as error:
        raise LoweringError(f"litert-torch wrote no tensor {error}", hint="see which of its versions were tried") from error
    for index, name in zip((*graph.inputs, *graph.outputs), (*inputs, *outputs), strict=True):
        graph.tensors[index].name = name
    model.signatureDefs, model.metadata, model.description = [], [], "edgec"


def _count(model: Any, folded: nn.Module) -> tuple[int, tuple[str, ...]]:
    """Number of parameters found in the float file by their values, in any order, and the names of those that are not: the converter merges
    scales and shifts of norms into what follows, leaves out ones and zeros, and scales the queries and keys of attention.

    Raises:
        LoweringError: the file has no constant of the size of a matrix or kernel of the network.
    """
    constants = [
        a for a in (tflite_quantise.constant(model, t) for t in model.subgraphs[0].tensors) if a is not None and a.dtype == np.float32
    ]
    sorted_by_size: dict[int, list[np.ndarray]] = {}
    for array in constants:
        sorted_by_size.setdefault(array.size, []).append(np.sort(array, axis=None))
    total = 0
    lost: list[str] = []
    merged: list[str] = []
    for name, parameter in folded.named_parameters():
        wanted = np.sort(parameter.detach().cpu().numpy(), axis=None)
        if any(np.array_equal(wanted, each) for each in sorted_by_size.get(wanted.size, ())):
            total += wanted.size
        else:
            (merged if parameter.dim() < 2 or wanted.size in sorted_by_size else lost).append(name)
    if lost:
        raise LoweringError(f"the file does not have the network's parameters: {', '.join(lost[:3])}", context={"parameters": lost})
    return total, tuple(merged)
