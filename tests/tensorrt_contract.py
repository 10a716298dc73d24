"""A `tensorrt` module with exactly the names that one version has (unit/fixtures/tensorrt-api.json, from the vendor's binding sources).

Its "engine" is a JSON text of what it was asked for with the network inside, which ONNX Runtime runs on the addresses that it is given.
Any other name than the version's raises AttributeError, so a builder or runner that passes here calls nothing that the version lacks.
What the calls mean on hardware, and what TensorRT's kernels compute, is not shown by this.
"""

import base64
import ctypes
import json
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

TABLE = json.loads((Path(__file__).parent / "unit/fixtures/tensorrt-api.json").read_text())
VERSIONS: tuple[str, ...] = tuple(TABLE["tags"])
PARSE_ERROR = """While parsing node number 1 [{op} -> "{output}"]:
--- Begin node ---
input: "h"
output: "{output}"
name: "{name}"
op_type: "{op}"
--- End node ---
ERROR: builtin_op_importers.cpp:4000 In function importFallbackPluginImporter:
[8] Assertion failed: creator && "Plugin not found, are the plugin name, version, and namespace correct?"
"""
"""As TensorRT 8.2 logs it (ModelImporter.cpp, 8.2-GA)."""


def has(version: str, kind: str, name: str) -> bool:
    """Whether a version's class has a member."""
    return version in TABLE["classes"][kind].get(name, ())


def module(version: str, *, fast: tuple[str, ...] = ("fp16", "int8"), name: str = "tensorrt") -> Any:
    """The module; `calls` collects (class, member, arguments) of what was called."""
    made: Any = types.ModuleType(name)
    calls: list[tuple[Any, ...]] = []
    made.__version__, made.calls = version, calls

    def cut(kind: str, **members: Any) -> Any:
        """A class with those of the members that the version has; nothing else can be read or set."""
        unknown = [each for each in members if each not in TABLE["classes"][kind] and not each.startswith("_")]
        assert not unknown, f"no version of {kind} has {unknown}"
        kept = {key: value for key, value in members.items() if key.startswith("_") or has(version, kind, key)}

        def set_one(self: Any, key: str, value: Any) -> None:
            if not key.startswith("_") and not has(version, kind, key):
                raise AttributeError(f"{kind} of TensorRT {version} has no {key}")
            calls.append((kind, key, value))
            object.__setattr__(self, key, value)

        return type(kind, (), {**kept, "__setattr__": set_one})

    def noted(kind: str, key: str, answer: Any = None) -> Any:
        def method(_self: Any, *arguments: Any) -> Any:
            calls.append((kind, key, *arguments))
            return answer(*arguments) if callable(answer) else answer

        return method

    class ILogger:
        def log(self, severity: Any, message: str) -> None:
            raise NotImplementedError

    class Tensor:
        def __init__(self, value: Any) -> None:
            self.name = value.name
            self.shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim)
            self.dtype = types.SimpleNamespace(name="FLOAT")

    class Cache:
        def __init__(self, data: bytes) -> None:
            self.data = data

        def serialize(self) -> bytes:
            return self.data + b"timed;"

    def enumeration(kind: str) -> Any:
        names = [key for key, versions in TABLE["classes"][kind].items() if version in versions]
        return types.SimpleNamespace(**{key: i for i, key in enumerate(names)})

    explicit = getattr(enumeration("NetworkDefinitionCreationFlag"), "EXPLICIT_BATCH", None)

    def create_network(_self: Any, flags: int = 0) -> Any:
        if explicit is not None and not flags >> explicit & 1:
            raise AssertionError(f"TensorRT {version} reads ONNX with an explicit batch only")
        return network_class()

    network_class = cut(
        "INetworkDefinition",
        _model=None,
        num_layers=property(lambda self: len(self._model.graph.node)),
        num_inputs=property(lambda self: len(self._model.graph.input)),
        num_outputs=property(lambda self: len(self._model.graph.output)),
        get_input=lambda self, i: Tensor(self._model.graph.input[i]),
        get_output=lambda self, i: Tensor(self._model.graph.output[i]),
    )

    def parse_from_file(self: Any, path: str) -> bool:
        model = onnx.load(path)
        for node in model.graph.node:
            if node.op_type == "Unique":
                text = PARSE_ERROR.format(op=node.op_type, output=node.output[0], name=node.name)
                for line in (text.split("--- Begin")[0], "--- Begin" + text.split("--- Begin")[1]):
                    self._log.log(types.SimpleNamespace(name="ERROR"), line)
                return False
        object.__setattr__(self._network, "_model", model)
        return True

    def new_parser(self: Any, network: Any, log: Any) -> None:
        object.__setattr__(self, "_network", network)
        object.__setattr__(self, "_log", log)

    def build(_self: Any, network: Any, config: Any) -> bytes:
        shapes = [list(Tensor(i).shape) for i in (*network._model.graph.input, *network._model.graph.output)]
        names = [i.name for i in (*network._model.graph.input, *network._model.graph.output)]
        profile = next((call[2]._shapes for call in calls if call[:2] == ("IBuilderConfig", "add_optimization_profile")), {})
        text = base64.b64encode(network._model.SerializeToString()).decode()
        return json.dumps({"version": version, "names": names, "shapes": shapes, "profile": profile, "network": text}).encode()

    made.Builder = cut(
        "Builder",
        __init__=lambda self, log: None,
        create_network=create_network,
        create_builder_config=lambda self: config_class(),
        create_optimization_profile=lambda self: profile_class(),
        build_serialized_network=build,
        platform_has_fast_fp16=property(lambda self: "fp16" in fast),
        platform_has_fast_int8=property(lambda self: "int8" in fast),
    )
    config_class = cut(
        "IBuilderConfig",
        set_flag=noted("IBuilderConfig", "set_flag"),
        set_memory_pool_limit=noted("IBuilderConfig", "set_memory_pool_limit"),
        add_optimization_profile=noted("IBuilderConfig", "add_optimization_profile", 0),
        create_timing_cache=lambda self, data: Cache(data),
        set_timing_cache=noted("IBuilderConfig", "set_timing_cache", lambda cache, _: b"stranger" not in cache.data),
        get_timing_cache=lambda self: next(call[2] for call in reversed(calls) if call[1] == "set_timing_cache"),
    )

    def set_shape(self: Any, name: str, low: Any, best: Any, high: Any) -> None:
        object.__setattr__(self, "_shapes", {**self._shapes, name: [list(low), list(best), list(high)]})

    profile_class = cut("IOptimizationProfile", _shapes={}, set_shape=set_shape)
    made.OnnxParser = cut("OnnxParser", __init__=new_parser, parse_from_file=parse_from_file, num_errors=0)
    made.Runtime = cut("Runtime", __init__=lambda self, log: object.__setattr__(self, "_log", log), deserialize_cuda_engine=None)
    for kind in ("BuilderFlag", "MemoryPoolType", "NetworkDefinitionCreationFlag", "TensorIOMode"):
        if enumeration(kind).__dict__:
            setattr(made, kind, enumeration(kind))
    made.ILogger = ILogger
    made.Runtime.deserialize_cuda_engine = _deserialiser(made, cut, version)
    return made


def _deserialiser(made: Any, cut: Any, version: str) -> Any:
    """`Runtime.deserialize_cuda_engine`, its engine and its context."""

    def deserialize(self: Any, data: bytes) -> Any:
        plan = json.loads(data) if data[:1] == b"{" else {"version": "?"}
        if plan["version"] != version:
            text = f"The engine plan file is not compatible with this version of TensorRT, expecting library version {version}"
            self._log.log(types.SimpleNamespace(name="ERROR"), f"{text} got {plan['version']}, please rebuild.")
            return None
        names, shapes = plan["names"], dict(zip(plan["names"], plan["shapes"], strict=True))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(base64.b64decode(plan["network"]), options, providers=["CPUExecutionProvider"])
        is_input = {name: i == 0 for i, name in enumerate(names)}
        set_shapes: dict[str, tuple[int, ...]] = {}
        addresses: dict[str, int] = {}

        def shape_of(name: str) -> tuple[int, ...]:
            batch = next(iter(set_shapes.values()), (0,))[0]
            return tuple(batch if size < 0 else size for size in shapes[name])

        def set_shape(name: str, shape: tuple[int, ...]) -> bool:
            low, _, high = plan["profile"].get(name, [shape] * 3)
            set_shapes[name] = tuple(shape)
            return bool(low[0] <= shape[0] <= high[0])

        def run(places: dict[str, int], how: str) -> bool:
            made.calls.append(("IExecutionContext", how))
            (source,), (target,) = [[places[name] for name in names if is_input[name] is wanted] for wanted in (True, False)]
            x = np.ctypeslib.as_array(ctypes.cast(source, ctypes.POINTER(ctypes.c_float)), shape_of(names[0]))
            (y,) = session.run(None, {names[0]: x})
            ctypes.memmove(target, np.ascontiguousarray(y, np.float32).ctypes.data, y.size * 4)
            return True

        context = cut(
            "IExecutionContext",
            set_input_shape=lambda _, name, shape: set_shape(name, shape),
            get_tensor_shape=lambda _, name: shape_of(name),
            set_tensor_address=lambda _, name, place: addresses.update({name: place}) is None,
            execute_async_v3=lambda _, stream: run(addresses, "execute_async_v3"),
            set_binding_shape=lambda _, i, shape: set_shape(names[i], shape),
            get_binding_shape=lambda _, i: shape_of(names[i]),
            execute_async_v2=lambda _, bindings, stream: run(dict(zip(names, bindings, strict=True)), "execute_async_v2"),
        )
        dtype = types.SimpleNamespace(name="FLOAT")
        return cut(
            "ICudaEngine",
            create_execution_context=lambda _: context(),
            num_io_tensors=len(names),
            get_tensor_name=lambda _, i: names[i],
            get_tensor_mode=lambda _, name: made.TensorIOMode.INPUT if is_input[name] else made.TensorIOMode.OUTPUT,
            get_tensor_shape=lambda _, name: shapes[name],
            get_tensor_dtype=lambda _, name: dtype,
            get_tensor_profile_shape=lambda _, name, i: plan["profile"][name],
            num_bindings=len(names),
            get_binding_name=lambda _, i: names[i],
            binding_is_input=lambda _, i: is_input[names[i]],
            get_binding_shape=lambda _, i: shapes[names[i]],
            get_binding_dtype=lambda _, i: dtype,
            get_profile_shape=lambda _, profile, i: plan["profile"][names[i]],
        )()

    return deserialize


class FakeCuda:
    """libcuda.so.1 for ctypes: device memory is the host's. What `ctypes.CDLL` gives."""

    def __init__(self) -> None:
        self.live: dict[int, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: 0

    def cuDeviceGetName(self, text: Any, _size: Any, _device: Any) -> int:  # noqa: N802
        text.value = b"NVIDIA Tegra X1"
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: Any, _device: Any) -> int:  # noqa: N802
        value._obj.value = {75: 5, 76: 3}[attribute.value]
        return 0

    def cuDriverGetVersion(self, value: Any) -> int:  # noqa: N802
        value._obj.value = 10020
        return 0

    def cuMemAlloc_v2(self, place: Any, size: Any) -> int:  # noqa: N802
        block = ctypes.create_string_buffer(size.value)
        place._obj.value = ctypes.addressof(block)
        self.live[place._obj.value] = block
        return 0

    def cuMemFree_v2(self, place: Any) -> int:  # noqa: N802
        del self.live[place.value]
        return 0

    def cuMemcpyHtoDAsync_v2(self, device: Any, host: Any, size: Any, _stream: Any) -> int:  # noqa: N802
        ctypes.memmove(device.value, host.value, size.value)
        return 0

    def cuMemcpyDtoHAsync_v2(self, host: Any, device: Any, size: Any, _stream: Any) -> int:  # noqa: N802
        ctypes.memmove(host.value, device.value, size.value)
        return 0
