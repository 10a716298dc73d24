import numpy as np
import pytest
import torch
from nets import gratings, trained

from edgec.pipeline.compress.fake_quant import BINS, activation_grid
from edgec.pipeline.compress.folding import fold
from edgec.pipeline.compress.ranges import activation_grids


@pytest.mark.parametrize("node", ["x", "features_2", "features_4"])
def test_grids_are_those_of_all_batches_together(node: str) -> None:
    """Against NumPy's histogram of the values other than 0 over the joined batches."""
    folded, images = fold(trained("vgg")), gratings(90, seed=12)[0]
    values = {"x": images}
    with torch.no_grad():
        values["features_4"] = folded.get_submodule("features.4")(folded.get_submodule("features.3")(relu := values_of_first_layer(images)))
    values["features_2"] = relu
    flat = values[node].numpy().ravel()
    low, high = min(float(flat.min()), 0.0), float(flat.max())
    counts, _ = np.histogram(flat[flat != 0], BINS, (low, high))
    expected = activation_grid(counts.astype(float), low, high, 8)
    scale, zero_point = activation_grids(folded, [node], list(images.split(40)), 8)[node]
    assert (scale, zero_point) == (pytest.approx(expected[0], rel=1e-5), expected[1])


def values_of_first_layer(images: torch.Tensor) -> torch.Tensor:
    return torch.relu(fold(trained("vgg")).get_submodule("features.0")(images))
