from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from nets import NETS, calibration, gratings, quantised, trained
from onnx import numpy_helper
from torch import Tensor, nn

from edgec.pipeline.backends.onnxruntime import BACKEND, islands
from edgec.pipeline.compress.quantise import load_quantised, quantise
from edgec.pipeline.core.errors import ConfigError, LoweringError, ModelError
from edgec.pipeline.core.records import Precision, TensorSpec
from edgec.pipeline.core.settings import QuantiseSettings
from edgec.pipeline.onnx_export import export_float, export_quantised

INPUTS = (TensorSpec(name="input", shape=(None, 1, 12, 12)),)
CALIBRATION = calibration()


def outputs(net: nn.Module, x: Tensor) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(net(x))


def run(path: Path, x: Tensor) -> np.ndarray:
    return np.asarray(BACKEND.infer(path, {"input": x.numpy()})["output"])


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("opset", [13, 17, 18])
def test_float_file_computes_what_the_network_does(name: str, opset: int, tmp_path: Path) -> None:
    written = export_float(trained(name), INPUTS, tmp_path / "n.onnx", opset=opset, ir=7, dynamic_batch=True)
    x = gratings(50, seed=2)[0]
    np.testing.assert_allclose(run(written.path, x), outputs(trained(name), x), rtol=0, atol=1e-4)
    model = onnx.load(written.path)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", opset)]
    assert (model.ir_version, written.ir, written.opset, written.precision) == (7, 7, opset, Precision.FP32)
    assert written.outputs == (TensorSpec(name="output", shape=(None, 4)),)


@pytest.mark.parametrize("name", NETS)
def test_float_file_has_the_parameters_of_the_network_with_batchnorm_folded(name: str, tmp_path: Path) -> None:
    """Counted by hand: each layer's weight, and one bias per output channel where the layer or its BatchNorm has one."""
    net = trained(name)
    written = export_float(net, INPUTS, tmp_path / "n.onnx")
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    initialisers = onnx.load(written.path).graph.initializer
    assert written.parameters == sum(m.weight.numel() + m.weight.shape[0] for m in layers)
    assert written.parameters == sum(numpy_helper.to_array(i).size for i in initialisers if i.dims)
    shapes = {i.name: tuple(i.dims) for i in initialisers}
    assert all(shapes[n] == tuple(p.shape) for n, p in net.named_parameters() if n in shapes and n.endswith("weight"))
    assert written.size_bytes == written.path.stat().st_size < 4 * written.parameters + 6000


def test_equal_parameters_are_not_merged(tmp_path: Path) -> None:
    """torch's exporter writes one of two equal tensors; the file must have both."""
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    for layer in (net[0], net[2]):
        nn.init.zeros_(layer.bias)
        nn.init.ones_(layer.weight)
    written = export_float(net, (TensorSpec(name="input", shape=(1, 4)),), tmp_path / "n.onnx")
    assert written.parameters == 40
    assert {i.name for i in onnx.load(written.path).graph.initializer} == {"0.weight", "0.bias", "2.weight", "2.bias"}


@pytest.mark.parametrize("name", NETS)
def test_the_same_network_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    net, int8 = trained(name), quantised(name)
    first, second = tmp_path / "a", tmp_path / "other" / "folder"
    for folder in (first, second):
        folder.mkdir(parents=True)
        export_float(net, INPUTS, folder / "f.onnx")
        export_quantised(int8, INPUTS, folder / "q.onnx")
    for file in ("f.onnx", "q.onnx"):
        data = (first / file).read_bytes()
        assert data == (second / file).read_bytes()
        assert b".py" not in data
        assert str(tmp_path).encode() not in data


@pytest.mark.parametrize("name", NETS)
def test_int8_file_agrees_with_the_fake_quantised_network(name: str, tmp_path: Path) -> None:
    net, x = quantised(name), gratings(1000, seed=2)[0]
    written = export_quantised(net, INPUTS, tmp_path / "q.onnx", dynamic_batch=True)
    expected, seen = outputs(net, x), run(written.path, x)
    assert (expected.argmax(1) == seen.argmax(1)).mean() >= 0.995
    assert (np.abs(expected - seen).max(1) < 1e-3).mean() >= 0.99
    assert written.parameters == export_float(trained(name), INPUTS, tmp_path / "f.onnx").parameters


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_nothing_of_the_int8_file_is_left_in_float(name: str, dynamic: bool, tmp_path: Path) -> None:
    written = export_quantised(quantised(name), INPUTS, tmp_path / "q.onnx", dynamic_batch=dynamic)
    assert islands(written.path) == ()


def test_trained_scales_keep_the_file_free_of_float(tmp_path: Path) -> None:
    """A ReLU6 grid that grew past 6 would leave its clip, and so its convolution, in float."""
    net = quantised("mobilenet")
    for site in net.places:
        net.activation(site).log_ratio.data.fill_(0.7)
    path = export_quantised(net, INPUTS, tmp_path / "q.onnx").path
    x = gratings(1, seed=4)[0]
    assert islands(path) == ()
    np.testing.assert_allclose(run(path, x), outputs(net, x), atol=net.table().sites["head"].scale * 1.01)


def test_stored_integers_are_the_rounded_weights(tmp_path: Path) -> None:
    net = quantised("vgg")
    graph = onnx.load(export_quantised(net, INPUTS, tmp_path / "q.onnx").path).graph
    stored = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    scales = np.array(net.table().weights["features.0"].scales, np.float32)
    weight = net.tensors()["features.0.weight"].numpy()
    expected = np.clip(np.round(weight / scales[:, None, None, None]), -127, 127)
    assert stored["features.0.weight/int"].dtype == np.int8
    np.testing.assert_array_equal(stored["features.0.weight/int"], expected)
    assert stored["features.0.bias/int"].dtype == np.int32
    np.testing.assert_array_equal(stored["features.0.bias/scale"], np.float32(net.table().sites["x"].scale) * scales)


class Functional(nn.Module):
    """The operations as functions and methods instead of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(i, 4, 3, padding=1) for i in (1, 4, 4))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.a(x)), 2)
        x = torch.add(x, F.relu6(self.b(x)))
        x = F.avg_pool2d((x.contiguous() + self.c(x.clone())).clamp(0, 4), 3)
        return self.head(F.dropout(x.reshape(x.shape[0], -1), training=self.training))


def test_functions_and_methods_become_integer_kernels_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = quantise(Functional(), CALIBRATION[0][:1], CALIBRATION, settings=QuantiseSettings())
    written = export_quantised(net, INPUTS, tmp_path / "q.onnx", dynamic_batch=True)
    assert islands(written.path) == ()
    x = gratings(100, seed=2)[0]
    np.testing.assert_allclose(run(written.path, x), outputs(net, x), atol=2.01 * net.table().sites["head"].scale)


class Swish(nn.Module):
    """A network with an activation that has no integer kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.act = nn.Hardswish()
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.conv(x)).mean((2, 3)))


def test_islands_are_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = quantise(Swish().eval(), CALIBRATION[0][:1], CALIBRATION, settings=QuantiseSettings())
    written = export_quantised(net, INPUTS, tmp_path / "q.onnx")
    assert [name for name in islands(written.path) if not name.startswith("_inlfunc_HardSwish")] == ["act"]


def test_layers_that_share_a_weight_are_quantised_each_with_its_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU(), nn.Conv2d(1, 1, 3)).eval()
    net[2].weight = net[0].weight
    int8 = quantise(net, CALIBRATION[0][:1], CALIBRATION, settings=QuantiseSettings())
    again = load_quantised(net, int8.tensors(), int8.table())
    written = export_quantised(again, INPUTS, tmp_path / "q.onnx", dynamic_batch=True)
    x = gratings(20, seed=2)[0]
    np.testing.assert_allclose(run(written.path, x), outputs(int8, x), rtol=0, atol=0.05)
    assert net[2].weight is net[0].weight


class Sides(nn.Module):
    """Two inputs, two outputs, concatenation, average pooling, and rows of sequences in a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.rows = nn.Conv2d(1, 3, 3), nn.Conv2d(2, 3, 3), nn.Linear(10, 5)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([self.left(a), self.right(b)], 1)
        return torch.relu(F.avg_pool2d(both, 2)), self.rows(both.flatten(2)[:, :, :10])


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, pair = Sides().eval(), (torch.randn(8, 1, 8, 8), torch.randn(8, 2, 8, 8))
    specs = (TensorSpec(name="a", shape=(8, 1, 8, 8)), TensorSpec(name="b", shape=(8, 2, 8, 8)))
    int8 = quantise(net, pair, [pair], settings=QuantiseSettings())
    feeds = {"a": pair[0].numpy(), "b": pair[1].numpy()}
    for written, reference, atol in (
        (export_float(net, specs, tmp_path / "f.onnx"), net, 1e-5),
        (export_quantised(int8, specs, tmp_path / "q.onnx"), int8, 0.05),
    ):
        assert [o.name for o in written.outputs] == ["output_0", "output_1"]
        seen = BACKEND.infer(written.path, feeds)
        with torch.no_grad():
            for name, expected in zip(("output_0", "output_1"), reference(*pair), strict=True):
                np.testing.assert_allclose(seen[name], expected.numpy(), atol=atol)


def test_fewer_than_8_bits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match="simulation only"):
        export_quantised(quantised("vgg", bits=4), INPUTS, tmp_path / "q.onnx")
    assert not list(tmp_path.iterdir())


class Exotic(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


def test_refusals_name_the_cause_and_leave_no_file(tmp_path: Path) -> None:
    spec = (TensorSpec(name="input", shape=(1, 4)),)
    out = tmp_path / "n.onnx"
    with pytest.raises(LoweringError, match="bessel_j0"):
        export_float(Exotic(), spec, out)
    with pytest.raises(LoweringError, match="opset 25"):
        export_float(nn.Linear(4, 4), spec, out, opset=25)
    with pytest.raises(ModelError, match="takes 1 inputs, 2 are described"):
        export_float(nn.Sequential(nn.Linear(4, 4)), spec * 2, out)
    assert not list(tmp_path.iterdir())


def test_unwritable_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write"):
        export_float(nn.Sequential(nn.Linear(4, 4)), (TensorSpec(name="input", shape=(1, 4)),), tmp_path / "missing" / "n.onnx")


def test_exporting_writes_nothing_to_stdout(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    export_quantised(quantised("resnet"), INPUTS, tmp_path / "q.onnx")
    assert capfd.readouterr().out == ""
