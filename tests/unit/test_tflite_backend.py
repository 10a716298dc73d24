import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from make_tflite_fixtures import FOLDER, INPUTS, images, joined_network, quantised_network, small_network
from test_onnxruntime_backend import facts

from edgec.pipeline import parity, tflite_export
from edgec.pipeline.backends.tflite import BACKEND
from edgec.pipeline.core.errors import LoweringError, ModelError, ToolchainMissing
from edgec.pipeline.core.records import Precision, RuntimeFacts, TensorSpec
from edgec.pipeline.tflite_export import export_network, values_of
from edgec.targets.agent.network import import_one, in_pieces
from edgec.targets.agent.runners.tflite import TfliteRunner
from edgec.targets.agent.wire import Failure

FLOAT, INT8 = FOLDER / "small-fp32.tflite", FOLDER / "small-int8.tflite"
runtime = pytest.mark.skipif(importlib.util.find_spec("ai_edge_litert") is None, reason="needs ai-edge-litert (extra dev)")
converter = pytest.mark.skipif(importlib.util.find_spec("litert_torch") is None, reason="needs litert-torch (extra tflite, 1.1 GB)")
READY = RuntimeFacts(name="tflite", version="2.3.0 (ai_edge_litert)")


def test_support_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = BACKEND.support(facts())
    assert (absent.usable, absent.reason) == (False, "no TFLite runtime is installed there")
    assert "edgec targets prepare" in absent.hint
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert BACKEND.support(facts(READY)).hint == 'here: pip install "edgec[tflite]"'


def outputs_of(network: torch.nn.Module, x: torch.Tensor) -> dict[str, np.ndarray]:
    with torch.no_grad():
        return {"output": network(x).numpy()}


@runtime
@pytest.mark.parametrize(("file", "precision"), [(FLOAT, Precision.FP32), (INT8, Precision.INT8)])
def test_the_file_computes_what_the_network_does(file: Path, precision: Precision) -> None:
    """On 63 images, which a file of fixed batch 1 takes one at a time."""
    network, x = small_network() if precision is Precision.FP32 else quantised_network(), images()[:63]
    seen = BACKEND.infer(file, {"input": x.numpy()})
    parity_seen = parity.compare(outputs_of(network, x), seen, names=("checkpoint", "exported"), tolerance=parity.tolerance_for(precision))
    assert parity_seen.passed, parity_seen.reason


@runtime
def test_inspect_says_what_the_file_is() -> None:
    info = BACKEND.inspect(FLOAT)
    assert info.inputs == (TensorSpec(name="input", shape=(1, 1, 8, 8)),)
    assert info.outputs == (TensorSpec(name="output", shape=(1, 5)),)
    assert (info.precision, BACKEND.inspect(INT8).precision) == (Precision.FP32, Precision.INT8)


@runtime
def test_the_tables_scales_and_integers_arrive_unchanged(tmp_path: Path) -> None:
    """The float file made int8 here is the committed int8 file; its scales are the table's and its weights w / s, rounded to even."""
    from edgec.pipeline import tflite_file, tflite_quantise

    net = quantised_network()
    table, model = net.table(), tflite_file.load(FLOAT)
    tflite_quantise.insert(model, table, net.folded, values_of(net.folded, INPUTS), FLOAT)
    tflite_file.save(model, tmp_path / "q.tflite")
    assert (tmp_path / "q.tflite").read_bytes() == INT8.read_bytes()
    details = tflite_file.interpreter_of(INT8, all_tensors=True).get_tensor_details()
    scales = {float(s) for d in details for s in d["quantization_parameters"]["scales"]}
    assert {float(np.float32(site.scale)) for site in table.sites.values()} <= scales
    for name, weight in table.weights.items():
        layer = net.folded.get_submodule(name)
        assert isinstance(layer.weight, torch.Tensor)
        mine = layer.weight.detach().numpy() / np.array(weight.scales, np.float32).reshape(-1, *[1] * (layer.weight.ndim - 1))
        wanted = np.sort(np.clip(np.rint(mine), -127, 127).astype(np.int8), axis=None).tolist()
        stored = [
            np.sort(np.frombuffer(bytes(b.data), np.int8)).tolist()
            for b in model.buffers
            if b.data is not None and len(b.data) == mine.size
        ]
        assert wanted in stored, name


@runtime
def test_float16_weights_halve_the_constants_and_round_to_nearest(tmp_path: Path) -> None:
    from edgec.pipeline import tflite_file, tflite_quantise

    model = tflite_file.load(FLOAT)
    tflite_quantise.halve(model)
    tflite_file.save(model, tmp_path / "h.tflite")
    info, before = tflite_file.inspect(tmp_path / "h.tflite"), tflite_file.inspect(FLOAT)
    assert (info.precision, info.parameters, info.inputs) == (Precision.FP16, before.parameters, before.inputs)
    network = small_network()
    with torch.no_grad():
        from edgec.pipeline.compress.folding import fold

        rounded = fold(network)
        for parameter in rounded.parameters():
            parameter.copy_(parameter.half().float())
    x = images()[:8]
    seen = BACKEND.infer(tmp_path / "h.tflite", {"input": x.numpy()})
    assert parity.compare(outputs_of(rounded, x), seen, names=("a", "b"), tolerance=parity.FP32).passed


@runtime
def test_inputs_of_a_join_are_brought_to_its_grid(tmp_path: Path) -> None:
    from edgec.pipeline import tflite_file, tflite_quantise
    from edgec.pipeline.compress.quantise import quantise
    from edgec.pipeline.core.settings import QuantiseSettings

    source = FOLDER / "joined-fp32.tflite"
    net = quantise(joined_network(), images()[:1], (images(),), settings=QuantiseSettings())
    model = tflite_file.load(source)
    tflite_quantise.insert(model, net.table(), net.folded, values_of(net.folded, INPUTS), source)
    tflite_file.save(model, tmp_path / "q.tflite")
    info = tflite_file.inspect(tmp_path / "q.tflite")
    assert info.operators["CONCATENATION"] == 1
    assert info.operators["QUANTIZE"] == 2  # the input's, and that of the smaller branch: the larger one spans the join's range
    seen = BACKEND.infer(tmp_path / "q.tflite", {"input": images().numpy()})
    seen_parity = parity.compare(outputs_of(net, images()), seen, names=("checkpoint", "artifact"), tolerance=parity.INT8)
    assert seen_parity.passed, seen_parity.reason


@runtime
def test_precisions_that_a_network_has_no_form_in_are_refused(tmp_path: Path) -> None:
    for network, precision in ((small_network(), Precision.INT8), (small_network(), Precision.INT4), (quantised_network(), Precision.FP16)):
        with pytest.raises(LoweringError, match=f"is not lowered to {precision} on TFLite here"):
            BACKEND.lower(network, INPUTS, "p", tmp_path / "n.tflite", precision=precision)
    assert not list(tmp_path.iterdir())


BAD = {
    "cut off": (FLOAT.read_bytes()[:3000], "cut off|refuses"),
    "cut off in its head": (FLOAT.read_bytes()[:20], "cut off"),
    "another format": (b"PK\3\4" + b"x" * 100, "not a TFLite file"),
    "empty": (b"", "empty"),
}


@runtime
@pytest.mark.parametrize("fault", BAD)
def test_a_damaged_file_is_said_to_be_one(fault: str, tmp_path: Path) -> None:
    content, words = BAD[fault]
    (tmp_path / "x.tflite").write_bytes(content)
    with pytest.raises(ModelError, match=words):
        BACKEND.inspect(tmp_path / "x.tflite")


@runtime
def test_infer_maps_the_runtimes_refusal() -> None:
    for feed in ({"z": np.ones((1, 1, 8, 8), np.float32)}, {"input": np.ones((1, 1, 8, 8))}, {"input": np.ones((1, 1, 8, 9), np.float32)}):
        with pytest.raises(LoweringError, match=r"small-fp32\.tflite"):
            BACKEND.infer(FLOAT, feed)


def test_a_missing_package_gives_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ai_edge_litert.interpreter", "ai_edge_litert.schema_py_generated", "ai_edge_litert"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ToolchainMissing, match="ai-edge-litert") as caught:
        BACKEND.inspect(FLOAT)
    assert 'pip install "edgec[tflite]"' in caught.value.hint


WORKERS = {
    "refuses": ("echo 'NotImplementedError: aten.fft' > $3/refused.txt; exit 2", LoweringError, "refuses the network.*aten.fft"),
    "absent": ("echo 'No module named litert_torch' > $3/refused.txt; exit 3", ToolchainMissing, "needs litert-torch"),
    "crashes": ("kill -SEGV $$", LoweringError, "signal 11"),
    "hangs": ("exec sleep 60", LoweringError, "did not finish in 1 s"),
}


@runtime
@pytest.mark.parametrize("fault", WORKERS)
def test_a_failed_conversion_is_an_error_of_its_own_and_leaves_nothing(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, kind, words = WORKERS[fault]
    (tmp_path / "python").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(tflite_export.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(kind, match=words):
        export_network(small_network(), INPUTS, tmp_path / "out.tflite", deadline_s=1.0 if fault == "hangs" else 60.0)
    assert [p.name for p in tmp_path.iterdir()] == ["python"]


@converter
@runtime
@pytest.mark.slow
def test_conversion_gives_the_same_bytes_and_the_networks_outputs(tmp_path: Path) -> None:
    for network, file in ((small_network(), FLOAT), (quantised_network(), INT8)):
        artifact = BACKEND.lower(network, INPUTS, "parent", tmp_path / file.name)
        assert artifact.lineage.parameters["parameters"] == 8 * 9 + 8 + 8 * 8 * 9 + 8 + 8 * 5 + 5
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


@runtime
def test_the_runner_gives_what_the_host_gives() -> None:
    runner, x = TfliteRunner(), images()[:1].numpy()
    runner.open(str(INT8), {"threads": 1, "package": "ai_edge_litert"})
    assert runner.inputs == [{"name": "input", "shape": [1, 1, 8, 8], "dtype": "float32"}]
    assert runner.version.endswith("(ai_edge_litert)")
    expected = BACKEND.infer(INT8, {"input": x})["output"]
    assert np.array_equal(runner.infer({"input": x})["output"], expected)
    assert np.array_equal(runner.prepared({"input": x})()[0], expected)


class Choice:
    needs = ("json",)
    packages = (("edgec_no_such_package", ["x"]), ("decimal", ["y"]))
    modules = {"edgec_no_such_package": "edgec_no_such_package.interpreter", "decimal": "decimal"}  # noqa: RUF012


def test_the_first_package_that_imports_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert import_one(Choice) == "decimal"
    monkeypatch.setitem(sys.modules, "decimal", None)
    with pytest.raises(Failure, match=r"edgec_no_such_package.*; .*decimal"):
        import_one(Choice)


def test_rows_are_run_in_pieces_of_the_fixed_batch() -> None:
    sizes = []

    def run(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        sizes.append(len(arrays["x"]))
        return {"y": arrays["x"] * 2}

    x = np.arange(7.0).reshape(7, 1)
    assert np.array_equal(in_pieces([{"shape": [3, 1]}], {"x": x}, run)["y"], x * 2)
    assert sizes == [3, 3, 3]
    in_pieces([{"shape": [None, 1]}], {"x": x}, run)
    assert sizes[3:] == [7]
