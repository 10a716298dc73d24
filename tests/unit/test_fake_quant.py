import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from edgec.pipeline.compress import fake_quant as fq


@pytest.mark.parametrize(
    ("bits", "signed", "expected"), [(8, True, (-127, 127)), (8, False, (0, 255)), (2, True, (-1, 1)), (4, False, (0, 15))]
)
def test_limits(bits: int, signed: bool, expected: tuple[int, int]) -> None:
    assert fq.limits(bits, signed=signed) == expected


@pytest.mark.parametrize("bits", [0, 1, 9])
def test_limits_refuses_a_width_without_a_grid(bits: int) -> None:
    with pytest.raises(ValueError, match="2 to 8"):
        fq.limits(bits, signed=True)


def test_fake_quantise_equals_quantise_then_dequantise() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 3
    scale, bounds = torch.tensor(0.013), (0, 255)
    expected = fq.dequantise(fq.quantise(x, scale, 120, bounds), scale, 120)
    assert torch.equal(fq.fake_quantise(x, scale, 120, bounds), expected)
    assert expected.unique().numel() <= 256


def test_rounding_is_half_to_even_as_in_onnx() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5])
    assert fq.quantise(x, torch.tensor(1.0), 0, (-127, 127)).tolist() == [0, 2, 2, 0, -2]


def test_gradients_are_straight_through_and_lsq() -> None:
    """Closed form of Esser et al. for values inside, above and below the grid."""
    x = torch.tensor([0.26, -0.31, 50.0, -50.0], requires_grad=True)
    scale = torch.tensor(0.1, requires_grad=True)
    upstream = torch.tensor([1.0, 2.0, 3.0, 5.0])
    fq.fake_quantise(x, scale, 0, (-127, 127)).backward(upstream)
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 2.0, 0.0, 0.0]
    expected = 1.0 * (3 - 2.6) + 2.0 * (-3 + 3.1) + 3.0 * 127 + 5.0 * -127
    assert scale.grad is not None
    assert scale.grad.item() == pytest.approx(expected, rel=1e-5)


def test_scale_gradient_outside_the_grid_is_the_finite_difference() -> None:
    """Where everything is clipped the function is linear in the scale, and the difference quotient is exact but for float error."""
    x = torch.full((7,), 9.0, dtype=torch.float64)

    def total(scale: Tensor) -> Tensor:
        return fq.fake_quantise(x, scale, 3, (0, 255)).square().sum()

    scale = torch.tensor(0.01, dtype=torch.float64, requires_grad=True)
    total(scale).backward()
    step = 1e-6
    numeric = (total(scale.detach() + step) - total(scale.detach() - step)) / (2 * step)
    assert scale.grad is not None
    assert scale.grad.item() == pytest.approx(numeric.item(), rel=1e-6)


def test_weight_scales_reach_the_brute_force_error_on_every_channel() -> None:
    weight = torch.randn(6, 40, 3, 3, generator=torch.Generator().manual_seed(1))
    weight *= torch.tensor([0.01, 0.1, 1.0, 5.0, 0.3, 2.0])[:, None, None, None]
    weight[3, 0, 0, 0] = 40.0  # an outlier: the best range is not the largest value
    for bits in (4, 8):
        bounds = fq.limits(bits, signed=True)
        for row, scale in zip(weight.reshape(6, -1).numpy(), fq.weight_scales(weight, bits).numpy(), strict=True):
            tried = np.abs(row).max() / bounds[1] * np.linspace(0.05, 1.05, 2000)
            assert squared_error(row, scale, 0, bounds) <= 1.1 * min(squared_error(row, s, 0, bounds) for s in tried)


def test_weight_scale_of_a_dead_channel_is_positive() -> None:
    assert fq.weight_scales(torch.zeros(2, 4), 8).tolist() == pytest.approx([fq.SMALLEST_SCALE] * 2)


@pytest.mark.parametrize("kind", ["relu", "signed", "skewed"])
def test_activation_grid_reaches_the_brute_force_error(kind: str) -> None:
    """Against every pair of 40 x 40 ends on the samples themselves. 5 % for the histogram's bins."""
    random = np.random.default_rng(2)
    x = random.standard_normal(4000) ** 3
    x = {"relu": np.maximum(x, 0), "signed": x, "skewed": np.where(x > 0, x, x / 10)}[kind]
    low, high = min(float(x.min()), 0.0), float(x.max())
    counts, _ = np.histogram(x[x != 0], fq.BINS, (low, high))
    scale, zero_point = fq.activation_grid(counts.astype(float), low, high, 8)
    ends = itertools.product(low * np.linspace(0.25, 1, 40), high * np.linspace(0.25, 1, 40))
    best = min(squared_error(x, *fq.affine(bottom, top, 8), (0, 255)) for bottom, top in ends)
    assert squared_error(x, scale, zero_point, (0, 255)) <= 1.05 * best


def test_activation_grid_holds_zero_exactly_and_starts_there_after_a_relu() -> None:
    counts = np.ones(fq.BINS)
    assert fq.activation_grid(counts, 0.0, 3.0, 8)[1] == 0
    scale, zero_point = fq.activation_grid(counts, -1.0, 3.0, 8)
    assert zero_point == pytest.approx(64, abs=2)
    assert fq.fake_quantise(torch.zeros(1), torch.tensor(scale), zero_point, (0, 255)).item() == 0.0


def test_activation_grid_of_a_constant_zero() -> None:
    assert fq.activation_grid(np.zeros(fq.BINS), 0.0, 0.0, 8) == (pytest.approx(fq.SMALLEST_SCALE), 0)


def squared_error(x: np.ndarray, scale: float, zero_point: int, bounds: tuple[int, int]) -> float:
    q = np.clip(np.rint(x / scale) + zero_point, *bounds)
    return float(np.square((q - zero_point) * scale - x).sum())
