"""The main job on a board that has TensorRT 8.2.1 by its contract (tests/tensorrt_contract.py): the board builds, keeps, loads and checks
engines through the real agent. Nothing here says what a GPU would do."""

import json
import os
from pathlib import Path

import onnx
import pytest
from conftest import Project, recipe
from tiny_networks import linear_network

BOARD = '[[target]]\nname = "nano"\ntransport = "local"\npython = "auto"\nbackend = "tensorrt"\n'
PACKAGE = """
import ctypes, sys
sys.path.insert(0, {tests!r})
from tensorrt_contract import FakeCuda, module
real = ctypes.CDLL
ctypes.CDLL = lambda name, *more, **named: FakeCuda() if name == "libcuda.so.1" else real(name, *more, **named)
globals().update(vars(module("8.2.1", fast={fast!r})), __name__="tensorrt")
"""


def board(folder: Path, root: Path, fast: tuple[str, ...]) -> dict[str, str]:
    """The environment in which Python has this TensorRT."""
    package = folder / "packages" / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(PACKAGE.format(tests=str(root / "tests"), fast=fast))
    metadata = folder / "packages" / "tensorrt-8.2.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorrt\nVersion: 8.2.1\n")
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder / "packages"), os.environ.get("PYTHONPATH", "")]))}


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_engines_are_built_on_the_board_and_deployed(precision: str, project: Project, tmp_path: Path, root: Path) -> None:
    text = recipe(targets=BOARD).replace("[quantise]", f'[quantise]\nprecision = "{precision}"')
    project.configure(text.replace("max_time_s = 0.5", "max_time_s = 3.0"))
    environment = board(tmp_path, root, ("fp16", "int8"))
    first = project.run("deploy", "--target", "nano", "--json", environment=environment)
    assert first.code == 0, first.stderr
    compressed, dense = first.document["results"]["networks"][-1], first.document["results"]["networks"][0]
    measured = compressed["measurement"]
    assert (measured["runtime"], measured["precision"]) == ("tensorrt", precision)
    assert measured["runtime_version"] == "8.2.1 (tensorrt)"
    assert dense["measurement"]["precision"] == "fp32"
    assert measured["accuracy"]["n"] == 400
    current = tmp_path / "home/.edgec/apps/shirts/current"
    assert json.loads((current / "model.engine").read_bytes())["version"] == "8.2.1"
    again = project.run("deploy", "--target", "nano", "--json", environment=environment)
    assert again.document["results"]["deployment"]["sent_bytes"] == 0, "the engine came from the store and was on the board already"


def test_a_foreign_onnx_file_is_measured_by_its_engine(project: Project, tmp_path: Path, root: Path) -> None:
    project.configure(recipe(prune=False, targets=BOARD).replace("max_time_s = 1.0", "max_time_s = 3.0"))
    environment = board(tmp_path, root, ())
    model = onnx.load(linear_network(project.folder / "net.onnx"))
    new = project.run("profile", "net.onnx", "--target", "nano", "--json", environment=environment)
    assert "tensorrt 8.2.1 there reads up to 13" in new.document["error"]["what"]
    model.opset_import[0].version = 13
    onnx.save(model, project.folder / "net.onnx")
    dry = project.run("profile", "net.onnx", "--target", "nano", "--dry-run", environment=environment)
    assert "tensorrt, 1 threads; its engine is built there first" in dry.stdout, dry.stderr
    answers = [project.run("profile", "net.onnx", "--target", "nano", "--json", environment=environment) for _ in range(2)]
    for answer in answers:
        assert answer.code == 0, answer.stderr
        record = answer.document["results"]["record"]
        assert (record["runtime"], record["runtime_version"], record["precision"]) == ("tensorrt", "8.2.1 (tensorrt)", "fp32")
        assert record["latency"]["p50_s"]["value"] > 0
    assert "build engine on nano" in answers[0].stderr
    assert "build engine on nano" not in answers[1].stderr, "it came from the store"
    without = project.run("profile", "net.onnx", "--target", "nano", "--json")
    assert without.code != 0, "never another runtime than the target's"
    assert "tensorrt" in without.document["error"]["what"].lower()


def test_a_gpu_without_int8_is_refused_with_the_nearest_precision(project: Project, tmp_path: Path, root: Path) -> None:
    project.configure(recipe(prune=False, targets=BOARD))  # [quantise] makes int8 by default
    refused = project.run("deploy", "--target", "nano", "--json", environment=board(tmp_path, root, ("fp16",)))
    assert refused.code == 5
    assert "no fast int8 arithmetic" in refused.document["error"]["what"]
    assert refused.document["error"]["context"]["nearest"] == "fp16"
    assert not (tmp_path / "home/.edgec/apps/shirts/current").exists()
