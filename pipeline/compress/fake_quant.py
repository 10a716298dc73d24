"""Uniform integer grids as pure functions: choose a range, quantise, dequantise, fake-quantise with a gradient.

    q = clip(round(x / scale) + zero_point, low, high)        x_hat = (q - zero_point) * scale

Rounding is half to even and x / scale is a float32 division, as ONNX QuantizeLinear defines them, so that integers found here are the
integers that a runtime finds. Weights: signed, symmetric, one scale per output channel, [-127, 127] at 8 bit (-128 is left out, so that
a folded BatchNorm with negative gamma only flips signs). Activations: unsigned, affine, one scale per tensor, [0, 255] at 8 bit.

Reference:
    Esser et al., "Learned Step Size Quantization", 2020, arXiv:1902.08153: the gradient of the scale.
    Departs: no gradient scale factor; the scale is trained in the log domain with Adam, which is invariant to such a factor.
    Nagel et al., "A White Paper on Neural Network Quantization", 2021, arXiv:2106.08295: ranges of least mean squared error.
"""

import numpy as np
import torch
from torch import Tensor

BITS = range(2, 9)
"""Widths for which the grids are defined. Only 8 leaves the simulation."""

BINS = 2048
"""Of an activation histogram: eight bins to a step of an 8-bit grid over the same range."""

STRIDE = 4
"""Of the first search over pairs of ends: within 1 % of the error of all pairs (ResNet-20, MobileNetV2), at a tenth of their number."""

SMALLEST_SCALE = 1e-8
"""Below this a channel or tensor is taken as constantly zero."""


def limits(bits: int, *, signed: bool) -> tuple[int, int]:
    """Least and largest integer of a grid.

    Raises:
        ValueError: no such width.
    """
    if bits not in BITS:
        raise ValueError(f"{bits} bit: a grid has 2 to 8")
    return (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def centred(scale: float, zero_point: int, bits: int) -> tuple[float, int]:
    """Scale and zero point of the grid over the same range whose zero point is in the middle: as signed integers it is 0.

    A range on one side of 0 (behind a ReLU) keeps half of its steps.
    """
    middle = 2 ** (bits - 1)
    return max(zero_point, 2 * middle - 1 - zero_point) * scale / (middle - 1), middle


def quantise(x: Tensor, scale: Tensor, zero_point: int, bounds: tuple[int, int]) -> Tensor:
    """Integers (in x's float type) on the grid; `scale` broadcasts against x."""
    return torch.clamp(torch.round(x / scale) + zero_point, bounds[0], bounds[1])


def dequantise(q: Tensor, scale: Tensor, zero_point: int) -> Tensor:
    """Values that the integers stand for."""
    return (q - zero_point) * scale


def fake_quantise(x: Tensor, scale: Tensor, zero_point: int, bounds: tuple[int, int]) -> Tensor:
    """Quantise and dequantise, with gradients for x and for the scale.

    Straight-through: dx_hat/dx is 1 inside the grid's range and 0 outside. LSQ: dx_hat/dscale is round(x/scale) - x/scale inside,
    and the grid's nearer end minus the zero point outside.
    """
    v = x / scale
    rounded = v + (torch.round(v) - v).detach()
    return torch.clamp(rounded, bounds[0] - zero_point, bounds[1] - zero_point) * scale


def channelwise(scales: Tensor, weight: Tensor) -> Tensor:
    """Per-channel scales (out,) shaped to broadcast against a weight (out, …)."""
    return scales.reshape(-1, *[1] * (weight.dim() - 1))


def weight_scales(weight: Tensor, bits: int, *, candidates: int = 100) -> Tensor:
    """Scale of each output channel with the least squared error, searched from 0.4 to 1.0 of the channel's largest magnitude.

    Shapes:
        weight: (out, …); returns: (out,), positive. A channel of zeros gets SMALLEST_SCALE.
    """
    bounds = limits(bits, signed=True)
    rows = weight.detach().reshape(weight.shape[0], -1)
    full = rows.abs().amax(1).clamp_min(SMALLEST_SCALE * bounds[1]) / bounds[1]
    best, least = full, torch.full_like(full, torch.inf)
    for fraction in torch.linspace(1.0, 0.4, candidates):
        scale = full * fraction
        error = (dequantise(quantise(rows, scale[:, None], 0, bounds), scale[:, None], 0) - rows).square().sum(1)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best.clamp_min(SMALLEST_SCALE)


def affine(low: float, high: float, bits: int) -> tuple[float, int]:
    """Scale and zero point of the unsigned grid that covers [low, high] with 0 exactly on it (low <= 0 <= high)."""
    levels = limits(bits, signed=False)[1]
    scale = float(np.float32(max((high - low) / levels, SMALLEST_SCALE)))
    return scale, int(np.clip(np.rint(-low / scale), 0, levels))


def activation_grid(
    counts: np.ndarray, low: float, high: float, bits: int, *, candidates: int = 48, edges: tuple[float, float] | None = None
) -> tuple[float, int]:
    """Scale and zero point with the least squared error over a histogram.

    Both ends are searched from 0.3 to 1.0 of what was seen; an end at 0 stays there. Where neither is, every `STRIDE`th candidate of both
    comes first, then all around the best pair.

    Args:
        counts: (bins,), equal bins. Zeros do not matter: every grid holds 0 exactly, so that their bin's error is the same for all.
        low, high: least and largest value seen, with low <= 0 <= high.
        edges: of the first and of the last bin; by default `low` and `high`.
    """
    full = affine(low, high, bits)
    filled = np.flatnonzero(counts)
    if low == high or not len(filled):
        return full
    first, last = edges or (low, high)
    centres, counts = first + (last - first) / len(counts) * (filled + 0.5), counts[filled]
    fractions = np.linspace(1.0, 0.3, candidates)
    lows, highs = (low * fractions if low < 0 else np.zeros(1)), (high * fractions if high > 0 else np.zeros(1))
    levels = limits(bits, signed=False)[1]
    best, least, place = full, np.inf, (0, 0)

    def search(bottoms: range, tops: range) -> None:
        nonlocal best, least, place
        for i in bottoms:
            scales = np.maximum((highs[tops] - lows[i]) / levels, SMALLEST_SCALE).astype(np.float32).astype(np.float64)[:, None]
            zeros = np.clip(np.rint(-lows[i] / scales), 0, levels)
            values = (np.clip(np.rint(centres / scales) + zeros, 0, levels) - zeros) * scales
            errors = np.square(values - centres) @ counts
            index = int(errors.argmin())
            if errors[index] < least:
                best, least, place = (float(scales[index, 0]), int(zeros[index, 0])), float(errors[index]), (i, tops[index])

    stride = STRIDE if len(lows) > 1 and len(highs) > 1 else 1
    search(range(0, len(lows), stride), range(0, len(highs), stride))
    if stride > 1:
        search(*(range(max(0, at - stride + 1), min(len(ends), at + stride)) for at, ends in zip(place, (lows, highs), strict=True)))
    return best
