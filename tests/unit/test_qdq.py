from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import gratings, quantised
from onnx import TensorProto, helper, numpy_helper

from edgec.pipeline.backends.onnxruntime import BACKEND
from edgec.pipeline.compress.quantise import QuantNet
from edgec.pipeline.core.errors import LoweringError
from edgec.pipeline.core.records import TensorSpec
from edgec.pipeline.onnx_export import export_quantised
from edgec.pipeline.qdq import Form, Grid, form_for, insert


def test_integer_simulation_reproduces_onnxruntime(tmp_path: Path) -> None:
    """Integers in plain loops, requantised in float64. onnxruntime multiplies in float32: a few values fall on the other side of a tie."""
    net = quantised("vgg")
    path = export_quantised(net, (TensorSpec(name="input", shape=(None, 1, 12, 12)),), tmp_path / "q.onnx", dynamic_batch=True).path
    images = gratings(300, seed=2)[0].numpy()
    seen = BACKEND.infer(path, {"input": images})["output"]
    expected = simulated(net, images)
    assert (seen.argmax(1) == expected.argmax(1)).all()
    assert (np.abs(seen - expected).max(1) < 1e-3).mean() >= 0.99


def simulated(net: QuantNet, images: np.ndarray) -> np.ndarray:
    """The VGG-like network on integers only."""
    sites = net.table().sites
    x = np.clip(np.rint(images / np.float32(sites["x"].scale)) + sites["x"].zero_point, 0, 255).astype(np.int64)
    x = pooled(convolved(net, x, "features.0", "features_2"))
    x = pooled(convolved(net, x, "features.4", "features_6"))
    x = multiplied(net, x.reshape(len(x), -1), "head.0", "head_1")
    x = multiplied(net, x, "head.3", "head_3")
    return (x - sites["head_3"].zero_point) * sites["head_3"].scale


def integers(net: QuantNet, layer: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Weight and bias as integers, the scale of their products, the input's zero point."""
    weights, tensors = net.table().weights[layer], net.tensors()
    source = net.table().sites[weights.input]
    scales = np.array(weights.scales, np.float32)
    weight, bias = tensors[f"{layer}.weight"].numpy(), tensors[f"{layer}.bias"].numpy()
    rows = scales.reshape(-1, *[1] * (weight.ndim - 1))
    w = np.clip(np.rint(weight / rows), -127, 127).astype(np.int64)
    products = np.float32(source.scale) * scales
    return w, np.rint(bias / products).astype(np.int64), products.astype(np.float64), source.zero_point


def requantised(net: QuantNet, sums: np.ndarray, products: np.ndarray, site: str) -> np.ndarray:
    grid = net.table().sites[site]
    return np.clip(np.rint(sums * (products / grid.scale)) + grid.zero_point, 0, 255).astype(np.int64)


def convolved(net: QuantNet, x: np.ndarray, layer: str, site: str) -> np.ndarray:
    """3x3, padding 1 with the zero point; the ReLU is the grid's lower end."""
    w, bias, products, zero = integers(net, layer)
    n, _, height, width = x.shape
    padded = np.pad(x - zero, ((0, 0), (0, 0), (1, 1), (1, 1)))
    sums = np.empty((n, len(w), height, width), np.int64)
    for row in range(height):
        for column in range(width):
            sums[:, :, row, column] = np.einsum("nikl,oikl->no", padded[:, :, row : row + 3, column : column + 3], w) + bias
    return requantised(net, sums.transpose(0, 2, 3, 1), products, site).transpose(0, 3, 1, 2)


def pooled(x: np.ndarray) -> np.ndarray:
    n, channels, height, width = x.shape
    return x.reshape(n, channels, height // 2, 2, width // 2, 2).max((3, 5))


def multiplied(net: QuantNet, x: np.ndarray, layer: str, site: str) -> np.ndarray:
    w, bias, products, zero = integers(net, layer)
    return requantised(net, (x - zero) @ w.T + bias, products, site)


def graph_of(op: str, weight: np.ndarray, bias: np.ndarray | None = None, **attributes: int) -> onnx.ModelProto:
    names = ["x", "w"] + ([] if bias is None else ["b"])
    tensors = [numpy_helper.from_array(weight, "w")] + ([] if bias is None else [numpy_helper.from_array(bias, "b")])
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [None, weight.shape[-1]]), ("y", [None, None]))]
    graph = helper.make_graph([helper.make_node(op, names, ["y"], name="layer", **attributes)], "g", value[:1], value[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_insert_keeps_names_of_inputs_and_outputs_and_drops_float_weights() -> None:
    model = graph_of("Gemm", np.array([[0.5, -0.25], [1.0, 0.75]], np.float32), np.array([0.1, -0.2], np.float32), transB=1)
    insert(model, {"x": Grid(scale=0.1, zero_point=3), "y": Grid(scale=0.2, zero_point=7)}, {"w": (0.005, 0.01)})
    onnx.checker.check_model(model, full_check=True)
    assert [i.name for i in model.graph.input] == ["x"]
    assert [o.name for o in model.graph.output] == ["y"]
    stored = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    assert set(stored) & {"w", "b"} == set()
    assert stored["w/int"].tolist() == [[100, -50], [100, 75]]
    assert stored["b/int"].tolist() == [200, -200]
    assert stored["y/zero_point"].dtype == np.uint8


@pytest.mark.parametrize(
    ("form", "weights", "points"),
    [
        (Form.U8S8, [[100, -50], [100, 75]], ([3], [0, 0])),
        (Form.U8U8, [[228, 78], [228, 203]], ([3], [128, 128])),
        (Form.S8S8, [[100, -50], [100, 75]], ([-125], [0, 0])),
    ],
)
def test_a_form_moves_integers_by_128_and_leaves_scales(form: Form, weights: list[list[int]], points: tuple[list[int], list[int]]) -> None:
    model = graph_of("Gemm", np.array([[0.5, -0.25], [1.0, 0.75]], np.float32), transB=1)
    insert(model, {"x": Grid(scale=0.1, zero_point=3)}, {"w": (0.005, 0.01)}, form)
    stored = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    assert stored["w/int"].tolist() == weights
    assert (np.atleast_1d(stored["x/zero_point"]).tolist(), stored["w/zero_point"].tolist()) == points
    assert (float(stored["x/scale"]), stored["w/scale"].tolist()) == (np.float32(0.1), np.float32([0.005, 0.01]).tolist())


def test_every_form_computes_the_same(tmp_path: Path) -> None:
    images = gratings(64, seed=2)[0].numpy()
    seen = []
    for form in Form:
        spec = (TensorSpec(name="input", shape=(None, 1, 12, 12)),)
        export_quantised(quantised("mobilenet"), spec, tmp_path / "q.onnx", form=form, dynamic_batch=True)
        seen.append(BACKEND.infer(tmp_path / "q.onnx", {"input": images})["output"])
    assert np.array_equal(seen[0], seen[1])  # both in integer kernels here
    np.testing.assert_allclose(seen[2], seen[0], atol=0.2 * seen[0].std())  # s8s8 stays in float on this CPU: other roundings


@pytest.mark.parametrize(
    ("machine", "flags", "form"),
    [
        ("x86_64", ["avx2", "avx512_vnni"], Form.U8S8),
        ("x86_64", ["avx2", "avx_vnni"], Form.U8S8),
        ("x86_64", ["avx2"], Form.U8U8),
        ("x86_64", [], Form.U8S8),
        ("aarch64", ["asimd"], Form.S8S8),
    ],
)
def test_the_form_is_chosen_by_the_cpu(machine: str, flags: list[str], form: Form) -> None:
    assert form_for(machine, flags) is form


def test_the_shape_of_a_quantised_tensor_is_read_from_its_integers() -> None:
    """As a reader of floats it would keep the producer out of its integer kernel."""
    model = graph_of("Gemm", np.eye(2, dtype=np.float32), transB=1)
    model.graph.node.append(helper.make_node("Shape", ["y"], ["s"]))
    model.graph.output.append(helper.make_tensor_value_info("s", TensorProto.INT64, [2]))
    insert(model, {"x": Grid(scale=1.0, zero_point=0), "y": Grid(scale=1.0, zero_point=0)}, {"w": (1.0, 1.0)})
    assert next(node for node in model.graph.node if node.op_type == "Shape").input == ["y/q"]
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize(
    ("model", "activations", "message"),
    [
        (graph_of("Gemm", np.eye(2, dtype=np.float32), transB=1), {"z": Grid(scale=1.0, zero_point=0)}, "not in the ONNX graph: z"),
        (graph_of("Gemm", np.eye(2, dtype=np.float32), transB=1), {}, "reads x, which has no grid"),
        (graph_of("Gemm", np.eye(2, dtype=np.float32)), {"x": Grid(scale=1.0, zero_point=0)}, "layer is a Gemm"),
        (graph_of("MatMul", np.eye(2, dtype=np.float32)), {"x": Grid(scale=1.0, zero_point=0)}, "layer is a MatMul"),
        (graph_of("Gemm", np.zeros((3, 2), np.float32), transB=1), {"x": Grid(scale=1.0, zero_point=0)}, "3 output channels and 2 scales"),
    ],
)
def test_insert_refuses_what_has_no_integer_form(model: onnx.ModelProto, activations: dict[str, Grid], message: str) -> None:
    with pytest.raises(LoweringError, match=message):
        insert(model, activations, {"w": (1.0, 1.0)})
