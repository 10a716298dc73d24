import logging
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from pruning_zoo import Shuffle, ViT
from torch import nn

from edgec.pipeline import onnx_graph
from edgec.pipeline.core.errors import LoweringError
from edgec.pipeline.core.records import TensorSpec
from edgec.pipeline.onnx_export import export_float
from edgec.pipeline.onnx_run import run


def model_of(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], opset: int = 17) -> ModelProto:
    """x (n, 8) to y."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", None if name == "y" else 8]) for name in ("x", "y")]
    initialisers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], initialisers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def linear(opset: int = 17) -> ModelProto:
    weight = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    return model_of([helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")], {"w": weight}, opset)


X = np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32)


def outputs(model: ModelProto) -> np.ndarray:
    return run(model.SerializeToString(), [{"x": X}])[0]["y"]


def test_simplifying_folds_constants_and_keeps_the_function_and_the_ends() -> None:
    nodes = [
        helper.make_node("Add", ["a", "a"], ["b"]),
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("MatMul", ["same", "b"], ["y"]),
        helper.make_node("Relu", ["x"], ["unread"]),
    ]
    model = model_of(nodes, {"a": np.eye(8, dtype=np.float32)})
    before = model.SerializeToString()
    slim = onnx_graph.simplified(model)
    assert [node.op_type for node in slim.graph.node] == ["MatMul"]
    assert model.SerializeToString() == before
    np.testing.assert_allclose(outputs(slim), 2 * X)


def test_the_shape_arithmetic_of_a_channel_shuffle_goes_though_the_batch_is_dynamic(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Shuffle().eval()
    written = export_float(net, (TensorSpec(name="input", shape=(None, 1, 16, 16)),), tmp_path / "s.onnx", dynamic_batch=True)
    kinds = Counter(node.op_type for node in onnx.load(written.path).graph.node)
    assert not {"Shape", "Gather", "Cast", "Unsqueeze"} & set(kinds)
    images = torch.randn(3, 1, 16, 16)
    with torch.no_grad():
        expected = net(images).numpy()
    np.testing.assert_allclose(run(written.path, [{"input": images.numpy()}])[0]["output"], expected, atol=1e-5)


def test_a_stamp_converts_operators_and_drops_unused_domains() -> None:
    model = model_of([helper.make_node("ReduceMean", ["x"], ["y"], name="mean", axes=[1], keepdims=1)], {}, opset=17)
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    stamped = onnx_graph.stamped(model, opset=18, ir=7)
    assert ({o.domain: o.version for o in stamped.opset_import}, stamped.ir_version) == ({"": 18}, 7)
    assert len(next(n for n in stamped.graph.node if n.op_type == "ReduceMean").input) == 2  # axes became an input at 18
    np.testing.assert_allclose(outputs(stamped), X.mean(1, keepdims=True), rtol=1e-6)


def test_an_operator_that_an_old_opset_lacks_is_named_with_its_layer() -> None:
    model = model_of([helper.make_node("HardSwish", ["x"], ["y"], name="act1")], {}, opset=17)
    with pytest.raises(LoweringError, match=r"opset 17 cannot be written as opset 13.*HardSwish \(act1\) exists since opset 14") as caught:
        onnx_graph.stamped(model, opset=13, ir=7)
    assert "replace the operator" in caught.value.hint


def test_half_keeps_float32_ends_and_rounds_weights_to_nearest() -> None:
    model = linear()
    made = onnx_graph.half(model)
    stored = next(i for i in made.graph.initializer if i.data_type == TensorProto.FLOAT16)
    weight = numpy_helper.to_array(model.graph.initializer[0])
    assert np.array_equal(numpy_helper.to_array(stored), weight.astype(np.float16))
    assert {v.type.tensor_type.elem_type for v in (*made.graph.input, *made.graph.output)} == {TensorProto.FLOAT}
    np.testing.assert_allclose(outputs(made), X @ weight, atol=2e-2)


def test_half_refuses_a_weight_that_float16_cannot_hold() -> None:
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.full((8, 2), 1e5, np.float32)})
    with pytest.raises(LoweringError, match="weight w is beyond float16"):
        onnx_graph.half(model)


def test_four_bit_weights_are_within_half_a_step_of_their_block() -> None:
    """Symmetric, 32 weights a block: the step is the block's largest magnitude over 8 (-8 to 7), so half of it is a 16th; the largest
    itself may be clipped by one step."""
    weight = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", None]) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")]
    )
    made = onnx_graph.four_bit(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert [node.op_type for node in made.graph.node] == ["MatMulNBits"]
    for attribute in made.graph.node[0].attribute:
        if attribute.name == "accuracy_level":
            attribute.i = 1  # float32 arithmetic: only the weights' rounding is left
    stored = run(made.SerializeToString(), [{"x": np.eye(64, dtype=np.float32)}])[0]["y"]
    steps = np.abs(weight.reshape(2, 32, 16)).max(1) / 8
    assert (np.abs(stored - weight).reshape(2, 32, 16).max(1) <= 1.01 * steps).all()
    assert np.median(np.abs(stored - weight)) < np.median(steps) / 2


def test_four_bit_is_refused_where_linear_layers_hold_little() -> None:
    model = model_of([helper.make_node("Add", ["x", "b"], ["y"])], {"b": np.ones(8, np.float32)})
    with pytest.raises(LoweringError, match="int4 exists for the matrices of linear layers only: they hold 0%"):
        onnx_graph.four_bit(model)


def test_the_runtimes_tools_leave_logging_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level, root.manager.disable)
    onnx_graph.four_bit(linear_of_64())
    assert (list(root.handlers), root.level, root.manager.disable) == before
    assert capfd.readouterr() == ("", "")


def linear_of_64() -> ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", None]) for name in ("x", "y")]
    weight = numpy_helper.from_array(np.ones((64, 8), np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_attention_is_written_out_where_the_opset_has_no_form_of_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, images = ViT().eval(), torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        expected = net(images).numpy()
    written = export_float(net, (TensorSpec(name="input", shape=(2, 1, 8, 8)),), tmp_path / "v.onnx", opset=13)
    assert written.opset == 13
    np.testing.assert_allclose(run(written.path, [{"input": images.numpy()}])[0]["output"], expected, atol=1e-5)


class Gate(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x)


def test_a_refused_operation_is_named_with_its_layer_and_stdout_stays_clean(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), Gate()))
    with pytest.raises(LoweringError, match=r"special_bessel_j0.*It is in 1\.1") as caught:
        export_float(net, (TensorSpec(name="input", shape=(1, 4)),), tmp_path / "n.onnx")
    assert caught.value.context["layers"] == ["1.1"]
    assert "replace the operation" in caught.value.hint
    assert capfd.readouterr().out == ""
