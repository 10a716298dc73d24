"""Where does a lowered network begin to compute something else? Every inner value of both forms on the same inputs, in the order of the
network; the first that is further off than the tolerance is the first layer that diverges.

Values are found by name in ONNX files (the exporter keeps the network's), and by content in TFLite files, which are laid out anew.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from edgec.pipeline import onnx_graph, onnx_run, parity
from edgec.pipeline.core.errors import ParityFailed

if TYPE_CHECKING:
    from torch import fx

Values = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """The first layer that diverges, how far, and the last one before it that does not (empty: none)."""

    layer: str
    reason: str
    agrees_up_to: str = ""

    def __str__(self) -> str:
        after = f", after {self.agrees_up_to}" if self.agrees_up_to else ""
        return f"the first layer that diverges is {self.layer}{after} ({self.reason})"


def first(reference: Values, subject: Values, tolerance: Mapping[str, float]) -> Divergence | None:
    """The first layer of `reference`, in its order, whose value in `subject` is beyond the tolerance; None when none is.

    Layers that one of both lacks (fused away) are passed over. Agreement of classes is not asked of inner values.
    """
    bounds = {key: value for key, value in tolerance.items() if key != "top1_agreement"}
    before = ""
    for layer, value in reference.items():
        if layer not in subject:
            continue
        try:
            seen = parity.compare({"value": value}, {"value": subject[layer]}, names=("reference", "subject"), tolerance=bounds)
        except ParityFailed as error:  # another shape, or not finite
            return Divergence(layer=layer, reason=error.what, agrees_up_to=before)
        if not seen.passed:
            return Divergence(layer=layer, reason=seen.reason, agrees_up_to=before)
        before = layer
    return None


def onnx_values(file: Path, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Last value of each layer of an ONNX file, run node by node as written; keys are layers' names and tensors' names alike.

    Raises:
        LoweringError: onnxruntime refuses the file.
    """
    model, tensors = onnx_graph.with_values(onnx.load(file))
    outputs = onnx_run.run(model.SerializeToString(), [inputs], optimise=False)[0]
    found: dict[str, np.ndarray] = {}
    for tensor, node in tensors:
        for key in (tensor, tensor.removesuffix("/dq"), layer_of(node)):
            found.pop(key, None)  # a layer stands where its last node does
            found[key] = outputs[tensor]
    return found


def of_network(network: Any, file: Path, inputs: Mapping[str, np.ndarray], tolerance: Mapping[str, float]) -> Divergence | None:
    """Of an ONNX or TFLite file against the torch network that it was made from.

    Args:
        network: an nn.Module that can be traced, or a QuantNet.
        inputs: by name, in the order of the network's arguments.

    Raises:
        LoweringError: the file cannot be run.
    """
    reference, names = _network_values(network, tuple(inputs.values()), fused=file.suffix == ".tflite")
    subject = tflite_values(file, inputs, reference, tolerance) if file.suffix == ".tflite" else onnx_values(file, inputs)
    found = first(reference, subject, tolerance)
    if found is None:
        return None
    return replace(found, layer=names[found.layer], agrees_up_to=names.get(found.agrees_up_to, ""))


def _network_values(network: Any, inputs: tuple[np.ndarray, ...], *, fused: bool) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Value of each node by the name that it has in a lowered file (the layer's for float networks, the node's for quantised ones, where
    only values on a grid are kept), and the layer of each key.

    Args:
        fused: leave out values that an activation behind takes in.
    """
    import torch
    from torch import fx

    from edgec.pipeline.compress.folding import fold
    from edgec.pipeline.compress.quantise import QuantNet, Run
    from edgec.pipeline.compress.sites import is_absorbed

    folded = network.folded if isinstance(network, QuantNet) else fold(network)
    seen: dict[str, np.ndarray] = {}
    names: dict[str, str] = {}
    quantised = isinstance(network, QuantNet)

    def keep(node: "fx.Node", value: Any) -> Any:
        hidden = node.op in ("placeholder", "get_attr", "output") or (fused and is_absorbed(folded, node))
        if isinstance(value, torch.Tensor) and not hidden:
            layer = str(node.target) if node.op == "call_module" else node.name
            key = node.name if quantised else layer
            seen[key], names[key] = value.detach().numpy(), layer
        return value

    class Recorder(fx.Interpreter):
        def run_node(self, n: "fx.Node") -> Any:
            return keep(n, super().run_node(n))

    class QuantRecorder(Run):
        def run_node(self, n: "fx.Node") -> Any:
            value = super().run_node(n)
            return keep(n, value) if n.name in self.net.site_of else value

    with torch.no_grad():
        recorder = QuantRecorder(network) if isinstance(network, QuantNet) else Recorder(folded)
        recorder.run(*(torch.from_numpy(array) for array in inputs))
    return seen, names


def tflite_values(file: Path, inputs: Mapping[str, np.ndarray], reference: Values, tolerance: Mapping[str, float]) -> dict[str, np.ndarray]:
    """The values of `reference` that a TFLite file has in some layout, each in the reference's; what it lacks before the last is given as
    the nearest tensor of the same size.

    Values that one fused operator hides are left out: those whose sorted content no tensor comes near (half of the largest value) to.
    """
    from edgec.pipeline.tflite_file import interpreter_of

    net = interpreter_of(file, all_tensors=True)
    for detail in net.get_input_details():
        net.set_tensor(detail["index"], inputs[detail["name"]])
    net.invoke()
    tensors = [np.sort(t, axis=None) for t in _float_tensors(net)]
    bound = tolerance.get("max_rel", tolerance.get("max_abs_over_std", 0.3) / 4)
    found: dict[str, np.ndarray] = {}
    for layer, value in reference.items():
        wanted = np.sort(value, axis=None)
        near = [t for t in tensors if t.size == wanted.size]
        if not near:
            continue
        errors = [float(np.abs(t - wanted).max()) for t in near]
        best, largest = int(np.argmin(errors)), float(np.abs(wanted).max())
        if errors[best] <= bound * largest:
            found[layer] = value
        elif errors[best] <= 0.5 * largest:
            order = np.argsort(value, axis=None)
            moved = np.empty(value.size)
            moved[order] = near[best]
            found[layer] = moved.reshape(value.shape)
    return found


def _float_tensors(net: Any) -> Iterator[np.ndarray]:
    """Computed tensors of an interpreter as real numbers."""
    for detail in net.get_tensor_details():
        try:
            tensor = net.get_tensor(detail["index"])
        except ValueError:  # never allocated: folded into another
            continue
        scales = detail["quantization_parameters"]["scales"]
        if tensor.dtype == np.float32:
            yield tensor
        elif tensor.dtype == np.int8 and len(scales) == 1:
            yield (tensor.astype(np.float32) - detail["quantization_parameters"]["zero_points"][0]) * scales[0]


def layer_of(node: str) -> str:
    """The layer that an ONNX node belongs to: its own name, or its scope in the exporter's (/block/conv/Conv is block.conv)."""
    if not node.startswith("/"):
        return re.sub(r"/\d+$", "", node)
    return node.strip("/").rpartition("/")[0].rpartition("/")[2] or node
