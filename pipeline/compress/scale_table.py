"""The numbers that make a float network an integer one, as a frozen record with a JSON form.

With the folded float weights beside it the table rebuilds the quantised network exactly; an exporter needs nothing else either.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from edgec.pipeline.compress.fake_quant import BITS, limits
from edgec.pipeline.core.codec import canonical
from edgec.pipeline.core.errors import ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteScale:
    """Grid of one activation: x_hat = (q - zero_point) * scale."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    scale: float
    zero_point: int
    nodes: tuple[str, ...]
    """Graph nodes whose outputs are put on this grid: the producer, then operations that only move or select values (max-pool, flatten)."""
    bits: int = 8
    signed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightScale:
    """Grids of one layer's weight, one scale per output channel, zero point 0."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    scales: tuple[float, ...]
    input: str
    """Site that feeds the layer: its bias is on the grid of that site's scale times the weight's."""
    bits: int = 8
    signed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleTable:
    """Activation grids by site name (the producing node's), weight grids by layer name."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    sites: Mapping[str, SiteScale]
    weights: Mapping[str, WeightScale]

    def to_json(self) -> str:
        """Canonical text: equal tables give equal bytes."""
        return canonical(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ScaleTable":
        """Read a table back, exactly.

        Raises:
            ModelError: not a scale table, or a scale or zero point that no grid has.
        """
        try:
            table = TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            raise ModelError(f"not a scale table: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        table.check()
        return table

    def check(self) -> None:
        """Raise ModelError unless every scale is positive and finite, every zero point on its grid, every input a site."""
        for name, site in self.sites.items():
            _check(name, (site.scale,), site.zero_point, bits=site.bits, signed=site.signed)
        for name, weight in self.weights.items():
            _check(name, weight.scales, 0, bits=weight.bits, signed=weight.signed)
            if weight.input not in self.sites:
                raise ModelError(f"scale table: {name} is fed by {weight.input}, which has no grid")


def _check(name: str, scales: tuple[float, ...], zero_point: int, *, bits: int, signed: bool) -> None:
    if bits not in BITS:
        raise ModelError(f"scale table: {name} has {bits} bits")
    low, high = limits(bits, signed=signed)
    if not all(0.0 < scale < float("inf") for scale in scales) or not low <= zero_point <= high:
        raise ModelError(f"scale table: {name} has a scale or a zero point outside its grid")
