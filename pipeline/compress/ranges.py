"""Ranges of a folded network's activations on calibration images: extremes first, then a histogram between them, then the search."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
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
    """Scale and zero point of least squared error for each named node's output. The images are passed twice.

    Raises:
        CompressionError: no calibration images.
        ModelError: an activation is NaN or infinite.
    """
    if not batches:
        raise CompressionError("no calibration images", hint="the calibration split is empty, or [quantise] samples is 0")
    extremes = _Extremes(folded, names)
    for batch in batches:
        extremes.observe(batch)
    histograms = _Histograms(folded, extremes.seen)
    for batch in batches:
        histograms.observe(batch)
    return {name: activation_grid(histograms.counts[name], *extremes.seen[name], bits) for name in names}


class _Observer(fx.Interpreter):
    """Runs the float network and shows the named nodes' outputs to `see`."""

    def __init__(self, folded: fx.GraphModule, names: Sequence[str]) -> None:
        super().__init__(folded)
        self.names = frozenset(names)

    def observe(self, batch: Batch) -> None:
        with torch.no_grad():
            self.run(*inputs_from(batch))

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.names:
            self.see(n.name, value)
        return value

    @abstractmethod
    def see(self, name: str, value: Tensor) -> None: ...


class _Extremes(_Observer):
    """Least and largest value by node, with 0 always between them."""

    def __init__(self, folded: fx.GraphModule, names: Sequence[str]) -> None:
        super().__init__(folded, names)
        self.seen: dict[str, tuple[float, float]] = dict.fromkeys(names, (0.0, 0.0))

    def see(self, name: str, value: Tensor) -> None:
        low, high = (float(v) for v in value.aminmax())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ModelError(f"the network's activation {name} is not finite on calibration images", hint="check weights and preprocessing")
        self.seen[name] = (min(low, self.seen[name][0]), max(high, self.seen[name][1]))


class _Histograms(_Observer):
    """Counts in equal bins between the extremes."""

    def __init__(self, folded: fx.GraphModule, extremes: Mapping[str, tuple[float, float]]) -> None:
        super().__init__(folded, tuple(extremes))
        self.extremes = extremes
        self.counts = {name: np.zeros(BINS) for name in extremes}

    def see(self, name: str, value: Tensor) -> None:
        low, high = self.extremes[name]
        if low < high:
            for part in torch.split(value.flatten().float(), _CHUNK):
                self.counts[name] += torch.histc(part, BINS, low, high).double().numpy()
