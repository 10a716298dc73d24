"""The stages on the configuration that `make run` uses."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto
from test_capability import board

from edgec.pipeline import capability, stages
from edgec.pipeline.config import load
from edgec.pipeline.events import Silent
from edgec.pipeline.store import RunStore
from edgec.pipeline.work import Work


@pytest.fixture
def work(root: Path, tmp_path: Path) -> Work:
    config = load(root / "deploy.toml", environment={}, overrides={})
    return Work(config=config, store=RunStore(tmp_path), events=Silent())


def test_the_shipped_recipe_opens_its_data_and_its_network(work: Work) -> None:
    data = stages.open_data(work)
    dense = stages.dense_checkpoint(work, data)
    (accuracy,) = dense.accuracy
    assert accuracy.top1.value is not None
    assert accuracy.top1.value > 0.92
    assert dense.cost.parameters == 288_170
    assert work.cached == []
    assert stages.dense_checkpoint(work, data) == dense
    assert work.cached == ["dense"]


def test_code_beside_the_builder_is_part_of_a_networks_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "someones_net.py").write_text("from torch import nn\n\ndef net():\n    return nn.Linear(2, 2)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = stages.code_digest("someones_net:net", "Linear")
    assert stages.code_digest("someones_net:net", "Linear") == before
    (tmp_path / "layers.py").write_text("ACTIVATION = 'gelu'\n")
    assert stages.code_digest("someones_net:net", "Linear") != before


def test_an_int8_file_is_in_the_form_of_the_board_and_no_other_boards_file_is_taken(work: Work) -> None:
    work = replace(work, config=replace(work.config, quantise=replace(work.config.quantise, samples=32)))
    data = stages.open_data(work)
    dense = stages.dense_checkpoint(work, data)
    quantised = stages.quantised_checkpoint(work, data, dense, train=False)
    kinds = {}
    for machine in ("x86_64", "aarch64", "x86_64"):
        work.form = capability.integer_form(board("pi", machine=machine), "onnxruntime")
        made = stages.exported(work, quantised, label="compressed")
        assert made.lineage.parameters["form"] == (work.form.value if work.form else "")
        kinds[machine] = {i.data_type for i in onnx.load(work.store.file(made.file)).graph.initializer if i.name.endswith("zero_point")}
        assert stages.exported(work, dense, label="dense").lineage.parameters == {}
    assert TensorProto.UINT8 in kinds["x86_64"]
    assert kinds["aarch64"] == {TensorProto.INT8, TensorProto.INT32}, "activations and weights int8, biases int32"
    assert work.cached.count("export compressed") == 1, "the third is the first"
    assert work.cached.count("export dense") == 2, "a float file is the same for all"


def test_a_runtime_with_types_of_its_own_asks_for_no_form() -> None:
    assert capability.integer_form(board("pi"), "tensorrt") is None
    assert capability.integer_form(board("pi"), "tflite") is None
