import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgec.pipeline.backends.onnxruntime import BACKEND
from edgec.pipeline.core.errors import ConfigError, LoweringError, ToolchainMissing
from edgec.pipeline.core.records import Exported, Lineage, Precision, RuntimeFacts, TargetFacts, TensorSpec


def facts(*runtimes: RuntimeFacts) -> TargetFacts:
    return TargetFacts(
        board="unknown",
        machine="aarch64",
        system="Linux",
        kernel="6",
        cpu="",
        cores=4,
        memory_bytes=None,
        disk_free_bytes=None,
        python="3.11",
        runtimes=runtimes,
    )


READY = RuntimeFacts(name="onnxruntime", version="1.20.0")


def test_support_is_yes_where_the_runtime_is() -> None:
    assert BACKEND.support(facts(READY)).usable


def test_support_says_why_not() -> None:
    absent = BACKEND.support(facts(RuntimeFacts(name="litert", version="2.3")))
    assert (absent.usable, absent.reason) == (False, "onnxruntime is not installed there")
    assert "edgec targets prepare" in absent.hint
    broken = BACKEND.support(facts(RuntimeFacts(name="onnxruntime", version=None, reason="needs glibc 2.28")))
    assert broken.reason == "needs glibc 2.28"


def doubling(path: Path, domain: str = "") -> Exported:
    """y = x + x, and its record."""
    shape = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, 3]) for n in ("x", "y")]
    node = helper.make_node("Add", ["x", "x"], ["y"], domain=domain)
    graph = helper.make_graph([node], "g", shape[:1], shape[1:])
    opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    data = path.read_bytes()
    spec = (TensorSpec(name="x", shape=(None, 3)),)
    return Exported(
        parent="p",
        file=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        opset=17,
        ir=8,
        precision=Precision.FP32,
        inputs=spec,
        outputs=spec,
        parameters=0,
        lineage=Lineage(stage="export"),
    )


def test_float_widths_fill_the_blocks_of_x86() -> None:
    assert BACKEND.channel_multiple("x86_64", Precision.FP32) == 16
    assert BACKEND.channel_multiple("aarch64", Precision.FP32) == BACKEND.channel_multiple("x86_64", Precision.INT8) == 4


def test_lower_writes_the_checked_file_and_its_record(tmp_path: Path) -> None:
    source, out = tmp_path / "e.onnx", tmp_path / "a.onnx"
    exported = doubling(source)
    artifact = BACKEND.lower(exported, "parent", source, out)
    assert out.read_bytes() == source.read_bytes()
    assert artifact.file == exported.file
    assert (artifact.backend, artifact.format, artifact.parent) == ("onnxruntime", "onnx", "parent")
    assert artifact.inputs == (TensorSpec(name="x", shape=(None, 3)),)
    assert artifact == BACKEND.lower(exported, "parent", source, tmp_path / "b.onnx")
    assert BACKEND.infer(out, {"x": np.ones((2, 3), np.float32)})["y"].tolist() == [[2.0] * 3] * 2


def test_lower_refuses_another_file_and_custom_operators_and_leaves_nothing(tmp_path: Path) -> None:
    source, out = tmp_path / "e.onnx", tmp_path / "a.onnx"
    exported = doubling(source)
    custom = doubling(tmp_path / "c.onnx", domain="com.example")
    with pytest.raises(LoweringError, match="not the exported file"):
        BACKEND.lower(custom, "p", source, out)
    with pytest.raises(LoweringError, match=r"com\.example::Add"):
        BACKEND.lower(custom, "p", tmp_path / "c.onnx", out)
    with pytest.raises(ConfigError, match="cannot write"):
        BACKEND.lower(exported, "p", source, tmp_path / "missing" / "a.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.onnx", "e.onnx"]


BAD_FEEDS = {
    "wrong name": {"z": np.ones((1, 3), np.float32)},
    "wrong type": {"x": np.ones((1, 3))},
    "wrong shape": {"x": np.ones((1, 4), np.float32)},
}


@pytest.mark.parametrize("fault", BAD_FEEDS)
def test_infer_maps_the_runtimes_refusal(fault: str, tmp_path: Path) -> None:
    doubling(tmp_path / "e.onnx")
    with pytest.raises(LoweringError, match=r"onnxruntime refuses e\.onnx"):
        BACKEND.infer(tmp_path / "e.onnx", BAD_FEEDS[fault])


@pytest.mark.parametrize("content", [b"", b"junk", None])
def test_infer_refuses_a_file_that_is_no_network(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "e.onnx"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(LoweringError, match="onnxruntime refuses"):
        BACKEND.infer(file, {})


def test_missing_runtime_gives_the_install_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ToolchainMissing) as caught:
        BACKEND.infer(tmp_path / "e.onnx", {})
    assert caught.value.hint == 'pip install "edgec[onnxruntime]"'


def test_nothing_here_needs_torch_and_asking_for_support_loads_nothing_heavy(tmp_path: Path) -> None:
    doubling(tmp_path / "e.onnx")
    script = f"""
import sys
from edgec.pipeline import parity
from edgec.pipeline.backends.onnxruntime import BACKEND
assert not {{"onnx", "onnxruntime", "scipy"}} & set(sys.modules), "heavy"
from pathlib import Path
from edgec.pipeline.onnx_file import inspect, make_inputs
path = Path({str(tmp_path / "e.onnx")!r})
feeds = make_inputs(inspect(path), shapes={{}}, files={{}}, seed=0)
outputs = BACKEND.infer(path, feeds)
assert parity.compare(outputs, outputs, names=("exported", "device"), tolerance={{}}).passed
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
