from pathlib import Path

import nets
import numpy as np
import onnx
import pytest
from make_tflite_fixtures import FOLDER, images, quantised_network, small_network
from onnx import numpy_helper

from edgec.pipeline import divergence, parity
from edgec.pipeline.core.records import TensorSpec
from edgec.pipeline.onnx_export import export_float, export_quantised

INPUTS = (TensorSpec(name="input", shape=(None, 1, 12, 12)),)
FEED = {"input": nets.gratings(16, 9)[0].numpy()}


def spoil(file: Path, weight: str) -> None:
    """Halve one tensor in the file."""
    model = onnx.load(file)
    tensor = next(i for i in model.graph.initializer if i.name == weight)
    array = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(array // 2 if array.dtype == np.int8 else array / 2, weight))
    onnx.save(model, file)


@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
@pytest.mark.parametrize("quantised", [False, True])
def test_no_layer_of_a_faithful_file_diverges(name: str, quantised: bool, tmp_path: Path) -> None:
    net = nets.quantised(name) if quantised else nets.trained(name)
    (export_quantised if quantised else export_float)(net, INPUTS, tmp_path / "n.onnx", dynamic_batch=True)  # type: ignore[operator]
    tolerance = parity.INT8 if quantised else parity.FP32
    assert divergence.of_network(net, tmp_path / "n.onnx", FEED, tolerance) is None


@pytest.mark.parametrize(("quantised", "weight"), [(False, "blocks.1.conv2.weight"), (True, "blocks.1.conv2.weight/int")])
def test_the_layer_with_a_wrong_weight_is_named(quantised: bool, weight: str, tmp_path: Path) -> None:
    net = nets.quantised("resnet") if quantised else nets.trained("resnet")
    (export_quantised if quantised else export_float)(net, INPUTS, tmp_path / "n.onnx", dynamic_batch=True)  # type: ignore[operator]
    spoil(tmp_path / "n.onnx", weight)
    found = divergence.of_network(net, tmp_path / "n.onnx", FEED, parity.INT8 if quantised else parity.FP32)
    assert found is not None
    assert found.layer == "blocks.1.conv2"
    assert found.agrees_up_to.startswith("blocks.1.")
    assert str(found).startswith("the first layer that diverges is blocks.1.conv2, after blocks.1.")


def test_two_files_are_compared_by_their_tensors(tmp_path: Path) -> None:
    for name in ("a", "b"):
        export_float(nets.trained("vgg"), INPUTS, tmp_path / f"{name}.onnx", dynamic_batch=True)
    spoil(tmp_path / "b.onnx", "features.4.weight")
    found = divergence.first(
        divergence.onnx_values(tmp_path / "a.onnx", FEED), divergence.onnx_values(tmp_path / "b.onnx", FEED), parity.FP32
    )
    assert found is not None
    assert "features.4" in found.layer


def test_a_value_that_is_not_finite_or_of_another_shape_diverges() -> None:
    reference = {"a": np.ones((1, 2)), "b": np.ones((1, 2))}
    nan = divergence.first(reference, {"a": np.ones((1, 2)), "b": np.array([[1.0, np.nan]])}, parity.FP32)
    assert nan is not None
    assert (nan.layer, nan.agrees_up_to) == ("b", "a")
    other = divergence.first(reference, {"a": np.ones((1, 3))}, parity.FP32)
    assert other is not None
    assert other.layer == "a"


@pytest.mark.parametrize("quantised", [False, True])
def test_a_tflite_file_is_compared_by_content(quantised: bool, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    from edgec.pipeline import tflite_file

    net = quantised_network() if quantised else small_network()
    source, feed = FOLDER / ("small-int8.tflite" if quantised else "small-fp32.tflite"), {"input": images(1).numpy()}
    tolerance = parity.INT8 if quantised else parity.FP32
    assert divergence.of_network(net, source, feed, tolerance) is None
    model = tflite_file.load(source)
    largest = max((b for b in model.buffers if b.data is not None), key=lambda b: len(b.data))  # the second convolution's weight
    dtype = np.int8 if quantised else np.float32
    values = np.frombuffer(bytes(largest.data), dtype)
    largest.data = np.frombuffer((values * 0.7).astype(dtype).tobytes(), np.uint8)
    tflite_file.save(model, tmp_path / "wrong.tflite")
    found = divergence.of_network(net, tmp_path / "wrong.tflite", feed, tolerance)
    assert found is not None
    assert found.layer in ("3", "4")  # the convolution, or the ReLU that it is fused with
