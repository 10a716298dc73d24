"""ONNX Runtime on the device, CPU execution provider.

Threads: `intra_op_num_threads` as asked, operators one after another, all graph optimisations
(onnxruntime.ai/docs/performance/tune-performance/threading.html). The provider is synchronous: `run` returns when the outputs are in
host memory, so timing it is timing from inputs in memory to outputs in memory.
"""

from typing import Any, ClassVar, Dict, List, Tuple

DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int16)": "int16",
    "tensor(uint16)": "uint16",
    "tensor(int32)": "int32",
    "tensor(uint32)": "uint32",
    "tensor(int64)": "int64",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
}


class OnnxRuntimeRunner:
    """One session. Nothing of the runtime is imported before `open`."""

    needs: ClassVar[List[str]] = ["numpy"]
    packages: ClassVar[List[Tuple[str, List[str]]]] = [("onnxruntime", ["onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"])]
    modules: ClassVar[Dict[str, str]] = {"onnxruntime": "onnxruntime"}

    def __init__(self) -> None:
        self.version = ""
        self._session: Any = None

    def open(self, path: str, options: Dict[str, Any]) -> None:
        """Load a network. `options["threads"]` is at least 1."""
        import onnxruntime

        self.version = str(onnxruntime.__version__)
        how = onnxruntime.SessionOptions()
        how.intra_op_num_threads = int(options["threads"])
        how.inter_op_num_threads = 1
        how.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        how.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        how.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(path, how, providers=["CPUExecutionProvider"])

    @property
    def inputs(self) -> List[Dict[str, Any]]:
        """Name, shape (None: any size) and NumPy type of each input, in order."""
        return [_described(each) for each in self._session.get_inputs()]

    @property
    def outputs(self) -> List[Dict[str, Any]]:
        """Name, shape and type of each output, in order."""
        return [_described(each) for each in self._session.get_outputs()]

    def infer(self, inputs: Dict[str, Any]) -> Dict[str, Any]:
        """Outputs by name, in order."""
        names = [each.name for each in self._session.get_outputs()]
        return dict(zip(names, self._session.run(None, inputs)))

    def prepared(self, inputs: Dict[str, Any]) -> Any:
        """A function without arguments that does nothing but the inference: what the latency measurement times."""
        session = self._session
        return lambda: session.run(None, inputs)

    def close(self) -> None:
        """Let go of the network."""
        self._session = None


def _described(tensor: Any) -> Dict[str, Any]:
    shape = [size if isinstance(size, int) else None for size in tensor.shape]
    return {"name": tensor.name, "shape": shape, "dtype": DTYPES.get(tensor.type, tensor.type)}


RUNNER = OnnxRuntimeRunner
