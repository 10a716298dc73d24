from pathlib import Path

import nets
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from pruning_zoo import Recurrent
from torch import nn

from edgec.pipeline import onnx_file, ptq
from edgec.pipeline.core.errors import ConfigError, LoweringError
from edgec.pipeline.core.records import TensorSpec
from edgec.pipeline.onnx_export import export_float
from edgec.pipeline.ptq import Method
from edgec.pipeline.qdq import Form
from edgec.pipeline.tensorrt_export import write_form

INPUTS = (TensorSpec(name="input", shape=(None, 1, 12, 12)),)


def calibration(file: Path, n: int = 128) -> tuple[list[ptq.Mapping[str, np.ndarray]], np.ndarray]:
    images, labels = nets.gratings(n, seed=3)
    return ptq.feeds_from(onnx_file.inspect(file), {"input": images.numpy()}), labels.numpy()


@pytest.mark.parametrize("form", Form)
def test_the_method_with_the_best_measured_accuracy_is_taken(form: Form, tmp_path: Path) -> None:
    source = export_float(nets.trained("vgg"), INPUTS, tmp_path / "f.onnx", dynamic_batch=True).path
    feeds, labels = calibration(source)
    scores = ptq.quantised(source, feeds, tmp_path / "q.onnx", form=form, labels=labels)
    assert set(scores) == {Method.MINMAX, Method.PERCENTILE, Method.ENTROPY}
    ranked = [(-(s.accuracy or 0), s.error) for s in scores.values()]
    assert ranked == sorted(ranked)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.onnx", "q.onnx"]
    kinds = {node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    images, wanted = nets.gratings(256, seed=11)
    seen = ptq.run_all(tmp_path / "q.onnx", [{"input": images.numpy()}])["output"].argmax(1)
    with torch.no_grad():
        right = (nets.trained("vgg")(images).argmax(1) == wanted).float().mean()
    assert (seen == wanted.numpy()).mean() > right - 0.03


def test_the_form_decides_the_integer_types(tmp_path: Path) -> None:
    source = export_float(nets.trained("vgg"), INPUTS, tmp_path / "f.onnx", dynamic_batch=True).path
    feeds, _ = calibration(source, 64)
    kinds = {}
    for form in Form:
        ptq.quantised(source, feeds, tmp_path / "q.onnx", form=form)
        model = onnx.load(tmp_path / "q.onnx")
        points = {i.data_type for i in model.graph.initializer if i.name.endswith("zero_point")}
        kinds[form] = points & {TensorProto.UINT8, TensorProto.INT8}
    assert kinds == {
        Form.U8S8: {TensorProto.UINT8, TensorProto.INT8},
        Form.U8U8: {TensorProto.UINT8},
        Form.S8S8: {TensorProto.INT8},
    }


def test_recurrent_networks_get_dynamic_ranges_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = (TensorSpec(name="input", shape=(None, 1, 8, 8)),)
    source = export_float(Recurrent(nn.LSTM).eval(), spec, tmp_path / "f.onnx", dynamic_batch=True).path
    samples = np.random.default_rng(0).standard_normal((64, 1, 8, 8)).astype(np.float32)
    scores = ptq.quantised(source, ptq.feeds_from(onnx_file.inspect(source), {"input": samples}), tmp_path / "q.onnx", form=Form.U8S8)
    assert Method.DYNAMIC in scores
    assert next(iter(scores.values())).error < 0.05


def test_grids_for_tensorrt_are_symmetric_and_arrive_unchanged(tmp_path: Path) -> None:
    """TensorRT has zero point 0 alone: ranges found for other grids would lose steps on the way, and a ReLU its clip."""
    torch.manual_seed(0)
    spec = (TensorSpec(name="input", shape=(None, 1, 8, 8)),)
    source = export_float(Recurrent(nn.LSTM).eval(), spec, tmp_path / "f.onnx", dynamic_batch=True).path
    samples = np.random.default_rng(0).standard_normal((64, 1, 8, 8)).astype(np.float32)
    feeds = ptq.feeds_from(onnx_file.inspect(source), {"input": samples})
    scores = ptq.quantised(source, feeds, tmp_path / "t.onnx", form=Form.U8S8, symmetric=True)
    assert Method.DYNAMIC not in scores
    model = onnx.load(tmp_path / "t.onnx")
    zeros = [i for i in model.graph.initializer if i.name.endswith("zero_point")]
    assert zeros
    assert not any(numpy_helper.to_array(i).any() for i in zeros)
    write_form(tmp_path / "t.onnx", tmp_path / "form.onnx")
    a, b = ptq.run_all(tmp_path / "t.onnx", feeds), ptq.run_all(tmp_path / "form.onnx", feeds)
    for name, array in a.items():
        assert np.abs(array - b[name]).max() <= 1e-5 * np.abs(array).max()


def test_a_network_without_an_integer_form_is_refused_with_its_operators(tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Sin", ["x"], ["y"])], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "s.onnx")
    with pytest.raises(LoweringError, match="no operator of this network has an integer form") as caught:
        ptq.quantised(tmp_path / "s.onnx", [{"x": np.ones((2, 3), np.float32)}] * 2, tmp_path / "q.onnx", form=Form.U8S8)
    assert caught.value.context["operators"] == ["Sin"]


class Info:
    path, symbols, size_bytes = Path("net.onnx"), {}, 0
    outputs = ()
    inputs = (
        TensorSpec(name="x", shape=(None, 3)),
        TensorSpec(name="state", shape=(2, 1, 4)),
        TensorSpec(name="rate", shape=(), dtype="int64"),
    )


GOOD = {"x": np.zeros((6, 1, 3), np.float32), "state": np.zeros((6, 2, 1, 4), np.float32), "rate": np.full(6, 16000)}


def test_samples_become_single_runs() -> None:
    feeds = ptq.feeds_from(Info(), GOOD)  # type: ignore[arg-type]
    assert len(feeds) == 6
    assert {name: array.shape for name, array in feeds[0].items()} == {"x": (1, 3), "state": (2, 1, 4), "rate": ()}


BAD = {
    "missing": ({k: v for k, v in GOOD.items() if k != "rate"}, "no array for the input 'rate'"),
    "type": ({**GOOD, "x": np.zeros((6, 1, 3))}, "is float32, its calibration array float64"),
    "shape": ({**GOOD, "state": np.zeros((6, 2, 1, 5), np.float32)}, "its calibration array"),
    "count": ({**GOOD, "rate": np.full(5, 1)}, "too few samples, or differ"),
}


@pytest.mark.parametrize("fault", BAD)
def test_samples_that_do_not_fit_are_refused(fault: str) -> None:
    arrays, words = BAD[fault]
    with pytest.raises(ConfigError, match=words):
        ptq.feeds_from(Info(), arrays)  # type: ignore[arg-type]
