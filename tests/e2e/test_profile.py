"""Files that edgec did not make."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Project
from onnx import TensorProto, helper


def two_inputs(path: Path) -> None:
    """Looks up int64 indices in a table and adds a float input; opset 15, dynamic batch and length."""
    table = helper.make_tensor("table", TensorProto.FLOAT, [5, 4], np.arange(20, dtype=np.float32).tolist())
    nodes = [helper.make_node("Gather", ["table", "tokens"], ["rows"]), helper.make_node("Add", ["rows", "bias"], ["out"])]
    graph = helper.make_graph(
        nodes,
        "lookup",
        [
            helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "length"]),
            helper.make_tensor_value_info("bias", TensorProto.FLOAT, ["batch", "length", 4]),
        ],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", "length", 4])],
        [table],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8), path)


def test_foreign_file_says_what_is_missing_then_runs(project: Project) -> None:
    (project.folder / "deploy.toml").unlink()
    two_inputs(project.folder / "lookup.onnx")
    missing = project.run("profile", "lookup.onnx", "--json")
    assert missing.code == 2
    assert "--shape tokens=" in str(missing.document["error"])
    assert "--shape bias=" in str(missing.document["error"])
    np.save(project.folder / "tokens.npy", np.array([[0, 1, 4]]))
    dry = project.run("profile", "lookup.onnx", "--shape", "bias=1,3,4", "--input", "tokens=tokens.npy", "--dry-run", "--json")
    assert dry.document["results"]["inputs"]["bias"] == {"shape": [1, 3, 4], "dtype": "float32"}
    assert project.run("profile", "lookup.onnx", "--dry-run").code == 2, "an input has no shape"
    assert not (project.folder / ".edgec").exists()
    answer = project.run("profile", "lookup.onnx", "--shape", "bias=1,3,4", "--input", "tokens=tokens.npy", "--json")
    assert answer.code == 0, answer.stderr
    record = answer.document["results"]["record"]
    assert record["provenance"] == "measured"
    assert record["latency"]["p50_s"]["value"] > 0
    assert record["energy"]["gross_j"]["value"] is None
    assert len(record["latency"]["warmup_ns"]) > 0
    assert record["memory"]["peak_bytes"] > 1e6


def test_index_outside_its_table_is_the_networks_error(project: Project) -> None:
    two_inputs(project.folder / "lookup.onnx")
    np.save(project.folder / "tokens.npy", np.array([[0, 1, 99]]))
    answer = project.run("profile", "lookup.onnx", "--shape", "bias=1,3,4", "--input", "tokens=tokens.npy", "--json")
    assert answer.code == 5
    assert answer.document["error"]["type"] == "ModelError"


@pytest.mark.skipif(importlib.util.find_spec("ai_edge_litert") is None, reason="needs ai-edge-litert (extra dev)")
def test_foreign_tflite_file(project: Project, root: Path) -> None:
    (project.folder / "deploy.toml").unlink()
    shutil.copy(root / "tests/unit/fixtures/small-int8.tflite", project.folder / "net.tflite")
    answer = project.run("profile", "net.tflite", "--json")
    assert answer.code == 0, answer.stderr
    record = answer.document["results"]["record"]
    assert (record["runtime"], record["precision"]) == ("tflite", "int8")
    assert "ai_edge_litert" in record["runtime_version"]
    (project.folder / "cut.tflite").write_bytes((project.folder / "net.tflite").read_bytes()[:1000])
    cut = project.run("profile", "cut.tflite", "--json")
    assert cut.code == 5
    assert cut.document["error"]["type"] == "ModelError"
