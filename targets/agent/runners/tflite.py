"""LiteRT (TensorFlow Lite) on the device, CPU with XNNPACK where the package has it.

Runs under whichever package is there: `ai_edge_litert` (Google's present one), `tflite_runtime` (its predecessor) or the whole of
`tensorflow`. All three have the same `Interpreter` (ai.google.dev/edge/litert/inference). It is synchronous: timing one call of the
prepared function is timing from inputs in memory to outputs in memory, the copies into and out of the interpreter's arena with it.

Tensors are known by their names in the file; one without a name, or with another's, is called by its place: input_0, output_1.
A dimension is dynamic where the file's shape signature says so; the interpreter is then resized to the inputs.
"""

import importlib
from typing import Any, ClassVar, Dict, List, Tuple

from edgec.targets.agent.facts import installed_version


class TfliteRunner:
    """One interpreter. Nothing of the runtime is imported before `open`."""

    needs: ClassVar[List[str]] = ["numpy"]
    packages: ClassVar[List[Tuple[str, List[str]]]] = [
        ("ai_edge_litert", ["ai-edge-litert", "ai-edge-litert-nightly"]),
        ("tflite_runtime", ["tflite-runtime"]),
        ("tensorflow", ["tensorflow", "tensorflow-cpu", "tensorflow-aarch64", "tensorflow-intel"]),
    ]
    modules: ClassVar[Dict[str, str]] = {
        "ai_edge_litert": "ai_edge_litert.interpreter",
        "tflite_runtime": "tflite_runtime.interpreter",
        "tensorflow": "tensorflow.lite.python.interpreter",
    }

    def __init__(self) -> None:
        self.version = ""
        self._interpreter: Any = None

    def open(self, path: str, options: Dict[str, Any]) -> None:
        """Load a network. `options["threads"]` is at least 1; `options["package"]` is one of `packages`, which imports."""
        package = options["package"]
        self.version = "%s (%s)" % (installed_version(dict(self.packages)[package]) or "unknown", package)
        module = importlib.import_module(self.modules[package])
        self._interpreter = module.Interpreter(model_path=path, num_threads=int(options["threads"]))
        self._interpreter.allocate_tensors()

    @property
    def inputs(self) -> List[Dict[str, Any]]:
        """Name, shape (None: any size) and NumPy type of each input, in order."""
        return described(self._interpreter.get_input_details(), "input")

    @property
    def outputs(self) -> List[Dict[str, Any]]:
        """Name, shape and type of each output, in order."""
        return described(self._interpreter.get_output_details(), "output")

    def infer(self, inputs: Dict[str, Any]) -> Dict[str, Any]:
        """Outputs by name, in order."""
        return dict(zip([each["name"] for each in self.outputs], self.prepared(inputs)()))

    def prepared(self, inputs: Dict[str, Any]) -> Any:
        """A function without arguments that does nothing but the inference: what the latency measurement times."""
        net = self._interpreter
        details = net.get_input_details()
        arrays = [inputs[each["name"]] for each in self.inputs]
        resized = [(d["index"], a.shape) for d, a in zip(details, arrays) if tuple(d["shape"]) != a.shape]
        for index, shape in resized:
            net.resize_tensor_input(index, shape)
        if resized:
            net.allocate_tensors()
        fed = [(each["index"], array) for each, array in zip(details, arrays)]
        asked = [each["index"] for each in net.get_output_details()]

        def once() -> List[Any]:
            for index, array in fed:
                net.set_tensor(index, array)
            net.invoke()
            return [net.get_tensor(index) for index in asked]

        return once

    def close(self) -> None:
        """Let go of the network."""
        self._interpreter = None


def described(details: List[Dict[str, Any]], kind: str) -> List[Dict[str, Any]]:
    """The interpreter's descriptions of tensors in the agent's form."""
    names = [str(each["name"]) for each in details]
    found = []
    for place, each in enumerate(details):
        name = names[place] if names[place] and names.count(names[place]) == 1 else "%s_%d" % (kind, place)
        signature = each.get("shape_signature", each["shape"])
        sizes = signature if len(signature) == len(each["shape"]) else each["shape"]
        found.append({"name": name, "shape": [None if size < 0 else int(size) for size in sizes], "dtype": each["dtype"].__name__})
    return found


RUNNER = TfliteRunner
