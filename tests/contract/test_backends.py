"""The laws of protocols.Backend, on every backend found by file name."""

import functools
import hashlib
import importlib
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgec.pipeline.core import registry
from edgec.pipeline.core.errors import EdgecError, LoweringError, ModelError, ToolchainMissing
from edgec.pipeline.core.records import Artifact, Exported, Lineage, Precision, RuntimeFacts, TargetFacts, TensorSpec

NAMES = registry.names("edgec.pipeline.backends")
INPUTS = (TensorSpec(name="input", shape=(1, 1, 8, 8)),)
CONVERTERS = {"tflite": "litert_torch"}
"""What a backend converts with, where that is a package of an extra of its own."""

backends = pytest.mark.parametrize("name", NAMES)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    return nn.Sequential(*layers).eval()


@functools.cache
def made(name: str) -> tuple[Artifact, bytes]:
    """The network by this backend, lowered once."""
    with tempfile.TemporaryDirectory() as folder:
        artifact = lowered(name, Path(folder), Path(folder) / "a.out")
        return artifact, (Path(folder) / "a.out").read_bytes()


def written(name: str, folder: Path, stem: str = "a") -> tuple[Artifact, Path]:
    artifact, data = made(name)
    file = folder / f"{stem}.{artifact.format}"
    file.write_bytes(data)
    return artifact, file


def lowered(name: str, folder: Path, out: Path) -> Artifact:
    """The network by this backend, from what it accepts; skipped where its converter is not installed."""
    backend = registry.backend(name)
    needed = CONVERTERS.get(name)
    if needed is not None and importlib.util.find_spec(needed) is None:
        pytest.skip(f"needs {needed}")
    if backend.accepts == "network":
        return backend.lower(network(), INPUTS, "parent", out)
    return backend.lower(exported(folder), "parent", folder / "source.onnx", out)


def exported(folder: Path) -> Exported:
    from edgec.pipeline.onnx_export import export_float

    made = export_float(network(), INPUTS, folder / "source.onnx", opset=13)
    return Exported(
        parent="p",
        file=hashlib.sha256((folder / "source.onnx").read_bytes()).hexdigest(),
        size_bytes=made.size_bytes,
        opset=made.opset,
        ir=made.ir,
        precision=made.precision,
        inputs=made.inputs,
        outputs=made.outputs,
        parameters=made.parameters,
        lineage=Lineage(stage="export"),
    )


def facts(*runtimes: RuntimeFacts, machine: str = "aarch64", board: str = "unknown") -> TargetFacts:
    return TargetFacts(
        board=board,
        machine=machine,
        system="Linux",
        kernel="6",
        cpu="",
        cores=4,
        memory_bytes=None,
        disk_free_bytes=None,
        python="3.11",
        runtimes=runtimes,
    )


@backends
def test_says_what_it_is_and_has_a_device_half_of_the_same_name(name: str) -> None:
    backend = registry.backend(name)
    assert (backend.name, backend.accepts in ("onnx", "network")) == (name, True)
    assert backend.format.isalnum()
    assert backend.device_package
    runner = importlib.import_module(f"edgec.targets.agent.runners.{name}").RUNNER
    assert all(callable(getattr(runner, verb)) for verb in ("open", "infer", "prepared", "close"))


@backends
def test_support_answers_for_any_target_and_says_why_not(name: str) -> None:
    backend = registry.backend(name)
    for runtimes in ((), (RuntimeFacts(name=name, version=None, reason="needs glibc 2.28"),), (RuntimeFacts(name=name, version="0"),)):
        for machine in ("aarch64", "x86_64", "armv7l", ""):
            answer = backend.support(facts(*runtimes, machine=machine))
            assert answer.usable or (answer.reason and answer.hint)
    assert not backend.support(facts()).usable, "a target without the runtime"


@backends
@pytest.mark.parametrize("machine", ["x86_64", "aarch64", ""])
def test_widths_are_rounded_to_powers_of_two_up_to_a_block(name: str, machine: str) -> None:
    for precision in Precision:
        assert registry.backend(name).channel_multiple(machine, precision) in (1, 2, 4, 8, 16)


@backends
def test_asking_for_support_imports_nothing_heavy(name: str) -> None:
    script = f"""
import sys
from edgec.pipeline.core import registry
from edgec.pipeline.core.records import TargetFacts
backend = registry.backend({name!r})
unknown = dict(board="", machine="", system="", kernel="", cpu="", python="")
backend.support(TargetFacts(**unknown, cores=1, memory_bytes=None, disk_free_bytes=None))
heavy = {{"torch", "onnx", "onnxruntime", "numpy", "ai_edge_litert", "litert_torch", "tensorrt", "tensorrt_rtx"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@backends
def test_the_record_is_of_the_file_and_the_same_input_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    first, data = made(name)
    assert (first.file, first.size_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert (first.backend, first.parent, first.precision) == (name, "parent", Precision.FP32)
    assert lowered(name, tmp_path, tmp_path / "b.out") == first
    assert (tmp_path / "b.out").read_bytes() == data


@backends
def test_the_file_says_the_same_inputs_and_outputs_as_the_record(name: str, tmp_path: Path) -> None:
    artifact, file = written(name, tmp_path)
    info = registry.backend(name).inspect(file)
    assert (info.inputs, info.outputs) == (artifact.inputs, artifact.outputs)
    assert [spec.name for spec in (*info.inputs, *info.outputs)] == ["input", "output"]


@backends
def test_infer_gives_what_the_network_gives(name: str, tmp_path: Path) -> None:
    _, file = written(name, tmp_path)
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = network()(x).numpy()
    seen = registry.backend(name).infer(file, {"input": x.numpy()})
    assert list(seen) == ["output"]
    np.testing.assert_allclose(seen["output"], expected, rtol=1e-4, atol=1e-5)


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "junk": lambda _: b"\x00junk" * 100,
}


@backends
@pytest.mark.parametrize("fault", DAMAGED)
def test_a_damaged_file_is_one_clear_error(name: str, fault: str, tmp_path: Path) -> None:
    _, broken = written(name, tmp_path, "broken")
    broken.write_bytes(DAMAGED[fault](broken.read_bytes()))
    with pytest.raises(ModelError, match=r"broken") as caught:
        registry.backend(name).inspect(broken)
    assert caught.value.hint


@backends
def test_a_wrong_feed_is_one_clear_error(name: str, tmp_path: Path) -> None:
    _, file = written(name, tmp_path)
    for feed in ({"z": np.ones((1, 1, 8, 8), np.float32)}, {"input": np.ones((1, 1, 8, 9), np.float32)}):
        with pytest.raises(LoweringError) as caught:
            registry.backend(name).infer(file, feed)
        assert caught.value.hint


@backends
def test_a_failure_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    """The folder of the output is not there."""
    source = tmp_path / "source"
    source.mkdir()
    with pytest.raises(EdgecError):
        lowered(name, source, tmp_path / "missing" / "a.out")
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


@backends
def test_a_missing_package_comes_with_its_install_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [*sys.modules, "onnxruntime", "ai_edge_litert", "ai_edge_litert.interpreter", "ai_edge_litert.schema_py_generated"]:
        if module.partition(".")[0] in ("onnxruntime", "ai_edge_litert"):
            monkeypatch.setitem(sys.modules, module, None)
    file: Any = tmp_path / "a.onnx"
    file.write_bytes(b"")
    with pytest.raises(ToolchainMissing) as caught:
        registry.backend(name).infer(file, {})
    assert "pip install" in caught.value.hint
