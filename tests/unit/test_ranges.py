import numpy as np
import pytest
import torch
from nets import gratings, trained
from test_fake_quant import squared_error

from edgec.pipeline.compress.fake_quant import BINS, activation_grid, affine
from edgec.pipeline.compress.folding import fold
from edgec.pipeline.compress.ranges import Histogram, activation_grids


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
    found = activation_grids(folded, [node], list(images.split(40)), 8)[node]
    assert squared_error(flat, *found, (0, 255)) <= 1.01 * squared_error(flat, *expected, (0, 255))


@pytest.mark.parametrize("order", [1, -1])
def test_counts_are_those_of_all_values_whatever_their_order(order: int) -> None:
    """Batches that reach ever further, or ever less far, against NumPy's counts of all values in the same bins."""
    random = np.random.default_rng(0)
    batches = [(random.normal(size=3000) ** 3 * 4.0**k).astype(np.float32) for k in range(5)][::order]
    histogram = Histogram()
    for batch in batches:
        histogram.add(torch.from_numpy(batch), float(batch.min()), float(batch.max()))
    joined = np.concatenate(batches)
    expected, _ = np.histogram(joined, len(histogram.counts), histogram.edges)
    assert (histogram.low, histogram.high) == (joined.min(), joined.max())
    beside_zero = slice(-histogram.first - 1, -histogram.first + 1)
    different = histogram.counts - expected
    assert different[beside_zero].sum() == 0, "histc finds the bin in float32: what is next to nothing may fall to either side of 0"
    different[beside_zero] = 0
    assert np.abs(different).sum() <= 1e-3 * joined.size, "so may a value on another edge"
    assert histogram.counts.sum() == joined.size
    assert BINS <= (histogram.high - histogram.low) / histogram.width <= 2 * BINS


def test_a_search_in_two_steps_is_as_good_as_over_all_pairs() -> None:
    """The counts of heavy-tailed values on both sides; all 48 x 48 pairs of ends, tried one by one."""
    random = np.random.default_rng(1)
    for scale in (0.05, 0.3, 1.0):
        x = np.where((y := random.standard_t(3, 20_000)) > 0, y, y * scale)
        low, high = float(x.min()), float(x.max())
        counts, edges = np.histogram(x, BINS, (low, high))
        centres = (edges[1:] + edges[:-1]) / 2
        fractions = np.linspace(1.0, 0.3, 48)
        best = min(weighted_error(centres, counts, *affine(low * a, high * b, 8)) for a in fractions for b in fractions)
        assert weighted_error(centres, counts, *activation_grid(counts.astype(float), low, high, 8)) <= 1.01 * best


def weighted_error(x: np.ndarray, counts: np.ndarray, scale: float, zero_point: int) -> float:
    q = np.clip(np.rint(x / scale) + zero_point, 0, 255)
    return float(np.square((q - zero_point) * scale - x) @ counts)


def values_of_first_layer(images: torch.Tensor) -> torch.Tensor:
    return torch.relu(fold(trained("vgg")).get_submodule("features.0")(images))
