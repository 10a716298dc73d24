"""The tensorrt backend: its ONNX form against ONNX Runtime, its builder and runner against every version's names, engines in the store,
and TensorRT-RTX itself where it is installed."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tensorrt_contract import VERSIONS, FakeCuda, has, module
from test_onnxruntime_backend import facts

from edgec.pipeline.backends.tensorrt import BACKEND
from edgec.pipeline.core.codec import record_id
from edgec.pipeline.core.errors import LoweringError, ModelError, RunnerDied, ToolchainMissing
from edgec.pipeline.core.files import digest_of
from edgec.pipeline.core.records import Artifact, Exported, Lineage, Precision, RuntimeFacts
from edgec.pipeline.core.settings import TargetSettings, TransportKind
from edgec.pipeline.engine_cache import EngineCache, device_name, engine_key
from edgec.pipeline.events import Silent
from edgec.pipeline.store import open_store
from edgec.pipeline.tensorrt_engine import on_device
from edgec.pipeline.tensorrt_export import write_form, write_half
from edgec.pipeline.tensorrt_rtx import build_ahead
from edgec.targets.agent import cuda, engine
from edgec.targets.agent.builders import problems, tensorrt, trtexec
from edgec.targets.agent.runners.tensorrt import TensorRtRunner
from edgec.targets.agent.wire import Failure, Fields
from edgec.targets.replies import DeviceFingerprint, EngineJob
from edgec.targets.session import open_session

rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt-rtx (extra tensorrt-rtx, 258 MB)")
WEAK = tuple(v for v in VERSIONS if has(v, "BuilderFlag", "FP16"))
"""Versions whose precision flags decide."""
NANO = DeviceFingerprint(
    runtime="tensorrt",
    version="8.2.1.8",
    strongly_typed=False,
    gpu="NVIDIA Tegra X1",
    compute_capability="5.3",
    cuda="10.2",
    driver="",
    l4t="R32.7.1",
    reason="",
)


def plan(precision: str = "fp32", **changes: Any) -> tensorrt.Plan:
    return tensorrt.Plan(Fields({"precision": precision, "capabilities": [], **changes}))


def network(path: Path, *, batch: int | None = None, op: str = "Relu") -> Path:
    """Convolution, one operator, global average: float, opset 13."""
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node(op, ["h"], ["r"], name="odd.layer"),
        helper.make_node("GlobalAveragePool", ["r"], ["y"], name="mean"),
    ]
    tensors = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [batch, 3, 8, 8]), ("y", [batch, 4, 1, 1]))]
    graph = helper.make_graph(nodes, "g", tensors[:1], tensors[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def affine(path: Path) -> Path:
    """The same network as onnxruntime likes it: uint8 activations with zero points, int8 weights a channel, int32 biases."""
    model = onnx.load(network(path))
    weight = numpy_helper.to_array(model.graph.initializer[0])
    scales = (np.abs(weight).max(axis=(1, 2, 3)) / 127).astype(np.float32)
    grids = {"x": (0.03, 128), "h": (0.11, 117), "r": (0.06, 0)}
    bias = np.array([100, -200, 300, 0], np.int32)
    constants = {
        "w": np.rint(weight / scales.reshape(-1, 1, 1, 1)).astype(np.int8),
        "w/scale": scales,
        "w/zero": np.zeros(4, np.int8),
        "b": bias,
        "b/scale": (scales * np.float32(0.03)).astype(np.float32),
        "b/zero": np.zeros(4, np.int32),
        **{f"{n}/scale": np.array(s, np.float32) for n, (s, _) in grids.items()},
        **{f"{n}/zero": np.array(z, np.uint8) for n, (_, z) in grids.items()},
    }
    nodes = [helper.make_node("DequantizeLinear", [n, f"{n}/scale", f"{n}/zero"], [f"{n}/dq"], name=f"{n}/dq", axis=0) for n in ("w", "b")]
    for node in model.graph.node:
        source = node.input[0]
        nodes.append(helper.make_node("QuantizeLinear", [source, f"{source}/scale", f"{source}/zero"], [f"{source}/q"], name=f"{source}/q"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{source}/q", f"{source}/scale", f"{source}/zero"], [f"{source}/dq"]))
        inputs = [f"{source}/dq", "w/dq", "b/dq"] if node.op_type == "Conv" else [f"{source}/dq"]
        nodes.append(
            helper.make_node(node.op_type, inputs, list(node.output), name=node.name, **({"pads": [1] * 4} if len(inputs) > 1 else {}))
        )
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", list(model.graph.input), list(model.graph.output), tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def images(n: int = 16) -> dict[str, np.ndarray]:
    return {"x": np.clip(np.random.default_rng(1).normal(size=(n, 3, 8, 8)), -3, 3).astype(np.float32)}


def exported(file: Path, precision: Precision = Precision.FP32) -> Exported:
    return Exported(
        parent="p",
        file=digest_of(file),
        size_bytes=1,
        opset=13,
        ir=8,
        precision=precision,
        inputs=(),
        outputs=(),
        parameters=0,
        lineage=Lineage(stage="export"),
    )


# --- the form ---------------------------------------------------------------------------------------------------------------------------


def test_form_is_symmetric_int8_with_float_weights_and_the_same_function(tmp_path: Path) -> None:
    source, out = affine(tmp_path / "a.onnx"), tmp_path / "form.onnx"
    write_form(source, out)
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero, scale = constants[node.input[2]], constants[node.input[1]]
            assert zero.dtype == np.int8
            assert not zero.any()
            assert zero.shape == scale.shape
        if node.op_type == "DequantizeLinear":
            assert node.input[0] not in constants, "8.2 wants a Q before every DQ"
    conv = next(n for n in model.graph.node if n.op_type == "Conv")
    before = {i.name: numpy_helper.to_array(i) for i in onnx.load(source).graph.initializer}
    assert np.array_equal(constants[f"{conv.input[1]}/float"], before["w"] * before["w/scale"].reshape(-1, 1, 1, 1))
    assert np.allclose(constants[conv.input[2]], before["b"] * before["b/scale"])
    assert constants["r/scale/symmetric"] == pytest.approx(0.06 * 255 / 127)
    assert constants["x/scale/symmetric"] == np.float32(0.03), "zero point 128 is int8's 0"
    assert constants["h/scale/symmetric"] == pytest.approx(0.11 * 138 / 127)
    a, b = BACKEND.infer(source, images())["y"], BACKEND.infer(out, images())["y"]
    step = 0.5 * (0.06 + 0.06 * 255 / 127) + 0.5 * (0.11 + 0.11 * 138 / 127) + 0.03  # half a step of each grid, and the inputs' through w
    assert np.abs(a - b).max() < step
    assert np.abs(a - b).mean() < 0.1 * np.abs(a).mean()


def test_a_network_quantised_for_tensorrt_arrives_unchanged(tmp_path: Path) -> None:
    """Grids with their zero point in the middle: the form computes what the fake-quantised network computes, to float32 rounding."""
    torch = pytest.importorskip("torch", reason="needs torch (extra torch)")
    from edgec.pipeline.compress.quantise import quantise
    from edgec.pipeline.core.records import TensorSpec
    from edgec.pipeline.core.settings import QuantiseSettings
    from edgec.pipeline.onnx_export import export_quantised

    torch.manual_seed(0)
    layers = [
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.ReLU6(),
        torch.nn.Conv2d(8, 8, 3),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(128, 5),
    ]
    net, x = torch.nn.Sequential(*layers).eval(), torch.from_numpy(images(64)["x"])
    quantised = quantise(net, x[:1], [x], settings=QuantiseSettings(), symmetric=True)
    assert {site.zero_point for site in quantised.table().sites.values()} == {128}
    export_quantised(quantised, (TensorSpec(name="x", shape=(None, 3, 8, 8)),), tmp_path / "a.onnx", opset=13, dynamic_batch=True)
    write_form(tmp_path / "a.onnx", tmp_path / "form.onnx")
    with torch.no_grad():
        expected = quantised(x).numpy()
    seen = next(iter(BACKEND.infer(tmp_path / "form.onnx", {"x": x.numpy()}).values()))
    step = max(site.scale for site in quantised.table().sites.values())
    assert np.abs(seen - expected).max() <= step * 1.001, "more than one step: another grid"
    assert np.mean(np.abs(seen - expected) > 1e-4) < 0.02, "ties are rare"


def test_form_of_a_float_network_is_the_network(tmp_path: Path) -> None:
    source, out = network(tmp_path / "a.onnx"), tmp_path / "form.onnx"
    write_form(source, out)
    assert onnx.load(out) == onnx.load(source)


def test_a_relu_that_was_left_to_its_quantiser_is_back(tmp_path: Path) -> None:
    """onnxruntime's quantiser drops a Relu whose grid begins at 0; on the symmetric grid nothing else keeps negative values away."""
    model = onnx.load(affine(tmp_path / "with.onnx"))
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    following = next(node for node in model.graph.node if relu.output[0] in node.input)
    following.input[0] = relu.input[0]
    model.graph.node.remove(relu)
    onnx.save(model, tmp_path / "without.onnx")
    forms = []
    for name in ("with", "without"):
        write_form(tmp_path / f"{name}.onnx", tmp_path / f"{name}.form")
        forms.append([node.op_type for node in onnx.load(tmp_path / f"{name}.form").graph.node])
    assert forms[0] == forms[1], "one Relu in both: none is added where there is one"
    a, b = (BACKEND.infer(tmp_path / f"{name}.form", images())["y"] for name in ("with", "without"))
    assert np.array_equal(a, b)


def test_half_of_a_half_is_the_half(tmp_path: Path) -> None:
    write_half(network(tmp_path / "a.onnx"), tmp_path / "half.onnx")
    write_half(tmp_path / "half.onnx", tmp_path / "again.onnx")
    assert onnx.load(tmp_path / "again.onnx") == onnx.load(tmp_path / "half.onnx")


def test_half_keeps_inputs_and_outputs_in_float32(tmp_path: Path) -> None:
    source, out = network(tmp_path / "a.onnx"), tmp_path / "half.onnx"
    write_half(source, out)
    model = onnx.load(out)
    assert {i.data_type for i in model.graph.initializer} == {TensorProto.FLOAT16}
    assert {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)} == {TensorProto.FLOAT}
    a, b = BACKEND.infer(source, images())["y"], BACKEND.infer(out, images())["y"]
    assert np.abs(a - b).max() < 27 * 2**-10 * np.abs(a).max()  # 27 terms, each rounded to 11 bits


def test_operators_without_a_form_are_named(tmp_path: Path) -> None:
    file = network(tmp_path / "a.onnx", op="DynamicQuantizeLinear")
    with pytest.raises(LoweringError, match=r"no operator DynamicQuantizeLinear \(layer odd\.layer\)") as caught:
        write_form(file, tmp_path / "b.onnx")
    assert "QDQ" in caught.value.hint
    assert not (tmp_path / "b.onnx").exists()


def test_a_scale_of_zero_is_refused(tmp_path: Path) -> None:
    model = onnx.load(affine(tmp_path / "a.onnx"))
    scale = next(i for i in model.graph.initializer if i.name == "w/scale")
    scale.CopyFrom(numpy_helper.from_array(np.array([0.1, 0, 0.1, 0.1], np.float32), "w/scale"))
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(LoweringError, match="scale of 0"):
        write_form(tmp_path / "a.onnx", tmp_path / "b.onnx")


# --- the backend ------------------------------------------------------------------------------------------------------------------------


def test_support_says_why_not() -> None:
    ready = facts(RuntimeFacts(name="tensorrt", version="8.2.1.8 (tensorrt)"))
    assert BACKEND.support(ready).usable
    assert "python3-libnvinfer" in BACKEND.support(facts()).hint


def test_lower_writes_the_form_and_its_record(tmp_path: Path) -> None:
    source, out = affine(tmp_path / "a.onnx"), tmp_path / "out"
    artifact = BACKEND.lower(exported(source, Precision.INT8), "parent", source, out)
    assert (artifact.file, artifact.format, artifact.precision) == (digest_of(out), "onnx", Precision.INT8)
    assert artifact == BACKEND.lower(exported(source, Precision.INT8), "parent", source, tmp_path / "again")
    with pytest.raises(LoweringError, match="not the exported file"):
        BACKEND.lower(exported(out), "parent", source, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_engines_are_refused_on_the_host_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is an engine") as caught:
        BACKEND.inspect(tmp_path / "a.engine")
    assert ".onnx" in caught.value.hint
    with pytest.raises(LoweringError, match="runs only on the kind of GPU"):
        BACKEND.infer(tmp_path / "a.engine", {})


# --- builder and runner under the names of every version ---------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_builder_calls_only_what_the_version_has(version: str, precision: str, tmp_path: Path) -> None:
    trt, out = module(version), tmp_path / "e.engine"
    said = tensorrt.build(trt, plan(precision, batch=4, workspace_bytes=1 << 25), str(network(tmp_path / "a.onnx")), str(out))
    expected = {"fp32": [], "fp16": ["FP16"], "int8": ["INT8", "FP16"]}[precision] if version in WEAK else []
    assert said["flags"] == expected
    assert [c[2] for c in trt.calls if c[1] == "set_flag"] == [getattr(trt.BuilderFlag, name) for name in expected]
    limited = [c for c in trt.calls if c[1] in ("max_workspace_size", "set_memory_pool_limit")]
    assert [(c[1], c[-1]) for c in limited] == [("max_workspace_size" if version == "8.2.1" else "set_memory_pool_limit", 1 << 25)]
    assert json.loads(out.read_bytes())["profile"] == {"x": [[4, 3, 8, 8]] * 3}
    assert (said["version"], said["inputs"][0]) == (version, {"name": "x", "shape": [4, 3, 8, 8], "dtype": "float32"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "e.engine"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("batch", [None, 2])
def test_runner_calls_only_what_the_version_has(version: str, batch: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that doubles its input, through a libcuda whose memory is the host's: addresses, sizes, shapes and order are right."""
    trt, lib = module(version), FakeCuda()
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda _: lib)
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Add", ["x", "x"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])],
        ),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    onnx.save(model, tmp_path / "a.onnx")
    tensorrt.build(trt, plan(batch=2), str(tmp_path / "a.onnx"), str(tmp_path / "e.engine"))
    runner = TensorRtRunner()
    runner.open(str(tmp_path / "e.engine"), {"threads": 1, "package": "tensorrt"})
    assert runner.version == f"{version} (tensorrt)"
    assert runner.inputs == [{"name": "x", "shape": [2, 3], "dtype": "float32"}]
    x = np.arange(6, dtype=np.float32).reshape(3, 2).T  # not contiguous
    assert np.array_equal(runner.infer({"x": x})["y"], 2 * x)
    once = runner.prepared({"x": x})
    assert np.array_equal(once()[0], 2 * x)
    used = {c[1] for c in trt.calls if c[0] == "IExecutionContext"} & {"execute_async_v2", "execute_async_v3"}
    assert len(lib.live) == 2, "every inference has the same memory"
    assert used == {"execute_async_v2" if version in ("8.2.1", "8.4.1") else "execute_async_v3"}
    runner.close()
    runner.close()
    assert not lib.live


def test_engine_of_another_version_is_refused_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda _: FakeCuda())
    monkeypatch.setitem(sys.modules, "tensorrt", module("8.2.1"))
    tensorrt.build(module("10.3.0"), plan(), str(network(tmp_path / "a.onnx")), str(tmp_path / "e.engine"))
    with pytest.raises(Failure, match=r"expecting library version 8\.2\.1 got 10\.3\.0") as caught:
        TensorRtRunner().open(str(tmp_path / "e.engine"), {"threads": 1, "package": "tensorrt"})
    assert caught.value.type == "ModelError"


@pytest.mark.skipif(Path("/proc/driver/nvidia/version").exists(), reason="needs a machine without an NVIDIA driver")
def test_no_driver_is_said_to_be_missing() -> None:
    with pytest.raises(Failure, match="no NVIDIA driver") as caught:
        cuda.Cuda()
    assert caught.value.type == "ToolchainMissing"


def test_gpu_without_int8_is_refused_with_the_nearest_precision(tmp_path: Path) -> None:
    nano = module("8.2.1", fast=("fp16",))
    with pytest.raises(Failure, match=r"no fast int8.*use fp16") as caught:
        tensorrt.build(nano, plan("int8"), str(network(tmp_path / "a.onnx")), str(tmp_path / "e.engine"))
    assert caught.value.context["nearest"] == "fp16"
    assert tensorrt.build(nano, plan("fp16"), str(tmp_path / "a.onnx"), str(tmp_path / "e.engine"))["flags"] == ["FP16"]


def test_operator_that_the_board_lacks_is_named_with_its_layer(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"TensorRT 8\.2\.1 does not take the operator Unique of layer odd\.layer.*other operators") as caught:
        tensorrt.build(module("8.2.1"), plan(), str(network(tmp_path / "a.onnx", op="Unique")), str(tmp_path / "e.engine"))
    assert caught.value.context["layer"] == "odd.layer"
    assert not (tmp_path / "e.engine").exists()


def test_memory_and_missing_gpu_are_told_apart() -> None:
    out = problems.build_failure(["[executor] Error Code 2: OutOfMemory (no further information)"], "8.2.1")
    assert (out.type, "memory ran out" in out.what) == ("LoweringError", True)
    assert problems.build_failure(["CUDA initialization failure with error: 35"], "8.2.1").type == "ToolchainMissing"
    assert "it says no more" in problems.build_failure([], "8.2.1").what


def test_other_dynamic_dimensions_are_refused(tmp_path: Path) -> None:
    model = onnx.load(network(tmp_path / "a.onnx"))
    model.graph.input[0].type.tensor_type.shape.dim[3].ClearField("dim_value")
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(Failure, match="input x has dynamic dimensions beside the batch"):
        tensorrt.build(module("8.2.1"), plan(), str(tmp_path / "a.onnx"), str(tmp_path / "e.engine"))


def test_timing_cache_is_used_again_and_a_damaged_one_left_aside(tmp_path: Path) -> None:
    trt, timings = module("8.2.1"), tmp_path / "timings" / "nano"

    def build() -> str:
        return str(tensorrt.build(trt, plan(), str(network(tmp_path / "a.onnx")), str(tmp_path / "e.engine"), str(timings))["timing_cache"])

    assert [build(), build()] == ["new", "used"]
    assert tensorrt.read_sealed(str(timings)) == b"timed;timed;"
    timings.write_bytes(timings.read_bytes()[:-1] + b"x")
    assert build() == "damaged"
    assert tensorrt.read_sealed(str(timings)) == b"timed;"
    tensorrt.write_sealed(str(timings), b"stranger")  # whole, but of another device: TensorRT refuses it
    assert build() == "damaged"


# --- trtexec ----------------------------------------------------------------------------------------------------------------------------


def program(folder: Path, version: str, then: str) -> str:
    """A trtexec with the options of that version."""
    known = [option for option, versions in json.loads(TABLE.read_text())["trtexec"].items() if version in versions]
    major, minor, patch = ([*map(int, version.split(".")), 0])[:3]
    banner = f"v{major * 10000 + minor * 100 + patch}" if major >= 10 else f"v{major * 1000 + minor * 100 + patch}"
    file = folder / "trtexec"
    lines = [
        f"echo '&&&& RUNNING TensorRT.trtexec [TensorRT {banner}] # trtexec'",
        f'[ "$1" = --help ] && echo "{" ".join(known)}" && exit 0',
    ]
    check = f'for a in "$@"; do case " {" ".join(known)} " in *" ${{a%%=*}} "*) ;; *) echo "[E] Unknown option: $a"; exit 1;; esac; done'
    keep = 'for a in "$@"; do echo "$a" >> "$0.asked"; case $a in --saveEngine=*) engine="${a#*=}";; esac; done'
    file.write_text("\n".join(["#!/bin/sh", *lines, check, keep, then]))
    file.chmod(0o755)
    return str(file)


TABLE = Path(__file__).parent / "fixtures/tensorrt-api.json"


@pytest.mark.parametrize("version", VERSIONS)
def test_trtexec_is_given_only_the_options_it_has(version: str, tmp_path: Path) -> None:
    tool = program(tmp_path, version, 'echo engine > "$engine"')
    out = tmp_path / "e.engine"
    said = trtexec.build(tool, plan("fp16", workspace_bytes=1 << 26), "net.onnx", str(out), str(tmp_path / "t" / "nano"), 20.0)
    assert out.read_text() == "engine\n"
    assert said["version"].startswith(version)
    assert said["flags"] == (["FP16"] if version in WEAK else [])
    asked = (tmp_path / "trtexec.asked").read_text().split()
    assert ("--workspace=64" if version == "8.2.1" else "--memPoolSize=workspace:64") in asked
    assert ("--buildOnly" if version in ("8.2.1", "8.4.1", "8.5.2") else "--skipInference") in asked


TRTEXEC_FAULTS = {
    "refuses": ("cat >&2 <<'X'\n[E] [TRT] {}\nX\nexit 1", "LoweringError", "operator Mod of layer head.mod"),
    "out of memory": ("echo '[E] [TRT] out of memory'; exit 1", "LoweringError", "memory ran out"),
    "crashes": ("kill -SEGV $$", "RunnerDied", "signal 11"),
    "hangs": ("exec sleep 30", "DeadlineExceeded", "did not finish in 1 s"),
}


@pytest.mark.parametrize("fault", TRTEXEC_FAULTS)
def test_trtexecs_failures_are_told_apart_and_leave_nothing(fault: str, tmp_path: Path) -> None:
    then, kind, words = TRTEXEC_FAULTS[fault]
    said = (
        'While parsing node number 3 [Mod -> "z"]:\n[E] [TRT] --- Begin node ---\nname: "head.mod"\nERROR: a.cpp:1 In function f:\n[8] no'
    )
    tool = program(tmp_path, "8.2.1", then.replace("{}", said))
    with pytest.raises(Failure, match=words) as caught:
        trtexec.build(tool, plan(), "net.onnx", str(tmp_path / "e.engine"), "", 1.0 if fault == "hangs" else 20.0)
    assert caught.value.type == kind
    assert not list(tmp_path.glob("*.engine*"))


def test_versions_in_banners() -> None:
    banners = {"[TensorRT v8201]": "8.2.1", "[TensorRT v8602]": "8.6.2", "[TensorRT v100300] [b26]": "10.3.0", "none": "unknown"}
    assert {text: trtexec.version_from(text) for text in banners} == banners


# --- engines in the store ---------------------------------------------------------------------------------------------------------------


def test_identical_boards_have_one_key_and_any_difference_another() -> None:
    job = EngineJob(network="a" * 64, precision="fp16")
    key = engine_key(job, NANO)
    assert key == engine_key(EngineJob(network="a" * 64, precision="fp16"), replace(NANO, reason=""))
    others = [
        engine_key(replace(job, **change), NANO)
        for change in ({"network": "b" * 64}, {"precision": "fp32"}, {"batch": 2}, {"workspace_bytes": 1 << 20})
    ]
    others += [
        engine_key(job, replace(NANO, **change))
        for change in (
            {"version": "8.0.1"},
            {"gpu": "Orin"},
            {"compute_capability": "8.7"},
            {"cuda": "11.4"},
            {"driver": "1"},
            {"l4t": "R35"},
        )
    ]
    assert len({key, *others}) == len(others) + 1
    assert engine_key(job, replace(NANO, gpu="", compute_capability="", reason="no driver")) is None
    ahead = replace(job, capabilities=("SM86",))
    assert engine_key(ahead, NANO) == engine_key(ahead, replace(NANO, gpu="other", driver="2"))
    assert device_name(NANO) != device_name(replace(NANO, l4t="R35"))


def engine_record(file: Path) -> Artifact:
    return Artifact(
        parent=None,
        backend="tensorrt",
        format="engine",
        precision=Precision.FP16,
        file=digest_of(file),
        size_bytes=1,
        lineage=Lineage(stage="build engine"),
    )


def test_damaged_or_lost_engine_is_not_found_and_can_be_kept_again(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    cache, file = EngineCache(store), tmp_path / "e.engine"
    file.write_bytes(b"engine")
    record = engine_record(file)
    assert cache.find("k") is None
    cache.keep("k", record, file)
    assert cache.find("k") == record
    kept = store.file(record.file)
    kept.write_bytes(b"engiNe")
    assert cache.find("k") is None
    cache.keep("k", record, file)
    assert cache.find("k") == record
    kept.unlink()
    assert cache.find("k") is None
    cache.keep(None, record, file)
    assert store.get(record_id(record)) == record
    assert cache.find(None) is None
    store.close()


def test_system_files_give_driver_and_l4t(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "etc/nv_tegra_release").write_text("# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref, EABI: aarch64\n")
    (tmp_path / "proc/driver/nvidia/version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version:  gcc version 12.2.0\n"
    )
    assert (engine.l4t(str(tmp_path)), engine.driver(str(tmp_path))) == ("R32.7.1", "550.54.15")
    assert (engine.l4t(str(tmp_path / "etc")), engine.driver(str(tmp_path / "etc"))) == ("", "")


# --- through the real agent -------------------------------------------------------------------------------------------------------------


def settings(folder: Path) -> TargetSettings:
    return TargetSettings(name="board", transport=TransportKind.LOCAL, python=sys.executable, folder=str(folder))


def lowered(store: Any, folder: Path, precision: Precision = Precision.FP32) -> Artifact:
    source = network(folder / "a.onnx") if precision is Precision.FP32 else affine(folder / "a.onnx")
    artifact = BACKEND.lower(exported(source, precision), "parent", source, folder / "form.onnx")
    store.adopt(folder / "form.onnx")
    return artifact


def installed(folder: Path, monkeypatch: pytest.MonkeyPatch, before: str = "") -> None:
    """A board with TensorRT 8.2.1 by its contract, in the agent's Python, and a GPU's driver that is never called."""
    package = folder / "packages" / "tensorrt"
    package.mkdir(parents=True)
    tests = Path(__file__).parent.parent
    (package / "__init__.py").write_text(
        f"import sys\nsys.path.insert(0, {str(tests)!r})\nfrom tensorrt_contract import FakeCuda, module\n"
        f"import ctypes\nctypes.CDLL = lambda _: FakeCuda()\n{before}\nglobals().update(vars(module('8.2.1')), __name__='tensorrt')\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{package.parent}:{tests}")


def test_identical_boards_build_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch)
    store = open_store(tmp_path / "store")
    artifact, events = lowered(store, tmp_path), Silent()
    with open_session(settings(tmp_path / "one")) as session:
        device = session.fingerprint()
        assert (device.runtime, device.version, device.gpu, device.compute_capability, device.cuda) == (
            "tensorrt",
            "8.2.1",
            "NVIDIA Tegra X1",
            "5.3",
            "10.2",
        )
        first = on_device(session, store, events, artifact, precision=Precision.FP16)
        assert (first.format, first.precision, first.parent) == ("engine", Precision.FP16, record_id(artifact))
        assert first.lineage.parameters["flags"] == "FP16"
        assert first.lineage.tools == {"tensorrt": "8.2.1"}
        assert session.missing([first.file]) == ()
        assert json.loads(store.file(first.file).read_bytes())["version"] == "8.2.1"
        assert [p.name for p in (tmp_path / "one/timings").iterdir()] == [device_name(device)]
    with open_session(settings(tmp_path / "two")) as session:
        assert on_device(session, store, events, artifact, precision=Precision.FP16) == first
        assert session.missing([first.file]) == (first.file,), "nothing was built there"
        other = on_device(session, store, events, artifact, precision=Precision.FP32)
        assert other.lineage.parameters["flags"] == ""
    store.close()


def test_builders_death_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with open_session(settings(tmp_path / "one")) as session:
        with pytest.raises(RunnerDied, match="SIGKILL"):
            session.fingerprint()
        assert session.facts().machine


def test_board_without_tensorrt_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/bin:/usr/bin")
    if importlib.util.find_spec("tensorrt_rtx") is not None or trtexec.find():
        pytest.skip("this machine has a TensorRT")
    with open_session(settings(tmp_path / "one")) as session, pytest.raises(ToolchainMissing, match=r"no TensorRT for Python.*no trtexec"):
        session.fingerprint()


# --- TensorRT-RTX -----------------------------------------------------------------------------------------------------------------------


def test_missing_extra_gives_the_install_line(tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorrt_rtx") is not None:
        pytest.skip("tensorrt-rtx is installed")
    with pytest.raises(ToolchainMissing) as caught:
        build_ahead(network(tmp_path / "a.onnx"), tmp_path / "e.engine", Precision.FP32)
    assert caught.value.hint == 'pip install "edgec[tensorrt-rtx]"'
    assert not (tmp_path / "e.engine").exists()


def test_int4_has_no_form_for_tensorrt(tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match="no int4 form"):
        build_ahead(network(tmp_path / "a.onnx"), tmp_path / "e.engine", Precision.INT4)


@rtx
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.INT8])
def test_rtx_builds_an_engine(precision: Precision, tmp_path: Path) -> None:
    source, form, out = tmp_path / "a.onnx", tmp_path / "form.onnx", tmp_path / "e.engine"
    write_form(affine(source) if precision is Precision.INT8 else network(source), form)
    built = build_ahead(form, out, precision, batch=2)
    assert (built.builder, built.digest, built.size_bytes) == ("tensorrt_rtx", digest_of(out), out.stat().st_size)
    assert (built.inputs[0].name, built.inputs[0].shape, built.outputs[0].shape) == ("x", (2, 3, 8, 8), (2, 4, 1, 1))
    assert out.stat().st_size > 10_000


@rtx
def test_rtx_refuses_onnxruntimes_form_and_names_the_layer(tmp_path: Path) -> None:
    """Why there is a form of TensorRT's own."""
    with pytest.raises(LoweringError, match=r"does not take the operator (De)?[qQ]uantizeLinear of layer"):
        build_ahead(affine(tmp_path / "a.onnx"), tmp_path / "e.engine", Precision.INT8)


@rtx
def test_rtx_names_an_operator_that_it_lacks(tmp_path: Path) -> None:
    source = network(tmp_path / "a.onnx", op="Unique")
    with pytest.raises(LoweringError, match=r"does not take the operator Unique of layer odd\.layer") as caught:
        BACKEND.lower(exported(source), "parent", source, tmp_path / "out.onnx")
    assert caught.value.context["operator"] == "Unique"
    assert not (tmp_path / "out.onnx").exists()


@rtx
def test_rtx_refuses_a_truncated_file_and_an_unknown_gpu(tmp_path: Path) -> None:
    (tmp_path / "cut.onnx").write_bytes(network(tmp_path / "a.onnx").read_bytes()[:-200])
    with pytest.raises(ModelError, match="does not read the file"):
        build_ahead(tmp_path / "cut.onnx", tmp_path / "e.engine", Precision.FP32)
    with pytest.raises(LoweringError, match="does not build for SM53"):
        build_ahead(tmp_path / "a.onnx", tmp_path / "e.engine", Precision.FP32, capabilities=("SM53",))
    with pytest.raises(LoweringError, match="did not finish"):
        build_ahead(tmp_path / "a.onnx", tmp_path / "e.engine", Precision.FP32, deadline_s=0.05)


@rtx
def test_agent_builds_with_rtx(tmp_path: Path) -> None:
    """The same builder on a target: here without a GPU, so for a kind of GPU by name, and its runner says what is missing."""
    store = open_store(tmp_path / "store")
    artifact = lowered(store, tmp_path, Precision.INT8)
    with open_session(settings(tmp_path / "board")) as session:
        device = session.fingerprint()
        assert (device.runtime, device.strongly_typed) == ("tensorrt_rtx", True)
        session.ship({artifact.file: store.file(artifact.file)})
        built = session.build(EngineJob(network=artifact.file, precision="int8", capabilities=("SM86",)), device_name(device))
        session.fetch(built.digest, tmp_path / "e.engine")
        assert (tmp_path / "e.engine").stat().st_size == built.size_bytes
    store.close()
