"""A TensorRT engine from an ONNX file, through the Python API of whichever version the board has: 8.2 to 11, and TensorRT-RTX.

What differs between versions is asked of the module, never concluded from its number (tests/unit/fixtures/tensorrt-api.json has the names
of each version, read from the vendor's binding sources):

    explicit batch       a flag up to 10.16, always on in 11 and in RTX
    workspace            config.max_workspace_size in 8.2, memory pools from 8.4 on
    precision            flags FP16 and INT8 up to 10.16; from 11 on, and in RTX, the network's own types decide ("strongly typed")
    timing cache         all; without effect and deprecated in RTX

int8 is what the network's QuantizeLinear and DequantizeLinear say (explicit precision, since 8.0); no calibrator is used. Its other layers
may run in fp16 where the flags decide.

Seen at work: TensorRT-RTX 1.7 (builds without a GPU). The other versions are held by contract tests only.
"""

import hashlib
import importlib
import os
import time
from typing import Any, Dict, List, Optional

from edgec.targets.agent.builders import problems
from edgec.targets.agent.wire import Failure, Fields

PACKAGES = ("tensorrt", "tensorrt_rtx")
"""Best first. The same API under two names."""
DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
    "BF16": "bfloat16",
}
"""TensorRT's names to NumPy's. `tensorrt.nptype` of the 8 series fails under a NumPy without np.bool."""


class Plan:
    """What to build: the fields of `replies.EngineJob`."""

    def __init__(self, fields: Fields) -> None:
        self.precision = fields.text("precision")
        self.batch = fields.whole("batch", 1, 1, 65536)
        self.workspace_bytes = fields.whole("workspace_bytes", 1 << 28, 1 << 20)
        self.capabilities = [str(each) for each in fields.array("capabilities")]
        """TensorRT-RTX only: GPU generations to build for (SM86, …); none: the one that is here."""
        if self.precision not in ("fp32", "fp16", "int8"):
            raise Failure("ProtocolViolation", "there is no precision %r" % self.precision)


def package() -> str:
    """The first of PACKAGES that imports.

    Raises:
        Failure: ToolchainMissing, with the reason of each.
    """
    reasons = []
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            reasons.append(str(error))
        else:
            return name
    raise Failure("ToolchainMissing", "no TensorRT for Python: %s" % "; ".join(reasons))


def build(trt: Any, plan: Plan, network: str, engine: str, timings: str = "") -> Dict[str, Any]:
    """Read `network` and write `engine`. `timings` is the timing cache's file; it is used and brought up to date.

    Answers what `replies.BuiltEngine` holds, but for the file's digest.

    Raises:
        Failure: LoweringError or ModelError when TensorRT refuses, with the layer where it names one; ToolchainMissing without a GPU.
    """
    log, version = logger(trt), str(trt.__version__)
    builder = trt.Builder(log)
    if builder is None:
        raise problems.build_failure(log.lines, version)
    config = builder.create_builder_config()
    _limit_workspace(trt, config, plan.workspace_bytes)
    flags = _precision_flags(trt, builder, config, plan.precision, version)
    definition = builder.create_network(_creation_flags(trt))
    parser = trt.OnnxParser(definition, log)
    if not parser.parse_from_file(network):
        said = [str(parser.get_error(i).desc()) for i in range(parser.num_errors)]
        raise problems.refusal(log.lines or said, version)
    _fix_shapes(builder, config, definition, plan.batch)
    _choose_capabilities(trt, config, plan.capabilities)
    cached = _read_timings(trt, config, timings) if timings else "none"
    start = time.monotonic()
    blob = builder.build_serialized_network(definition, config)
    took = time.monotonic() - start
    if blob is None:
        raise problems.build_failure(log.lines, version)
    _write(engine, blob)
    if cached != "none":
        _write_timings(config, timings)
    return {
        "builder": trt.__name__,
        "version": version,
        "build_s": took,
        "size_bytes": os.path.getsize(engine),
        "layers": int(definition.num_layers),
        "flags": flags,
        "timing_cache": cached,
        "inputs": [_described(definition.get_input(i), plan.batch) for i in range(definition.num_inputs)],
        "outputs": [_described(definition.get_output(i), plan.batch) for i in range(definition.num_outputs)],
    }


def logger(trt: Any) -> Any:
    """An ILogger that keeps warnings and errors as lines of text; errors in `lines`."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: List[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity.name in ("INTERNAL_ERROR", "ERROR"):
                self.lines.append(message[:4000])

    return Log()


def is_strongly_typed(trt: Any) -> bool:
    """Whether the network's own types decide on the arithmetic: there are no precision flags."""
    return not hasattr(trt.BuilderFlag, "FP16")


def _creation_flags(trt: Any) -> int:
    kinds = trt.NetworkDefinitionCreationFlag
    return 1 << int(kinds.EXPLICIT_BATCH) if hasattr(kinds, "EXPLICIT_BATCH") else 0


def _limit_workspace(trt: Any, config: Any, size: int) -> None:
    if hasattr(config, "set_memory_pool_limit"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size)
    else:
        config.max_workspace_size = size


def _precision_flags(trt: Any, builder: Any, config: Any, precision: str, version: str) -> List[str]:
    """Set what the precision asks for; refuse what this GPU has no fast arithmetic for."""
    if is_strongly_typed(trt):
        return []
    for kind in ("fp16", "int8"):
        if precision == kind and not getattr(builder, "platform_has_fast_" + kind):
            nearest = "fp16" if kind == "int8" and builder.platform_has_fast_fp16 else "fp32"
            what = "this GPU has no fast %s arithmetic (TensorRT %s says so); use %s" % (kind, version, nearest)
            raise Failure("LoweringError", what, precision=precision, nearest=nearest)
    wanted = {"fp32": [], "fp16": ["FP16"], "int8": ["INT8", "FP16"]}[precision]
    if precision == "int8" and not builder.platform_has_fast_fp16:
        wanted = ["INT8"]
    for name in wanted:
        config.set_flag(getattr(trt.BuilderFlag, name))
    return wanted


def _fix_shapes(builder: Any, config: Any, definition: Any, batch: int) -> None:
    """One profile in which every dynamic batch is `batch`.

    Raises:
        Failure: LoweringError, when another dimension is dynamic.
    """
    dynamic = []
    for i in range(definition.num_inputs):
        tensor = definition.get_input(i)
        shape = [int(size) for size in tensor.shape]
        if any(size < 0 for size in shape[1:]):
            what = "input %s has dynamic dimensions beside the batch: %s" % (tensor.name, shape)
            raise Failure("LoweringError", what + "; export it with fixed ones", input=str(tensor.name))
        if shape and shape[0] < 0:
            dynamic.append((str(tensor.name), [batch, *shape[1:]]))
    if dynamic:
        profile = builder.create_optimization_profile()
        for name, shape in dynamic:
            profile.set_shape(name, shape, shape, shape)
        config.add_optimization_profile(profile)


def _choose_capabilities(trt: Any, config: Any, capabilities: List[str]) -> None:
    if not capabilities:
        return
    known = getattr(trt, "ComputeCapability", None)
    if known is None:
        raise Failure("LoweringError", "this TensorRT builds for the GPU that is here only, not for %s" % ", ".join(capabilities))
    config.num_compute_capabilities = len(capabilities)
    for i, name in enumerate(capabilities):
        if not hasattr(known, name):
            raise Failure("LoweringError", "TensorRT-RTX %s does not build for %s" % (trt.__version__, name), asked=name)
        config.set_compute_capability(getattr(known, name), i)


def _read_timings(trt: Any, config: Any, path: str) -> str:
    """Give the builder what earlier builds on this device measured: used, new (there was none) or damaged (it was left aside)."""
    if trt.__name__ == "tensorrt_rtx":
        return "none"
    kept = read_sealed(path)
    cache = config.create_timing_cache(kept or b"")
    taken = config.set_timing_cache(cache, False)
    if taken:
        return "used" if kept else "damaged" if kept is not None else "new"
    config.set_timing_cache(config.create_timing_cache(b""), False)
    return "damaged"


def _write_timings(config: Any, path: str) -> None:
    cache = config.get_timing_cache()
    if cache is not None:
        write_sealed(path, bytes(cache.serialize()))


def read_sealed(path: str) -> Optional[bytes]:
    """The content of a file that `write_sealed` wrote: None without a file, empty when its hash does not fit."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return None
    content = data[32:]
    return content if hashlib.sha256(content).digest() == data[:32] else b""


def write_sealed(path: str, content: bytes) -> None:
    """Write a file with its SHA-256 before it, whole or not at all."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    _write(path, hashlib.sha256(content).digest() + content)


def _write(path: str, data: Any) -> None:
    temporary = path + ".tmp"
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _described(tensor: Any, batch: int) -> Dict[str, Any]:
    shape = [int(size) for size in tensor.shape]
    if shape and shape[0] < 0:
        shape[0] = batch
    dtype = str(tensor.dtype.name)
    return {"name": str(tensor.name), "shape": [size if size >= 0 else None for size in shape], "dtype": DTYPES.get(dtype, dtype)}
