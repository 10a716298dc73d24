"""Looks into any .tflite file, ours or not. Needs ai-edge-litert, which ships the schema and the interpreter; not TensorFlow."""

import importlib
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgec.pipeline.core.errors import ModelError, ToolchainMissing
from edgec.pipeline.core.records import Precision, TensorSpec
from edgec.targets.agent.runners.tflite import described

IDENTIFIER = b"TFL3"
"""File identifier of the schema that all runtimes since 2017 read, at bytes 4 to 8."""

INSTALL = 'pip install "edgec[tflite]"; to look into files and run them, ai-edge-litert alone is enough'


@dataclass(frozen=True, slots=True, kw_only=True)
class TfliteInfo:
    """What a file says of itself."""

    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    symbols: Mapping[str, tuple[str, ...]]
    """Input name to "" for a fixed dimension and "?" for a dynamic one."""
    parameters: int
    """Elements of all constant tensors with at least one dimension that are numbers of the network (floats, int8, int32 biases)."""
    size_bytes: int
    operators: Mapping[str, int]
    """How many of each operator, by the schema's name."""
    precision: Precision
    """int8 with int8 or uint8 activations, fp16 where every floating constant is float16, else fp32."""


def inspect(path: Path) -> TfliteInfo:
    """Read and check a file.

    Raises:
        ModelError: missing, empty, cut off, not TFLite, without a network, or with an operator or a shape that the interpreter refuses.
        ToolchainMissing: without ai-edge-litert.
    """
    model = load(path)
    interpreter = interpreter_of(path)
    inputs = described(interpreter.get_input_details(), "input")
    outputs = described(interpreter.get_output_details(), "output")
    return TfliteInfo(
        path=path,
        inputs=tuple(_spec(each) for each in inputs),
        outputs=tuple(_spec(each) for each in outputs),
        symbols={each["name"]: tuple("" if size else "?" for size in each["shape"]) for each in inputs},
        parameters=sum(math.prod(tensor.shape) for tensor in _constants(model) if len(tensor.shape)),
        size_bytes=path.stat().st_size,
        operators=operators(model),
        precision=_precision(model),
    )


def load(path: Path) -> Any:
    """The file as the schema's object tree (ModelT).

    Raises:
        ModelError, ToolchainMissing: as `inspect`.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}", hint="check the path") from error
    if not data:
        raise ModelError(f"{path} is empty", hint="the conversion or the copy did not finish")
    if data[4:8] != IDENTIFIER:
        raise ModelError(f"{path} is not a TFLite file", hint="a .tflite file has TFL3 at its fifth byte; convert it again")
    schema = schema_module()
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    except (struct.error, IndexError, ValueError, TypeError, OverflowError) as error:
        raise ModelError(f"{path} is cut off or damaged", hint="copy or convert it again") from error
    if not model.subgraphs or not model.subgraphs[0].operators:
        raise ModelError(f"{path} holds no network", hint="convert it again")
    return model


def save(model: Any, path: Path) -> None:
    """Write an object tree; the same tree gives the same bytes."""
    builder = package("flatbuffers").Builder(1024)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    path.write_bytes(bytes(builder.Output()))


def interpreter_of(path: Path, *, threads: int = 1, all_tensors: bool = False) -> Any:
    """An interpreter with its tensors allocated.

    Args:
        all_tensors: inner tensors can be read after a run; XNNPACK, which fuses some away, is left out.

    Raises:
        ModelError: it refuses the file. ToolchainMissing: without ai-edge-litert.
    """
    runtime = package("ai_edge_litert.interpreter")
    how: dict[str, Any] = {"num_threads": threads}
    if all_tensors:
        how |= {
            "experimental_preserve_all_tensors": True,
            "experimental_op_resolver_type": runtime.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        }
    try:
        interpreter = runtime.Interpreter(model_path=str(path), **how)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"LiteRT refuses {path.name}: {first}", hint="is it cut off, or does it need operators of another library?"
        ) from error
    return interpreter


def operators(model: Any) -> dict[str, int]:
    """How many of each operator in the main graph, by the schema's name."""
    counts: dict[str, int] = {}
    for operator in model.subgraphs[0].operators:
        name = operator_name(model, operator)
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


def operator_name(model: Any, operator: Any) -> str:
    """The schema's name of an operator; a custom one's own."""
    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    names = {value: name for name, value in vars(schema_module().BuiltinOperator).items() if isinstance(value, int)}
    return names.get(number, str(number)) if not code.customCode else str(code.customCode, "utf-8")


def schema_module() -> Any:
    """The generated classes of TensorFlow's lite/schema/schema.fbs."""
    return package("ai_edge_litert.schema_py_generated")


def package(name: str) -> Any:
    """Import, or say how to install."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ToolchainMissing(f"this step needs the package {name.partition('.')[0].replace('_', '-')}", hint=INSTALL) from error


def _spec(description: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(name=description["name"], shape=tuple(description["shape"]), dtype=description["dtype"])


def _constants(model: Any) -> list[Any]:
    """Constant tensors of floats, int8 and int32; shapes and axes, which are int32 without quantisation, are no parameters."""
    kinds = schema_module().TensorType
    found = []
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        if data is None or not len(data):
            continue
        scaled = tensor.quantization is not None and tensor.quantization.scale is not None
        if tensor.type in (kinds.FLOAT32, kinds.FLOAT16) or scaled:
            found.append(tensor)
    return found


def _precision(model: Any) -> Precision:
    kinds = schema_module().TensorType
    constants = {id(tensor) for tensor in _constants(model)}
    inner = {
        t.type
        for t in model.subgraphs[0].tensors
        if id(t) not in constants and t.quantization is not None and t.quantization.scale is not None
    }
    if inner & {kinds.INT8, kinds.UINT8}:
        return Precision.INT8
    floats = {t.type for t in _constants(model)} & {kinds.FLOAT32, kinds.FLOAT16}
    return Precision.FP16 if floats == {kinds.FLOAT16} else Precision.FP32
