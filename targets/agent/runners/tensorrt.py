"""TensorRT engines on the device: versions 8.2 to 11, and TensorRT-RTX.

Two interfaces, asked of the engine, never concluded from the version: tensors by name with `execute_async_v3` (8.5 and later), bindings by
index with `execute_async_v2` (up to 8.6). Inputs are copied to the device and outputs back on the same stream, and `prepared` returns
after it is done: timing one call is timing from inputs in host memory to outputs in host memory.

An input whose optimisation profile holds a single size has that size. Held by contract tests; not seen at work on a GPU yet.
"""

import importlib
from typing import Any, Callable, ClassVar, Dict, List, Tuple

from edgec.targets.agent.builders import problems
from edgec.targets.agent.builders.tensorrt import DTYPES, logger
from edgec.targets.agent.cuda import Cuda
from edgec.targets.agent.wire import Failure


class TensorRtRunner:
    """One engine and its execution context. Nothing of the runtime is imported before `open`."""

    needs: ClassVar[List[str]] = ["numpy"]
    packages: ClassVar[List[Tuple[str, List[str]]]] = [
        ("tensorrt", ["tensorrt", "tensorrt-cu11", "tensorrt-cu12", "tensorrt-cu13"]),
        ("tensorrt_rtx", ["tensorrt-rtx"]),
    ]
    modules: ClassVar[Dict[str, str]] = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt_rtx"}

    def __init__(self) -> None:
        self.version = ""
        self._cuda: Any = None
        self._tensors: Any = None
        self._kept: List[Any] = []
        self._places: Dict[str, Tuple[int, int]] = {}

    def open(self, path: str, options: Dict[str, Any]) -> None:
        """Load an engine. `options["package"]` is one of `packages`, which imports.

        Raises:
            Failure: ToolchainMissing without a driver; ModelError for an engine of another version or kind of GPU, with the reason.
        """
        trt = importlib.import_module(self.modules[options["package"]])
        self.version = "%s (%s)" % (trt.__version__, options["package"])
        self._cuda = Cuda()
        self._cuda.open()
        with open(path, "rb") as file:
            data = file.read()
        log = logger(trt)
        runtime = trt.Runtime(log)
        engine = runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise problems.other_engine(log.lines, str(trt.__version__), data[:4])
        context = engine.create_execution_context()
        if context is None:
            raise Failure("ModelError", "the engine has no place in the GPU's memory: %s" % "; ".join(log.lines[-2:]))
        self._kept = [log, runtime, engine]  # they must outlive the context
        self._tensors = (NamedTensors if hasattr(engine, "num_io_tensors") else Bindings)(trt, engine, context)

    @property
    def inputs(self) -> List[Dict[str, Any]]:
        """Name, shape (None: any size) and NumPy type of each input, in order."""
        return list(self._tensors.described(True))

    @property
    def outputs(self) -> List[Dict[str, Any]]:
        """Name, shape and type of each output, in order."""
        return list(self._tensors.described(False))

    def infer(self, inputs: Dict[str, Any]) -> Dict[str, Any]:
        """Outputs by name, in order."""
        return dict(zip([each["name"] for each in self.outputs], self.prepared(inputs)()))

    def prepared(self, inputs: Dict[str, Any]) -> Callable[[], List[Any]]:
        """A function without arguments that does nothing but the copies and the inference: what the latency measurement times.

        It is good until `prepared` is called again, and writes its results into the same arrays each time.
        """
        import numpy as np

        cuda, tensors = self._cuda, self._tensors
        arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        for name, array in arrays.items():
            tensors.set_shape(name, array.shape)
        places, fed, taken = {}, [], []
        for each in self.inputs:
            array = arrays[each["name"]]
            places[each["name"]] = self._place(each["name"], array.nbytes)
            fed.append((places[each["name"]], array.ctypes.data, array.nbytes))
        results = []
        for each in self.outputs:
            array = np.empty(tensors.shape(each["name"]), each["dtype"])
            places[each["name"]] = self._place(each["name"], array.nbytes)
            taken.append((array.ctypes.data, places[each["name"]], array.nbytes))
            results.append(array)
        run, stream = tensors.execution(places), int(cuda.stream.value or 0)

        def once() -> List[Any]:
            for device, host, size in fed:
                cuda.to_device(device, host, size)
            if not run(stream):
                raise RuntimeError("TensorRT did not run the engine")
            for host, device, size in taken:
                cuda.to_host(host, device, size)
            cuda.wait()
            assert arrays  # the inputs live as long as this function
            return results

        return once

    def _place(self, name: str, size: int) -> int:
        """Device memory of a tensor; it is kept from one inference to the next, and made anew where it is too small."""
        place, room = self._places.get(name, (0, -1))
        if room < size:
            place, room = self._cuda.allocate(size), size
            self._places[name] = (place, room)
        return place

    def close(self) -> None:
        """Let go of the engine and of the device's memory."""
        self._tensors, self._kept, self._places = None, [], {}
        if self._cuda is not None:
            self._cuda.close()
            self._cuda = None


class NamedTensors:
    """Tensors by name: TensorRT 8.5 and later."""

    def __init__(self, trt: Any, engine: Any, context: Any) -> None:
        self._trt, self._engine, self._context = trt, engine, context
        self._names = [str(engine.get_tensor_name(i)) for i in range(engine.num_io_tensors)]

    def described(self, is_input: bool) -> List[Dict[str, Any]]:
        """Name, shape and type of each input or output."""
        engine, mode = self._engine, self._trt.TensorIOMode.INPUT if is_input else self._trt.TensorIOMode.OUTPUT
        names = [name for name in self._names if engine.get_tensor_mode(name) == mode]
        return [_entry(name, self._size(name, is_input), engine.get_tensor_dtype(name)) for name in names]

    def _size(self, name: str, is_input: bool) -> List[int]:
        shape = list(self._engine.get_tensor_shape(name))
        return narrowed(shape, self._engine.get_tensor_profile_shape(name, 0)) if is_input and -1 in shape else shape

    def set_shape(self, name: str, shape: Tuple[int, ...]) -> None:
        """Fix an input's shape."""
        if not self._context.set_input_shape(name, shape):
            raise ValueError("the engine's profile does not take %s for input %s" % (list(shape), name))

    def shape(self, name: str) -> Tuple[int, ...]:
        """A tensor's shape for the inputs that were set."""
        return tuple(int(size) for size in self._context.get_tensor_shape(name))

    def execution(self, places: Dict[str, int]) -> Callable[[int], bool]:
        """A function of the stream that runs the engine on these addresses."""
        for name, place in places.items():
            self._context.set_tensor_address(name, place)
        return lambda stream: bool(self._context.execute_async_v3(stream))


class Bindings:
    """Bindings by index: TensorRT 8.2 and 8.4."""

    def __init__(self, _trt: Any, engine: Any, context: Any) -> None:
        self._engine, self._context = engine, context
        self._names = [str(engine.get_binding_name(i)) for i in range(engine.num_bindings)]

    def described(self, is_input: bool) -> List[Dict[str, Any]]:
        """Name, shape and type of each input or output."""
        engine = self._engine
        places = [i for i in range(len(self._names)) if bool(engine.binding_is_input(i)) is is_input]
        return [_entry(self._names[i], self._size(i, is_input), engine.get_binding_dtype(i)) for i in places]

    def _size(self, place: int, is_input: bool) -> List[int]:
        shape = list(self._engine.get_binding_shape(place))
        return narrowed(shape, self._engine.get_profile_shape(0, place)) if is_input and -1 in shape else shape

    def set_shape(self, name: str, shape: Tuple[int, ...]) -> None:
        """Fix an input's shape."""
        place = self._names.index(name)
        if -1 in list(self._engine.get_binding_shape(place)) and not self._context.set_binding_shape(place, shape):
            raise ValueError("the engine's profile does not take %s for input %s" % (list(shape), name))

    def shape(self, name: str) -> Tuple[int, ...]:
        """A tensor's shape for the inputs that were set."""
        return tuple(int(size) for size in self._context.get_binding_shape(self._names.index(name)))

    def execution(self, places: Dict[str, int]) -> Callable[[int], bool]:
        """A function of the stream that runs the engine on these addresses."""
        addresses = [places[name] for name in self._names]
        return lambda stream: bool(self._context.execute_async_v2(addresses, stream))


def narrowed(shape: List[int], profile: Any) -> List[int]:
    """A shape with the profile's size where smallest and largest are the same."""
    low, _, high = (list(each) for each in profile)
    return [a if size < 0 and a == b else size for size, a, b in zip(shape, low, high)]


def _entry(name: str, shape: List[int], dtype: Any) -> Dict[str, Any]:
    kind = str(dtype.name)
    return {"name": name, "shape": [None if size < 0 else int(size) for size in shape], "dtype": DTYPES.get(kind, kind)}


RUNNER = TensorRtRunner
