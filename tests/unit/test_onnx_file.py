from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgec.pipeline.backends.onnxruntime import BACKEND
from edgec.pipeline.core.errors import ConfigError, ModelError
from edgec.pipeline.core.records import Precision, TensorSpec
from edgec.pipeline.onnx_file import inspect, make_inputs


def foreign(path: Path, *, weight: np.ndarray | None = None, domain: str = "", **save: Any) -> Path:
    """A network of somebody else's: an image with a dynamic batch, and int64 tokens of dynamic length that index a table of two rows."""
    inputs = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 2]),
        helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "length"]),
    ]
    output = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2])
    tensors = [
        numpy_helper.from_array(np.eye(2, dtype=np.float32) if weight is None else weight, "table"),
        numpy_helper.from_array(np.array([1], np.int64), "axes"),
    ]
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["rows"]),
        helper.make_node("ReduceSum", ["rows", "axes"], ["sum"], keepdims=0),
        helper.make_node("Add", ["sum", "image"], ["scores"], domain=domain),
    ]
    opsets = [helper.make_opsetid("", 15)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    onnx.save(
        helper.make_model(helper.make_graph(nodes, "theirs", inputs, [output], tensors), opset_imports=opsets, ir_version=7), path, **save
    )
    return path


def test_inspect_a_foreign_file(tmp_path: Path) -> None:
    path = foreign(tmp_path / "f.onnx")
    info = inspect(path)
    assert info.inputs == (TensorSpec(name="image", shape=(None, 2)), TensorSpec(name="tokens", shape=(None, None), dtype="int64"))
    assert info.outputs == (TensorSpec(name="scores", shape=(None, 2)),)
    assert info.symbols == {"image": ("batch", ""), "tokens": ("batch", "length")}
    assert (info.opsets, info.ir, info.parameters) == ({"": 15}, 7, 5)
    assert (info.size_bytes, info.external_data, info.custom_ops) == (path.stat().st_size, (), ())


def test_inspect_lists_operators_of_other_domains(tmp_path: Path) -> None:
    assert inspect(foreign(tmp_path / "f.onnx", domain="com.example")).custom_ops == ("com.example::Add",)


def test_inspect_counts_external_data(tmp_path: Path) -> None:
    path = foreign(
        tmp_path / "f.onnx", weight=np.ones((100, 2), np.float32), save_as_external_data=True, location="w.bin", size_threshold=0
    )
    info = inspect(path)
    assert info.external_data == ("w.bin",)
    assert info.size_bytes == path.stat().st_size + (tmp_path / "w.bin").stat().st_size
    assert info.parameters == 201


def test_initialisers_listed_as_inputs_are_not_inputs(tmp_path: Path) -> None:
    path = foreign(tmp_path / "f.onnx")
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("table", TensorProto.FLOAT, [2, 2]))
    onnx.save(model, path)
    assert [i.name for i in inspect(path).inputs] == ["image", "tokens"]


def external(tmp: Path) -> Path:
    return foreign(tmp / "f.onnx", weight=np.ones((100, 2), np.float32), save_as_external_data=True, location="w.bin", size_threshold=0)


def without_its_weights(tmp: Path) -> Path:
    path = external(tmp)
    (tmp / "w.bin").unlink()
    return path


def with_cut_weights(tmp: Path) -> Path:
    path = external(tmp)
    (tmp / "w.bin").write_bytes(b"\0" * 10)
    return path


def with_weights_elsewhere(tmp: Path) -> Path:
    path = external(tmp)
    path.write_bytes(path.read_bytes().replace(b"w.bin", b"../x."))
    return path


def written(tmp: Path, data: bytes) -> Path:
    (tmp / "f.onnx").write_bytes(data)
    return tmp / "f.onnx"


def cut(tmp: Path, fraction: float) -> Path:
    data = foreign(tmp / "whole.onnx", weight=np.ones((500, 2), np.float32)).read_bytes()
    return written(tmp, data[: int(len(data) * fraction)])


def with_a_dangling_input(tmp: Path) -> Path:
    model = onnx.load(foreign(tmp / "f.onnx"))
    model.graph.node[2].input[0] = "nowhere"
    onnx.save(model, tmp / "f.onnx")
    return tmp / "f.onnx"


FAULTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda tmp: tmp / "none.onnx", "No such file"),
    "a folder": (lambda tmp: tmp, "cannot read"),
    "empty": (lambda tmp: written(tmp, b""), "is empty"),
    "one byte": (lambda tmp: written(tmp, b"\x08"), "not an ONNX file"),
    "a page of text": (lambda tmp: written(tmp, b"<html>not found</html>"), "not an ONNX file"),
    "parses as an empty model": (lambda tmp: written(tmp, b"\x08\x07"), "holds no ONNX graph"),
    "zeros": (lambda tmp: written(tmp, bytes(1000)), "not an ONNX file"),
    "a zip file": (lambda tmp: written(tmp, b"PK\x03\x04" + bytes(100)), "ONNX"),
    "cut at 10 %": (lambda tmp: cut(tmp, 0.1), "ONNX"),
    "cut at 50 %": (lambda tmp: cut(tmp, 0.5), "ONNX"),
    "cut at 99 %": (lambda tmp: cut(tmp, 0.99), "ONNX"),
    "weights missing": (without_its_weights, "w.bin, which is missing"),
    "weights cut off": (with_cut_weights, "w.bin, which is cut off"),
    "weights outside": (with_weights_elsewhere, "outside its folder"),
    "dangling input": (with_a_dangling_input, "not valid ONNX"),
    "NaN": (lambda tmp: foreign(tmp / "f.onnx", weight=np.full((2, 2), np.nan, np.float32)), "weight table holds NaN"),
    "infinity": (lambda tmp: foreign(tmp / "f.onnx", weight=np.full((2, 2), np.inf, np.float16)), "weight table holds NaN or infinite"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_unusable_file_is_refused_with_its_cause(fault: str, tmp_path: Path) -> None:
    make, message = FAULTS[fault]
    with pytest.raises(ModelError, match=message) as caught:
        inspect(make(tmp_path))
    assert caught.value.hint


def test_made_inputs_run_and_repeat(tmp_path: Path) -> None:
    info = inspect(foreign(tmp_path / "f.onnx"))
    notes: list[str] = []
    made = make_inputs(info, shapes={"tokens": (1, 7)}, files={}, seed=3, note=notes.append)
    assert {k: (v.shape, str(v.dtype)) for k, v in made.items()} == {"image": ((1, 2), "float32"), "tokens": ((1, 7), "int64")}
    assert set(np.unique(made["tokens"])) <= {0, 1}
    assert notes == ["image has a dynamic batch: 1 is taken; --shape image=<batch>,2 sets another"]
    assert BACKEND.infer(info.path, made)["scores"].shape == (1, 2)
    again = make_inputs(info, shapes={"tokens": (1, 7)}, files={}, seed=3)
    assert all(np.array_equal(made[k], again[k]) for k in made)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BOOL, TensorProto.INT32, TensorProto.UINT8])
def test_inputs_of_other_types(kind: int, tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(n, kind, [3, 4]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "f.onnx")
    info = inspect(tmp_path / "f.onnx")
    made = make_inputs(info, shapes={}, files={}, seed=0)
    np.testing.assert_array_equal(BACKEND.infer(info.path, made)["y"], made["x"])


def test_files_are_taken_as_they_are(tmp_path: Path) -> None:
    info = inspect(foreign(tmp_path / "f.onnx"))
    given = {"image": np.ones((2, 2), np.float32), "tokens": np.zeros((2, 3), np.int64)}
    files = {name: tmp_path / f"{name}.npy" for name in given}
    for name, array in given.items():
        np.save(files[name], array)
    made = make_inputs(info, shapes={}, files=files, seed=0)
    assert all(np.array_equal(made[k], given[k]) for k in given)


def saved(tmp: Path, array: np.ndarray, **options: Any) -> dict[str, Path]:
    np.save(tmp / "t.npy", array, **options)
    return {"tokens": tmp / "t.npy"}


def text_file(tmp: Path) -> dict[str, Path]:
    (tmp / "t.npy").write_text("1 2 3")
    return {"tokens": tmp / "t.npy"}


FILE_FAULTS: dict[str, tuple[Callable[[Path], dict[str, Path]], str]] = {
    "missing": (lambda tmp: {"tokens": tmp / "none.npy"}, "not a readable .npy"),
    "text": (text_file, "not a readable .npy"),
    "pickled objects": (lambda tmp: saved(tmp, np.array([{}], object), allow_pickle=True), "not a readable .npy"),
    "type": (lambda tmp: saved(tmp, np.zeros((1, 3), np.int32)), "tokens is int64, .* holds int32"),
    "rank": (lambda tmp: saved(tmp, np.zeros(3, np.int64)), r"holds \(3,\)"),
}


@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_unfit_input_file_is_refused(fault: str, tmp_path: Path) -> None:
    make, message = FILE_FAULTS[fault]
    with pytest.raises(ConfigError, match=message):
        make_inputs(inspect(foreign(tmp_path / "f.onnx")), shapes={}, files=make(tmp_path), seed=0)


def test_missing_shape_names_the_option_and_all_faults_come_together(tmp_path: Path) -> None:
    info = inspect(foreign(tmp_path / "f.onnx"))
    with pytest.raises(
        ConfigError, match=r"tokens has shape batch,length: add --shape tokens=<batch>,<length>, or --input tokens=FILE\.npy"
    ):
        make_inputs(info, shapes={}, files={}, seed=0)
    with pytest.raises(ConfigError) as caught:
        make_inputs(info, shapes={"image": (1, 3), "mask": (1,), "tokens": (1, 0)}, files={}, seed=0)
    assert len(caught.value.problems) == 3
    assert "the inputs are image, tokens" in caught.value.problems[0]


def test_a_file_is_int8_also_where_its_quantised_operators_are_inside_others(tmp_path: Path) -> None:
    """silero-vad has its networks in the branches of an If."""
    model = onnx.load(foreign(tmp_path / "f.onnx"))
    kept = inspect(tmp_path / "f.onnx").precision
    constants = [numpy_helper.from_array(np.array(v), n) for n, v in (("inner/q", np.int8(3)), ("inner/s", np.float32(0.5)))]
    node = helper.make_node("DequantizeLinear", ["inner/q", "inner/s"], ["inner/y"])
    branch = helper.make_graph([node], "b", [], [helper.make_tensor_value_info("inner/y", TensorProto.FLOAT, [])], constants)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
    model.graph.node.append(helper.make_node("If", ["always"], ["unused"], then_branch=branch, else_branch=branch))
    onnx.save(model, tmp_path / "f.onnx")
    assert (kept, inspect(tmp_path / "f.onnx").precision) == (Precision.FP32, Precision.INT8)
