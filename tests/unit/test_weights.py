"""Baseline weights in the tree: each belongs to its network and scores on the small validation split what its card leads one to expect."""

import json
from pathlib import Path

import pytest
import torch

from edgec.models import train_baseline
from edgec.models.build import load_tensors, rebuild
from edgec.models.data import open_data
from edgec.pipeline.compress.train import predict, top1
from edgec.pipeline.core.records import ModelSpec, Split, TensorSpec
from edgec.pipeline.core.settings import DataSettings

FOLDER = Path(train_baseline.__file__).parent / "weights"
N = 500


@pytest.mark.parametrize("card", sorted(FOLDER.glob("*.json")), ids=lambda card: card.stem)
def test_weights_score_what_their_card_says(card: Path) -> None:
    about = json.loads(card.read_text())
    torch.set_num_threads(1)
    spec, dataset = open_data(DataSettings(name="fashion-mnist-small"))
    inputs = (TensorSpec(name="input", shape=(None, *about["input_shape"])),)
    model = ModelSpec(builder=about["builder"], arguments=about["arguments"], inputs=inputs, classes=10)
    network = rebuild(model, load_tensors(card.with_suffix(".safetensors")))
    images, labels = dataset.arrays(Split.VALIDATION)
    correct, n = top1(predict(network, images[:N], spec.preprocess), labels[:N])
    expected = about["validation"]["top1"]
    # five standard deviations of a sample of N; other preprocessing or mixed-up labels miss by far more
    assert abs(correct / n - expected) < 5 * (expected * (1 - expected) / N) ** 0.5
    assert about["command"].startswith("python -m edgec.models.train_baseline ")


def test_every_weight_file_has_a_card() -> None:
    weights = {file.stem for file in FOLDER.glob("*.safetensors")}
    assert weights == {card.stem for card in FOLDER.glob("*.json")}
    assert "resnet20-fashion-mnist" in weights
