"""One conversion by itself: every start, every precision, and what is refused."""

from dataclasses import replace
from pathlib import Path

import nets
import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from pruning_zoo import Recurrent
from safetensors.torch import save_file
from torch import Tensor, nn

from edgec.pipeline import convert, parity
from edgec.pipeline.convert import Request
from edgec.pipeline.core.errors import ConfigError, EdgecError, LoweringError, ModelError, ParityFailed
from edgec.pipeline.core.records import Precision, TensorSpec
from edgec.pipeline.onnx_export import export_float

INPUTS = (TensorSpec(name="input", shape=(1, 1, 12, 12)),)
SAMPLES = {"input": nets.gratings(256, seed=5)[0].numpy()}
ORT = Request(backend="onnxruntime")


def request(precision: Precision = Precision.FP32, **changes: object) -> Request:
    return Request(backend="onnxruntime", precision=precision, calibration=SAMPLES, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.INT8])
def test_a_network_is_lowered_with_a_verdict(precision: Precision, tmp_path: Path) -> None:
    artifact, verdict = convert.network(nets.trained("resnet"), INPUTS, request(precision), tmp_path / "n.onnx")
    assert verdict.passed
    assert artifact.precision is precision
    assert artifact.lineage.parameters["parameters"] == sum(p.numel() for p in convert_folded(nets.trained("resnet")))
    assert artifact.inputs[0].shape[0] is None
    if precision is Precision.INT8:
        assert artifact.lineage.parameters["islands"] == ""
    assert verdict.comparisons[0].outputs["output"]["cosine_min"] > 0.99


def convert_folded(module: nn.Module) -> list[nn.Parameter]:
    from edgec.pipeline.compress.folding import fold

    return list(fold(module).parameters())


def test_learned_ranges_are_taken_as_they_are(tmp_path: Path) -> None:
    net = nets.quantised("vgg")
    convert.network(net, INPUTS, request(Precision.INT8), tmp_path / "n.onnx")
    constants = {i.name: numpy_helper.to_array(i) for i in onnx.load(tmp_path / "n.onnx").graph.initializer}
    for site in net.table().sites.values():
        named = [constants[f"{node}/scale"] for node in ("input", "output", *site.nodes) if f"{node}/scale" in constants]
        assert any(float(scale) == np.float32(site.scale) for scale in named)


def test_matrices_that_our_quantiser_does_not_know_go_to_the_runtimes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    samples = {"input": np.random.default_rng(0).standard_normal((64, 1, 8, 8)).astype(np.float32)}
    spec, net = (TensorSpec(name="input", shape=(1, 1, 8, 8)),), Recurrent(nn.LSTM).eval()
    asked = Request(backend="onnxruntime", precision=Precision.INT8, calibration=samples)
    artifact, verdict = convert.network(net, spec, asked, tmp_path / "n.onnx")
    assert artifact.lineage.parameters["method"] in ("minmax", "percentile", "entropy", "dynamic")
    assert [c.reference for c in verdict.comparisons] == ["file", "quantised"]
    with pytest.raises(LoweringError, match="int8 on tflite is for networks of convolutions"):
        convert.network(net, spec, replace(asked, backend="tflite"), tmp_path / "n.tflite")


class Tagger(nn.Module):
    """Integer tokens and a float mask in, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(10, 8), nn.Linear(8, 3)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.head((self.table(tokens) * mask.unsqueeze(-1)).mean(1)), mask.sum(1)


TOKENS = (TensorSpec(name="tokens", shape=(1, 6), dtype="int64"), TensorSpec(name="mask", shape=(1, 6)))


@pytest.mark.parametrize("batch", [None, 2])
def test_integer_inputs_and_several_outputs(batch: int | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    artifact, verdict = convert.network(Tagger().eval(), TOKENS, Request(backend="onnxruntime", batch=batch), tmp_path / "n.onnx")
    assert [(spec.dtype, spec.shape) for spec in artifact.inputs] == [("int64", (batch, 6)), ("float32", (batch, 6))]
    assert set(verdict.comparisons[0].outputs) == {"output_0", "output_1"}


def test_a_users_module_by_its_path_and_weights(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_file({k: v.clone() for k, v in nets.trained("vgg").state_dict().items()}, weights)
    module = convert.user_module("nets:VGGLike", {}, weights)
    _, verdict = convert.network(module, INPUTS, ORT, tmp_path / "n.onnx")
    assert verdict.passed
    with pytest.raises(ModelError, match="has no 'Missing'"):
        convert.user_module("nets:Missing", {}, weights)
    with pytest.raises(ModelError):
        convert.user_module("nets:ResNetLike", {}, weights)


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    return export_float(nets.trained("vgg"), INPUTS, tmp_path / "foreign.onnx", dynamic_batch=True).path


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.INT8])
def test_an_onnx_file_is_lowered_with_a_verdict(precision: Precision, foreign: Path, tmp_path: Path) -> None:
    artifact, verdict = convert.foreign(foreign, request(precision), tmp_path / "out.onnx")
    assert (verdict.passed, artifact.precision) == (True, precision)
    assert ("method" in artifact.lineage.parameters) is (precision is Precision.INT8)
    assert (tmp_path / "out.onnx").stat().st_size < foreign.stat().st_size * 1.05


@pytest.mark.parametrize(
    ("precision", "tolerance"), [(Precision.FP16, parity.FP16), (Precision.INT8, parity.INT8), (Precision.INT4, parity.INT8)]
)
def test_a_file_is_held_to_what_its_own_precision_allows(precision: Precision, tolerance: object, foreign: Path, tmp_path: Path) -> None:
    """Asked for nothing else, the file keeps its precision: against itself the tolerance is that of runtimes, not that of its making."""
    if precision is Precision.INT4:
        torch.manual_seed(0)
        linear = nn.Sequential(nn.Flatten(), nn.Linear(144, 64)).eval()
        export_float(linear, INPUTS, tmp_path / "low.onnx", precision=precision, dynamic_batch=True)
    else:
        convert.foreign(foreign, request(precision), tmp_path / "low.onnx")
    again = replace(request(precision), precision=Precision.INT8 if precision is Precision.INT8 else Precision.FP32)
    artifact, verdict = convert.foreign(tmp_path / "low.onnx", again, tmp_path / "out.onnx")
    assert (artifact.precision, verdict.comparisons[0].tolerance) == (precision, tolerance)


def test_an_onnx_file_is_stamped_for_an_older_parser(foreign: Path, tmp_path: Path) -> None:
    convert.foreign(foreign, Request(backend="onnxruntime", opset=13), tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx").opset_import[0].version == 13


class Counting(nn.Module):
    """Multiplies by how often it has run: what no file can do, and no tracer sees."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.runs = nn.Linear(4, 4), nn.Linear(4, 4), 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.second(self.first(x) * self.runs)


def test_a_failing_parity_names_the_layer_and_ships_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    samples = {"x": np.random.default_rng(0).standard_normal((2 * convert.CHUNK, 4)).astype(np.float32)}  # two runs
    with pytest.raises(ParityFailed, match="the first layer that diverges is second, after first") as caught:
        convert.network(Counting().eval(), (TensorSpec(name="x", shape=(1, 4)),), ORT, tmp_path / "n.onnx", samples=samples)
    assert caught.value.context["where"]
    assert not list(tmp_path.iterdir())


def graph_of(node: onnx.NodeProto, weight: np.ndarray | None = None, *, opset: int = 17, domain: str = "") -> ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    weights = [] if weight is None else [numpy_helper.from_array(weight, "w")]
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], weights), opset_imports=opsets, ir_version=8)


def saved(tmp: Path, model: ModelProto) -> Path:
    onnx.save(model, tmp / "bad.onnx")
    return tmp / "bad.onnx"


def cut(tmp: Path) -> Path:
    file = saved(tmp, graph_of(helper.make_node("MatMul", ["x", "w"], ["y"]), np.ones((4, 4), np.float32)))
    file.write_bytes(file.read_bytes()[:-40])
    return file


def tflite(tmp: Path) -> Path:
    (tmp / "net.tflite").write_bytes(b"")
    return tmp / "net.tflite"


NAN = np.full((4, 4), np.nan, np.float32)
REFUSED = {
    "custom operator": (
        lambda t: saved(t, graph_of(helper.make_node("Special", ["x"], ["y"], name="layer3", domain="com.example"), domain="com.example")),
        ORT,
        LoweringError,
        r"custom operators com\.example::Special",
        "without custom operators",
    ),
    "operator of a newer opset": (
        lambda t: saved(t, graph_of(helper.make_node("HardSwish", ["x"], ["y"], name="act1"))),
        Request(backend="onnxruntime", opset=13),
        LoweringError,
        r"HardSwish \(act1\) exists since opset 14",
        "replace the operator",
    ),
    "truncated": (cut, ORT, ModelError, "cut off|not an ONNX file", "again"),
    "NaN weights": (
        lambda t: saved(t, graph_of(helper.make_node("MatMul", ["x", "w"], ["y"]), NAN)),
        ORT,
        ModelError,
        "weight w holds NaN",
        "diverged",
    ),
    "TFLite file": (tflite, ORT, LoweringError, "TFLite file already", "edgec profile"),
    "ONNX to TFLite": (
        lambda t: saved(t, graph_of(helper.make_node("Relu", ["x"], ["y"]))),
        Request(backend="tflite"),
        LoweringError,
        "no maintained converter leads from ONNX to tflite",
        "checkpoint",
    ),
    "int8 without samples": (
        lambda t: saved(t, graph_of(helper.make_node("MatMul", ["x", "w"], ["y"]), np.eye(4, dtype=np.float32))),
        Request(backend="onnxruntime", precision=Precision.INT8),
        ConfigError,
        "int8 needs calibration samples",
        "--calibration",
    ),
    "samples of another shape": (
        lambda t: saved(t, graph_of(helper.make_node("MatMul", ["x", "w"], ["y"]), np.eye(4, dtype=np.float32))),
        Request(backend="onnxruntime", precision=Precision.INT8, calibration={"x": np.ones((8, 5), np.float32)}),
        ConfigError,
        r"the input 'x' is \(None, 4\), its calibration array \(8, 5\)",
        "",
    ),
    "int4 of a network without matrices": (
        lambda t: saved(t, graph_of(helper.make_node("Relu", ["x"], ["y"]))),
        Request(backend="onnxruntime", precision=Precision.INT4),
        LoweringError,
        "int4 exists for the matrices of linear layers only",
        "int8",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_be_lowered_is_one_clear_error_and_leaves_nothing(fault: str, tmp_path: Path) -> None:
    make, asked, kind, words, remedy = REFUSED[fault]
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(kind, match=words) as caught:
        convert.foreign(make(tmp_path), asked, out / "n.onnx")  # type: ignore[no-untyped-call]
    assert remedy in caught.value.hint
    assert not list(out.iterdir())


def test_an_opset_beyond_the_runtime_says_so(tmp_path: Path) -> None:
    from edgec.pipeline.onnx_run import run

    model = graph_of(helper.make_node("Relu", ["x"], ["y"]), opset=99)
    with pytest.raises(LoweringError, match="onnxruntime refuses") as caught:
        run(model.SerializeToString(), [{"x": np.ones((1, 4), np.float32)}])
    assert "--opset" in caught.value.hint


def test_a_wrong_input_shape_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(EdgecError, match=r"does not run on inputs of shape|cannot be written as ONNX|shapes"):
        convert.network(nets.trained("vgg"), (TensorSpec(name="input", shape=(1, 3, 12, 12)),), ORT, tmp_path / "n.onnx")
    assert not list(tmp_path.iterdir())
