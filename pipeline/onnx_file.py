"""Looks into any ONNX file, ours or not, and makes inputs for it. Needs onnx, not torch."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgec.pipeline.core.errors import ConfigError, ModelError, ToolchainMissing
from edgec.pipeline.core.protocols import FileInfo
from edgec.pipeline.core.records import Precision, TensorSpec

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TensorShapeProto, ValueInfoProto

LARGEST_INPUT = 4e9
"""Bytes that a random input may take while it is made."""

QUANTISED = {"QuantizeLinear", "DequantizeLinear", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "DynamicQuantizeLSTM"}
STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
OF_ONNXRUNTIME = {"MatMulNBits", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"}
"""Operators of com.microsoft that its quantisers write, and that are no custom operators there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxInfo:
    """What a file says of itself."""

    path: Path
    inputs: tuple[TensorSpec, ...]
    """Without initialisers, which old files list as inputs too."""
    outputs: tuple[TensorSpec, ...]
    symbols: Mapping[str, tuple[str, ...]]
    """Input name to the names of its dimensions; "" for fixed ones, "?" for dynamic ones without a name."""
    opsets: Mapping[str, int]
    """Version by domain; "" is ONNX's own."""
    ir: int
    parameters: int
    """Elements of all initialisers with at least one dimension; scalars are constants of operations."""
    size_bytes: int
    """Of the file and its external data."""
    external_data: tuple[str, ...]
    custom_ops: tuple[str, ...]
    """domain::operator of operators that are not ONNX's own; a runtime may lack them."""
    precision: Precision
    """int8 with quantised operators, int4 with 4-bit ones, fp16 where every floating weight is float16, else fp32."""


def inspect(path: Path) -> OnnxInfo:
    """Read and check a file.

    Raises:
        ModelError: missing, empty, truncated, not ONNX, invalid, without its external data, or with NaN or infinite weights.
        ToolchainMissing: without the package onnx.
    """
    model = _load(path)
    graph = model.graph
    external = _external_files(model, path)
    _check(path)
    _require_finite(model, path)
    initialisers = {i.name for i in graph.initializer}
    inputs = [i for i in graph.input if i.name not in initialisers]
    return OnnxInfo(
        path=path,
        inputs=tuple(tensor_spec(i) for i in inputs),
        outputs=tuple(tensor_spec(o) for o in graph.output),
        symbols={i.name: tuple(_symbol(d) for d in i.type.tensor_type.shape.dim) for i in inputs},
        opsets={o.domain: o.version for o in model.opset_import},
        ir=model.ir_version,
        parameters=sum(math.prod(i.dims) for i in graph.initializer if i.dims),
        size_bytes=path.stat().st_size + sum((path.parent / name).stat().st_size for name in external),
        external_data=external,
        custom_ops=tuple(sorted({f"{n.domain}::{n.op_type}" for n in _nodes(graph) if _is_custom(n)})),
        precision=_precision(model),
    )


def _is_custom(node: "NodeProto") -> bool:
    return node.domain not in STANDARD_DOMAINS and not (node.domain == "com.microsoft" and node.op_type in OF_ONNXRUNTIME)


def _precision(model: "ModelProto") -> Precision:
    from onnx import TensorProto

    kinds = {node.op_type for node in _nodes(model.graph)}
    if kinds & QUANTISED or any(kind.startswith("QLinear") for kind in kinds):
        return Precision.INT8
    if "MatMulNBits" in kinds:
        return Precision.INT4
    floats = {i.data_type for i in model.graph.initializer} & {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}
    return Precision.FP16 if floats == {TensorProto.FLOAT16} else Precision.FP32


def _nodes(graph: "GraphProto") -> "Iterator[NodeProto]":
    """Of a graph and of those inside its nodes (If, Loop, Scan)."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _nodes(inner)


def make_inputs(
    info: FileInfo,
    *,
    shapes: Mapping[str, tuple[int, ...]],
    files: Mapping[str, Path],
    seed: int,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, np.ndarray]:
    """Inputs to measure a network with: the given files, else random values of the given or the fixed shape.

    Floating inputs are standard normal, integer inputs 0 or 1 (small enough for any table they may index), boolean inputs coin flips.
    A dynamic first dimension alone is taken as the batch and set to 1, which `note` is told.

    Args:
        shapes: by input name (`--shape`). files: .npy files by input name (`--input`).

    Raises:
        ConfigError: lists every input that is unknown, lacks a shape, or is given in a wrong shape or type, with the option to add.
    """
    known = {spec.name: spec for spec in info.inputs}
    problems = [f"there is no input {name!r}; the inputs are {', '.join(known)}" for name in sorted({*shapes, *files} - set(known))]
    random = np.random.default_rng(seed)
    made: dict[str, np.ndarray] = {}
    for name, spec in known.items():
        try:
            if name in files:
                made[name] = _from_file(spec, files[name])
            else:
                made[name] = _random(spec, _shape(spec, info.symbols[name], shapes.get(name), note), random)
        except ConfigError as error:
            problems.append(error.what)
    if problems:
        raise ConfigError(f"inputs of {info.path.name}: {problems[0]}", problems=tuple(problems))
    return made


def tensor_spec(value: "ValueInfoProto") -> TensorSpec:
    """An ONNX value as a record; a dimension without a number is None.

    Raises:
        ModelError: not a tensor (a sequence, a map).
    """
    from onnx import helper

    if not value.type.HasField("tensor_type"):
        raise ModelError(f"{value.name} is not a tensor", hint="only tensors can be sent to a target")
    tensor = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    return TensorSpec(name=value.name, shape=shape, dtype=str(helper.tensor_dtype_to_np_dtype(tensor.elem_type)))


def _load(path: Path) -> "ModelProto":
    """Parse without external data. Protobuf takes many kinds of junk for an empty model: nodes are required."""
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ImportError as error:
        raise ToolchainMissing("reading ONNX files needs the package onnx", hint='pip install "edgec[onnxruntime]"') from error
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}", hint="check the path") from error
    if not data:
        raise ModelError(f"{path} is empty", hint="the export or the copy did not finish")
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ModelError(f"{path} is not an ONNX file, or is cut off", hint="export or copy it again") from error
    if not model.graph.node or not model.opset_import:
        raise ModelError(f"{path} holds no ONNX graph", hint="is it another format, or cut off?")
    return model


def _external_files(model: "ModelProto", path: Path) -> tuple[str, ...]:
    """Files beside the model that hold weights; each must be there, beneath the model's folder and long enough."""
    names: dict[str, int] = {}
    for tensor in model.graph.initializer:
        entries = {e.key: e.value for e in tensor.external_data}
        if "location" in entries:
            end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
            names[entries["location"]] = max(names.get(entries["location"], 0), end)
    for name, end in names.items():
        file = (path.parent / name).resolve()
        if not file.is_relative_to(path.parent.resolve()):
            raise ModelError(f"{path} keeps weights outside its folder: {name}", hint="save it in one file")
        if not file.is_file():
            raise ModelError(f"{path} keeps its weights in {name}, which is missing", hint="copy it beside the model, or save in one file")
        if file.stat().st_size < end:
            raise ModelError(f"{path} keeps its weights in {name}, which is cut off", hint="copy it again")
    return tuple(sorted(names))


def _check(path: Path) -> None:
    import onnx

    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{path} is not valid ONNX: {str(error).strip().splitlines()[0]}", hint="export it again") from error


def _require_finite(model: "ModelProto", path: Path) -> None:
    for tensor in model.graph.initializer:
        array = _array(tensor, path)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ModelError(
                f"{path}: weight {tensor.name} holds NaN or infinite values", hint="the training diverged, or the file is damaged"
            )


def _array(tensor: "TensorProto", path: Path) -> np.ndarray:
    from onnx import numpy_helper

    try:
        return numpy_helper.to_array(tensor, base_dir=str(path.parent))
    except (ValueError, TypeError) as error:
        raise ModelError(f"{path}: weight {tensor.name} cannot be read", hint=str(error)) from error


def _symbol(dimension: "TensorShapeProto.Dimension") -> str:
    if dimension.HasField("dim_value"):
        return ""
    return dimension.dim_param or "?"


def _option(spec: TensorSpec, symbols: tuple[str, ...]) -> str:
    """The command-line option that would give this input's shape."""
    return f"--shape {spec.name}=" + ",".join(str(d) if d is not None else f"<{s}>" for d, s in zip(spec.shape, symbols, strict=True))


def _shape(spec: TensorSpec, symbols: tuple[str, ...], given: tuple[int, ...] | None, note: Callable[[str], None]) -> tuple[int, ...]:
    if given is not None:
        if len(given) != len(spec.shape) or any(d is not None and d != g for d, g in zip(spec.shape, given, strict=True)):
            raise ConfigError(f"{spec.name} has shape {_text(spec, symbols)}, not {','.join(map(str, given))}")
        if min(given, default=1) < 1:
            raise ConfigError(f"{spec.name}: dimensions are at least 1, not {','.join(map(str, given))}")
        return given
    dynamic = [i for i, d in enumerate(spec.shape) if d is None]
    if dynamic == [0]:
        note(f"{spec.name} has a dynamic batch: 1 is taken; {_option(spec, symbols)} sets another")
    elif dynamic:
        raise ConfigError(f"{spec.name} has shape {_text(spec, symbols)}: add {_option(spec, symbols)}, or --input {spec.name}=FILE.npy")
    return tuple(1 if d is None else d for d in spec.shape)


def _text(spec: TensorSpec, symbols: tuple[str, ...]) -> str:
    return ",".join(str(d) if d is not None else s for d, s in zip(spec.shape, symbols, strict=True))


def _from_file(spec: TensorSpec, file: Path) -> np.ndarray:
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{spec.name}: {file} is not a readable .npy file") from error
    if not isinstance(array, np.ndarray):
        raise ConfigError(f"{spec.name}: {file} holds several arrays; give a .npy file")
    if array.dtype != np.dtype(spec.dtype):
        raise ConfigError(f"{spec.name} is {spec.dtype}, {file} holds {array.dtype}")
    if array.ndim != len(spec.shape) or any(d is not None and d != g for d, g in zip(spec.shape, array.shape, strict=True)):
        raise ConfigError(f"{spec.name} has shape {_text(spec, tuple('?' for _ in spec.shape))}, {file} holds {array.shape}")
    return array


def _random(spec: TensorSpec, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    dtype = np.dtype(spec.dtype)
    size = math.prod(shape) * max(dtype.itemsize, 8)
    if size > LARGEST_INPUT:
        raise ConfigError(f"{spec.name} of shape {','.join(map(str, shape))} takes {size / 1e9:.1f} GB", hint="give a smaller --shape")
    if dtype.kind == "f":
        return random.standard_normal(shape).astype(dtype)
    if dtype.kind in "iub":
        return random.integers(0, 2, shape).astype(dtype)
    raise ConfigError(f"{spec.name} is {spec.dtype}: add --input {spec.name}=FILE.npy")
