"""Ranges of a folded network's activations on calibration images: one run that counts values in bins, then the search over the bins."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from edgec.pipeline.compress.fake_quant import BINS, activation_grid
from edgec.pipeline.core.errors import CompressionError, ModelError

_CHUNK = 2**24
"""histc counts in float32, which is exact up to here."""

Batch = Tensor | tuple[Tensor, ...]
"""What the network's forward takes: one tensor, or one for each input."""


def inputs_from(batch: Batch) -> tuple[Tensor, ...]:
    """A batch as positional arguments."""
    return batch if isinstance(batch, tuple) else (batch,)


def activation_grids(folded: fx.GraphModule, names: Sequence[str], batches: Sequence[Batch], bits: int) -> dict[str, tuple[float, int]]:
    """Scale and zero point of least squared error for each named node's output.

    Raises:
        CompressionError: no calibration images.
        ModelError: an activation is NaN or infinite.
    """
    if not batches:
        raise CompressionError("no calibration images", hint="the calibration split is empty, or [quantise] samples is 0")
    histograms = {name: Histogram() for name in names}
    observer = _Observer(folded, histograms)
    with torch.no_grad():
        for batch in batches:
            observer.run(*inputs_from(batch))
    return {name: activation_grid(h.counts, h.low, h.high, bits, edges=h.edges) for name, h in histograms.items()}


@dataclass(slots=True)
class Histogram:
    """Counts of values that come batch by batch, with 0 always between the extremes.

    Bins begin at whole multiples of a power of two, `width`. Where a batch reaches further than the bins do, 2, 4, … neighbours become
    one: the counts are those of all values together, whatever their order. There are BINS to 2 BINS between the extremes, or few more.
    """

    low: float = 0.0
    high: float = 0.0
    width: float = 0.0
    first: int = 0
    """counts[0] is of [first * width, (first + 1) * width)."""
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @property
    def edges(self) -> tuple[float, float]:
        """Of the first and of the last bin."""
        return self.first * self.width, (self.first + len(self.counts)) * self.width

    def add(self, values: Tensor, low: float, high: float) -> None:
        """Count values whose extremes are `low` and `high`."""
        self.low, self.high = min(low, self.low), max(high, self.high)
        if self.low < self.high:
            self._cover()
            for part in torch.split(values.flatten().float(), _CHUNK):
                self.counts += torch.histc(part, len(self.counts), *self.edges).double().numpy()

    def _cover(self) -> None:
        """Wider bins, and more of them, so that they hold both extremes."""
        width = max(self.width, 2.0 ** math.ceil(math.log2((self.high - self.low) / (2 * BINS))))
        first, last = math.floor(self.low / width), math.ceil(self.high / width)
        if len(self.counts):
            factor = round(width / self.width)
            before = self.first % factor
            whole = np.pad(self.counts, (before, -(before + len(self.counts)) % factor)).reshape(-1, factor).sum(axis=1)
            start = self.first // factor
            first, last = min(first, start), max(last, start + len(whole))
        counts = np.zeros(last - first)
        if len(self.counts):
            counts[start - first : start - first + len(whole)] = whole
        self.width, self.first, self.counts = width, first, counts


class _Observer(fx.Interpreter):
    """Runs the float network and counts the named nodes' outputs."""

    def __init__(self, folded: fx.GraphModule, histograms: Mapping[str, Histogram]) -> None:
        super().__init__(folded)
        self.histograms = histograms

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.histograms:
            low, high = (float(v) for v in value.aminmax())
            if not (math.isfinite(low) and math.isfinite(high)):
                raise ModelError(
                    f"the network's activation {n.name} is not finite on calibration images", hint="check weights and preprocessing"
                )
            self.histograms[n.name].add(value, low, high)
        return value
