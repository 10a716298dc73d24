"""The stages on the configuration that `make run` uses."""

from pathlib import Path

import pytest

from edgec.pipeline import stages
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
